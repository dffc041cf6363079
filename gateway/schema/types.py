"""The object types of the GraphQL schema.

Their sources are the upstream's rows or windows of them: a plain field is an attribute. `Agent.numbers` and
`PhoneNumber.agent` are one loader call each, for one object or, in compiled execution, for many. Descriptions are for
frontend developers and say what a field costs in REST calls.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NewType, TypeVar

import strawberry
from strawberry import UNSET, Parent

from gateway.schema.context import Info, Look, only
from gateway.upstream import models
from gateway.upstream.errors import InvalidInput
from gateway.upstream.resources import AGENTS, NUMBERS

DateTime = NewType("DateTime", str)
T = TypeVar("T")

SCALARS: dict[object, Any] = {
    DateTime: strawberry.scalar(
        name="DateTime",
        description="RFC 3339, as the upstream sends it.",
        serialize=str,
        parse_value=str,
    )
}


def _enum(cls: Any, description: str, values: dict[str, str]) -> None:
    """Make an enum of the upstream a GraphQL enum with described values."""
    strawberry.enum(cls, description=description)
    for value in cls.__strawberry_definition__.values:
        value.description = values[value.name]


_UNKNOWN = "A value that this gateway does not know; the upstream may have added it. Not accepted as an argument."

_enum(
    models.AgentStatus,
    "Whether an agent takes calls.",
    {
        "ACTIVE": "Takes calls.",
        "INACTIVE": "Switched off.",
        "SUSPENDED": "Stopped by the vendor.",
        "UNKNOWN": _UNKNOWN,
    },
)
_enum(
    models.AgentType,
    "How an agent is built.",
    {
        "STANDARD": "Configured in the vendor's dashboard.",
        "CUSTOM": "Provided by the customer.",
        "UNKNOWN": _UNKNOWN,
    },
)
_enum(
    models.PhoneNumberStatus,
    "A number's state, from either of the two sets that the upstream uses.",
    {
        "ACTIVE": "In service.",
        "INACTIVE": "Out of service.",
        "ASSIGNED": "Assigned to an agent.",
        "UNASSIGNED": "Not assigned to an agent.",
        "UNKNOWN": _UNKNOWN,
    },
)


def known(*values: object) -> None:
    """Refuse UNKNOWN as an argument.

    Raises:
        InvalidInput: one of the values is an enum's UNKNOWN.
    """
    if any(getattr(value, "name", None) == "UNKNOWN" for value in values):
        raise InvalidInput("UNKNOWN stands for values the gateway does not know and cannot be asked for; leave it out.")


async def _agent_of(root: Parent[models.PhoneNumberRow], info: Info) -> models.AgentRow | models.RowRef | None:
    """Load a number's agent; without a call if only its id is selected."""
    loaders = info.context.loaders
    (id_,) = await loaders.owner_ids(NUMBERS, [root])
    if isinstance(id_, Exception):
        raise id_
    if id_ is None:
        return None
    return loaders.ref(AGENTS, id_) if only(info, {"id"}) else await loaders.objects(AGENTS).load(id_)


async def _agents_of(
    look: Look, numbers: Sequence[models.PhoneNumberRow]
) -> Sequence[models.AgentRow | models.RowRef | Exception | None]:
    """Do `_agent_of` for many numbers; a failure is an exception in its place."""
    loaders = look.context.loaders
    ids = await loaders.owner_ids(NUMBERS, numbers)
    found: dict[Any, Any] = dict(zip(ids, ids, strict=True))
    distinct = [id_ for id_ in found if isinstance(id_, str)]
    if only(look, {"id"}):
        found.update((id_, loaders.ref(AGENTS, id_)) for id_ in distinct)
    else:
        found.update(zip(distinct, await loaders.objects(AGENTS).load_batch(distinct), strict=True))
    return list(map(found.__getitem__, ids))


async def _numbers_of(
    root: Parent[models.AgentRow],
    info: Info,
    status: Annotated[
        models.PhoneNumberStatus | None,
        strawberry.argument(description="Only numbers in this state. Costs no additional REST call."),
    ] = UNSET,
) -> list[models.PhoneNumberRow] | None:
    """Load an agent's numbers, those in one state if it is given."""
    known(status)
    return _in_state(await info.context.loaders.owned(NUMBERS).load(root.id), status)


async def _numbers_of_all(
    look: Look, agents: Sequence[models.AgentRow | models.RowRef], status: models.PhoneNumberStatus | None = None
) -> Sequence[list[models.PhoneNumberRow] | Exception | None]:
    """Do `_numbers_of` for many agents; a failure is an exception in its place."""
    known(status)
    found = await look.context.loaders.owned(NUMBERS).load_batch([agent.id for agent in agents])
    return [_in_state(numbers, status) for numbers in found] if status else found


