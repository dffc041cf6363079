"""The writes, one REST call each.

Absent, null and a value are three different things: `strawberry.Maybe` keeps them apart, and only what
was given is sent. `loaders` carry the write out and forget what it made stale.
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
    agent_id: strawberry.ID = strawberry.field(description="The agent that takes its calls.")
    friendly_name: Maybe[str | None] = strawberry.field(description="A name for people.")


@strawberry.input(description="Only the fields that are given change; `agentId: null` unassigns.")
class UpdatePhoneNumberInput:
    """Body of PUT /numbers/{id}."""

    friendly_name: Maybe[str | None] = strawberry.field(description="A name for people; null takes it away.")
    agent_id: Maybe[strawberry.ID | None] = strawberry.field(
        description="The agent that takes its calls; null unassigns."
    )
    status: Maybe[models.PhoneNumberStatus | None] = strawberry.field(description="The number's new state.")


AssignInput = Annotated[
    AssignPhoneNumberInput, strawberry.argument(description="The number, and the agent that takes its calls.")
]
UpdateInput = Annotated[UpdatePhoneNumberInput, strawberry.argument(description="What is to change; the rest stays.")]


@strawberry.type(description="The number that was added.")
class AssignPhoneNumberPayload:
    """Answer of POST /numbers."""

    phone_number: PhoneNumber = strawberry.field(description="The number as it is now.")


@strawberry.type(description="The number that was changed.")
class UpdatePhoneNumberPayload:
    """Answer of PUT /numbers/{id}."""

    phone_number: PhoneNumber = strawberry.field(description="The number as it is now.")


@strawberry.type(description="The number that was removed.")
class DeletePhoneNumberPayload:
    """Answer of DELETE /numbers/{id}."""

    deleted_phone_number_id: strawberry.ID = strawberry.field(description="The id of the number that is no more.")


@strawberry.type(description="Writes. They run one after the other, and none is ever sent twice.")
class Mutation:
    """What can be changed."""

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
        description="Remove a phone number from your workspace. One REST call.",
    )
    async def delete_phone_number(self, info: Info, id: NumberId) -> "Deleted":  # noqa: A002
        """DELETE /numbers/{id}."""
        await info.context.loaders.write(NUMBERS, id, None)
        return Deleted(id)


class Written(msgspec.Struct):
    """Source of both payloads that hold a number."""

    phone_number: models.PhoneNumberRow


class Deleted(msgspec.Struct):
    """Source of the payload that holds an id."""

    deleted_phone_number_id: str


def _given(**values: Some[Any] | None) -> models.Body:
    """Return the values that were given, null included, as the REST body spells them."""
    return {name: value.value for name, value in values.items() if value is not None}
