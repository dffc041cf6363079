"""The root fields of Mutation, each of which makes one REST call.

`strawberry.Maybe` distinguishes an absent value from null; only values that the client gave are sent.
"""

from typing import Annotated, Any

import msgspec
import strawberry
from strawberry import Maybe, Some

from gateway.schema.context import Info
from gateway.schema.queries import NumberId
from gateway.schema.types import PhoneNumber, known
from gateway.upstream import models
from gateway.upstream.errors import InvalidInput
from gateway.upstream.resources import NUMBERS


@strawberry.input(description="A number to add to your workspace.")
class AssignPhoneNumberInput:
    """Body of POST /numbers."""

    phone_number: str = strawberry.field(description="The number in E.164, such as +4930123456.")
    agent_id: strawberry.ID = strawberry.field(description="Agent that takes its calls.")
    friendly_name: Maybe[str | None] = strawberry.field(description="Human-readable label.")


@strawberry.input(description="Only the fields that are given change; `agentId: null` unassigns.")
class UpdatePhoneNumberInput:
    """Body of PUT /numbers/{id}."""

    friendly_name: Maybe[str | None] = strawberry.field(description="Human-readable label; null removes it.")
    agent_id: Maybe[strawberry.ID | None] = strawberry.field(
        description="Agent that takes its calls; null unassigns the number."
    )
    status: Maybe[models.PhoneNumberStatus | None] = strawberry.field(description="New state of the number.")


AssignInput = Annotated[
    AssignPhoneNumberInput, strawberry.argument(description="The number, and the agent that takes its calls.")
]
UpdateInput = Annotated[UpdatePhoneNumberInput, strawberry.argument(description="Fields to change; the others stay.")]


@strawberry.type(description="The number that was added.")
class AssignPhoneNumberPayload:
    """Payload of assignPhoneNumber."""

    phone_number: PhoneNumber = strawberry.field(description="The number after the change.")


@strawberry.type(description="The number that was changed.")
class UpdatePhoneNumberPayload:
    """Payload of updatePhoneNumber."""

    phone_number: PhoneNumber = strawberry.field(description="The number after the change.")


@strawberry.type(description="The number that was deleted.")
class DeletePhoneNumberPayload:
    """Payload of deletePhoneNumber."""

    deleted_phone_number_id: strawberry.ID = strawberry.field(description="Id of the deleted number.")


@strawberry.type(description="Writes. They run one after the other; none is ever sent twice.")
class Mutation:
    """The root fields of mutations."""

    @strawberry.mutation(
        graphql_type=AssignPhoneNumberPayload | None,
        description="Add a phone number and assign it to an agent. One REST call.",
    )
    async def assign_phone_number(self, info: Info, input: AssignInput) -> "Written":  # noqa: A002
        """POST /numbers."""
        body = {"phoneNumber": input.phone_number, "agentId": input.agent_id}
        body |= _given(friendlyName=input.friendly_name)
        return Written(await info.context.loaders.write(NUMBERS, None, body))

    @strawberry.mutation(
        graphql_type=UpdatePhoneNumberPayload | None,
        description="Change a phone number. One REST call.",
    )
    async def update_phone_number(self, info: Info, id: NumberId, input: UpdateInput) -> "Written":  # noqa: A002
        """PUT /numbers/{id}."""
        body = _given(friendlyName=input.friendly_name, agentId=input.agent_id, status=input.status)
        known(body.get("status"))
        if not body:
            raise InvalidInput("input changes nothing; give at least one of friendlyName, agentId and status.")
        return Written(await info.context.loaders.write(NUMBERS, id, body))

    @strawberry.mutation(
        graphql_type=DeletePhoneNumberPayload | None,
        description="Delete a phone number from your workspace. One REST call.",
    )
    async def delete_phone_number(self, info: Info, id: NumberId) -> "Deleted":  # noqa: A002
        """DELETE /numbers/{id}."""
        await info.context.loaders.write(NUMBERS, id, None)
        return Deleted(id)


class Written(msgspec.Struct):
    """Source of the payloads with a number."""

    phone_number: models.PhoneNumberRow


class Deleted(msgspec.Struct):
    """Source of the payload with an id."""

    deleted_phone_number_id: str


def _given(**values: Some[Any] | None) -> models.Body:
    """Return the values that the client gave, null included, by their keys in the REST body."""
    return {name: value.value for name, value in values.items() if value is not None}