def _in_state(numbers: T, status: models.PhoneNumberStatus | None) -> T | list[models.PhoneNumberRow]:
    """Return the numbers in a state; without a state, or if they are not a list, return the argument."""
    if not status or not isinstance(numbers, list):
        return numbers
    return [number for number in numbers if number.status is status]


@strawberry.type(description="A phone number of your workspace.")
class PhoneNumber:
    """Reads a `models.PhoneNumberRow`."""

    id: strawberry.ID = strawberry.field(description="Id, as the upstream writes it.")
    phone_number: str = strawberry.field(description="The number in E.164, such as +4930123456.")
    friendly_name: str | None = strawberry.field(description="Human-readable label.")
    status: models.PhoneNumberStatus = strawberry.field(description="State of the number.")
    created_at: DateTime = strawberry.field(description="Creation time.")

    agent = strawberry.field(
        resolver=_agent_of,
        metadata={"batch": _agents_of},
        graphql_type=Annotated["Agent", strawberry.lazy("gateway.schema.types")] | None,
        description="The assigned agent; null if unassigned. Selecting only `id` costs no REST call; more costs at"
        " most one for each distinct agent, and none for agents already listed in the same operation.",
    )


@strawberry.type(description="A voice agent of your workspace.")
class Agent:
    """Reads a `models.AgentRow`."""

    id: strawberry.ID = strawberry.field(description="Id, as the upstream writes it.")
    name: str = strawberry.field(description="Name of the agent.")
    description: str | None = strawberry.field(description="Purpose of the agent.")
    status: models.AgentStatus = strawberry.field(description="Whether the agent takes calls.")
    type: models.AgentType = strawberry.field(description="How the agent is built.")
    workspace_id: strawberry.ID | None = strawberry.field(description="The workspace that owns the agent.")
    created_at: DateTime = strawberry.field(description="Creation time.")
    updated_at: DateTime = strawberry.field(description="Time of the last change.")

    numbers = strawberry.field(
        resolver=_numbers_of,
        metadata={"batch": _numbers_of_all},
        graphql_type=list[PhoneNumber] | None,
        description="The numbers assigned to this agent; all of them. For many agents at once the gateway reads the"
        " workspace's list of numbers, 100 per call, if that costs less than one call for each agent.",
    )


@strawberry.type(description="Position of a page in its list.")
class PageInfo:
    """Reads a `pagination.WindowInfo`."""

    has_next_page: bool = strawberry.field(description="Whether there are more rows after endCursor.")
    has_previous_page: bool = strawberry.field(description="Whether there are more rows before startCursor.")
    start_cursor: str | None = strawberry.field(description="Cursor of the first edge; null on an empty page.")
    end_cursor: str | None = strawberry.field(
        description="Cursor of the last edge; pass it as `after` to get the next page."
    )


@strawberry.type(description="An agent in a list.")
class AgentEdge:
    """Reads a `pagination.Edge`."""

    node: Agent = strawberry.field(description="The agent.")
    cursor: str = strawberry.field(description="Opaque position in the list with these filters.")


@strawberry.type(description="A page of agents. One REST call, at most two.")
class AgentConnection:
    """Reads a `pagination.Window`."""

    edges: list[AgentEdge] = strawberry.field(description="The agents with their cursors.")
    nodes: list[Agent] = strawberry.field(description="The agents.")
    page_info: PageInfo = strawberry.field(description="Position of this page in the list.")
    total_count: int = strawberry.field(description="Agents in the list, on all pages. Costs no additional REST call.")


@strawberry.type(description="A phone number in a list.")
class PhoneNumberEdge:
    """Reads a `pagination.Edge`."""

    node: PhoneNumber = strawberry.field(description="The number.")
    cursor: str = strawberry.field(description="Opaque position in the list with these filters.")


@strawberry.type(description="A page of phone numbers. One REST call, at most two.")
class PhoneNumberConnection:
    """Reads a `pagination.Window`."""

    edges: list[PhoneNumberEdge] = strawberry.field(description="The numbers with their cursors.")
    nodes: list[PhoneNumber] = strawberry.field(description="The numbers.")
    page_info: PageInfo = strawberry.field(description="Position of this page in the list.")
    total_count: int = strawberry.field(description="Numbers in the list, on all pages. Costs no additional REST call.")


@strawberry.type(description="Quota of your API key, as the upstream last reported it.")
class RateLimit:
    """Reads a `quota.QuotaState`."""

    limit: int = strawberry.field(description="REST calls per hour.")
    remaining: int = strawberry.field(description="REST calls left until `resetAt`.")
    reset_at: DateTime = strawberry.field(description="Time at which the quota is reset.")
