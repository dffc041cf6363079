"""The wire shapes of the Omnia REST API, as msgspec Structs that also serve GraphQL as they are.

`client` decodes answers straight into them; `schema` reads their attributes. Facts: the vendor's
"Phone Numbers" page, filled in from its OpenAPI 1.0.0. Keys that are not listed are skipped, optional
ones may be missing or null, and an enum value of either documented set, in any case, is understood;
one never seen is UNKNOWN, so that a new value cannot fail a page of 100.
"""

import contextlib
import enum
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Self, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field


class _Vocabulary(enum.Enum):
    """Values as they are sent; read in any case."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.casefold()
        return next((member for member in cls if member.value.casefold() == folded), cls["UNKNOWN"])


class AgentStatus(_Vocabulary):
    """`Agent.status`."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    SUSPENDED = "SUSPENDED"
    UNKNOWN = "UNKNOWN"


class AgentType(_Vocabulary):
    """`Agent.type`."""

    STANDARD = "standard"
    CUSTOM = "custom"
    UNKNOWN = "UNKNOWN"


class PhoneNumberStatus(_Vocabulary):
    """`PhoneNumber.status`: the OpenAPI's set and the guide's."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    ASSIGNED = "assigned"
    UNASSIGNED = "unassigned"
    UNKNOWN = "UNKNOWN"


class Unreadable:
    """Stands in a row for a required value that the upstream left out or that cannot be read."""

    __slots__ = ()


class Agent(Struct, rename="camel", gc=False):
    """An agent, without the keys that GraphQL does not show (`standardConfig`, `actions`, …)."""

    id: str
    name: str
    status: AgentStatus
    type: AgentType
    created_at: str
    updated_at: str
    description: str | None = None
    workspace_id: str | None = None


class AgentRef(Struct):
    """An agent of which only the id is wanted, so that no REST call is."""

    id: str


class PhoneNumber(Struct, rename="camel", gc=False):
    """A phone number; `agent_id` is UNSET where the answer does not say."""

    id: str
    phone_number: str
    status: PhoneNumberStatus
    created_at: str
    friendly_name: str | None = None
    agent_id: str | UnsetType | None = UNSET
    embedded_agent: Raw | UnsetType = field(name="agent", default=UNSET)


class Pagination(Struct):
    """Where a page stands; `totalPages` and `hasMore`, of which either may come, follow from these."""

    page: int
    limit: int
    total: int


Row = TypeVar("Row", Agent, PhoneNumber)


class Page(Struct, Generic[Row]):
    """One page of a list."""

    data: list[Row]
    pagination: Pagination


class AgentNumbers(Struct):
    """All numbers of one agent; this list has no pages."""

    data: list[PhoneNumber]


class Listing(NamedTuple, Generic[Row]):
    """The rows of one answer, how many there are in all (where told), and whole agents embedded in them."""

    rows: list[Row]
    pagination: Pagination | None = None
    agents: Sequence[Agent] = ()


class ErrorDetail(Struct):
    """The inner object of the first error body."""

    message: str = ""
    code: str | None = None


class FieldProblems(Struct, rename="camel"):
    """The `details` of the second error body."""

    form_errors: list[str] = []
    field_errors: dict[str, list[str]] = {}


class ErrorBody(Struct):
    """Both error bodies: `error` is an object in the first, a sentence in the second."""

    error: ErrorDetail | str
    details: FieldProblems | None = None


class _PartOfAgent(Struct):
    id: str


_EMBEDDED = attrgetter("embedded_agent")
_AGENT = msgspec.json.Decoder(Agent)
_PART = msgspec.json.Decoder(_PartOfAgent)


def unfold(numbers: Sequence[PhoneNumber], owner: str | UnsetType | None = UNSET) -> list[Agent]:
    """Settle the numbers' `agent_id` where the answer leaves it open, and return the whole agents embedded in them.

    `owner` is the agent whose numbers they are, where that was asked for. A part of an agent (`{id, name}`)
    tells its id only; anything unreadable tells nothing.
    """
    agents: list[Agent] = []
    if owner is UNSET and not any(map(_EMBEDDED, numbers)):
        return agents  # as most pages are, by the thousand rows
    for number in numbers:
        if number.embedded_agent:
            agent = _embedded(number.embedded_agent)
            number.embedded_agent = UNSET  # it holds on to the whole answer's bytes
            if isinstance(agent, Agent):
                agents.append(agent)
            if number.agent_id is UNSET and agent:
                number.agent_id = agent.id
        if number.agent_id is UNSET:
            number.agent_id = owner
    return agents


def _embedded(raw: Raw) -> Agent | _PartOfAgent | None:
    for decode in (_AGENT.decode, _PART.decode):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return decode(raw)
    return None


Body = dict[str, Any]
"""What a write sends: only the keys that are to be set."""
