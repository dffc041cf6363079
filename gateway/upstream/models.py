"""The rows of the REST API, as msgspec Structs that also serve GraphQL as they are.

Facts: the vendor's "Phone Numbers" page, filled in from its OpenAPI 1.0.0. Keys that are not listed are skipped,
optional ones may be missing or null. An enum value of either documented set is read in any case; an unknown one is
UNKNOWN, so that a new value cannot fail a page of 100.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field

Timestamp = Annotated[str, "RFC 3339"]
"""A time as the upstream wrote it."""


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
    """Replaces a required value that the upstream left out or that cannot be read."""

    __slots__ = ()


class AgentRow(Struct, rename="camel", gc=False):
    """An agent, without the keys that GraphQL does not show (`standardConfig`, `actions`, …)."""

    id: str
    name: str
    status: AgentStatus
    type: AgentType
    created_at: Timestamp
    updated_at: Timestamp
    description: str | None = None
    workspace_id: str | None = None


class PhoneNumberRow(Struct, rename="camel", gc=False):
    """A phone number. `owner_id` is the id of its agent, UNSET if the response does not say."""

    id: str
    phone_number: str
    status: PhoneNumberStatus
    created_at: Timestamp
    friendly_name: str | None = None
    owner_id: str | UnsetType | None = field(name="agentId", default=UNSET)
    embedded_owner: Raw | UnsetType = field(name="agent", default=UNSET)


class RowRef(Struct):
    """A row of which only the id is wanted, so that no REST call is needed."""

    id: str


class Pagination(Struct, rename="camel"):
    """Position of a page. `totalPages` and `hasMore`, of which either may be sent, should follow from the others."""

    page: int
    limit: int
    total: int
    """A negative one is unknown."""
    total_pages: int | None = None
    has_more: bool | None = None
    """After `resources.believed`: whether `total` is only the least there can be."""


Row = TypeVar("Row")


class PageBody(Struct, Generic[Row]):
    """One page of a list."""

    data: list[Row]
    pagination: Pagination


class RowsBody(Struct, Generic[Row]):
    """All rows of one owner; this list has no pages, so that `pagination` makes it doubtful."""

    data: list[Row]
    pagination: dict[str, Any] | None = None


class Listing(NamedTuple, Generic[Row]):
    """The rows of one response, its pagination (if it has pages), and whole owners embedded in the rows."""

    rows: list[Row]
    pagination: Pagination | None = None
    owners: Sequence[Any] = ()


class ErrorDetail(Struct):
    """The inner object of the first error body."""

    message: str = ""
    code: str | None = None


class ErrorBody(Struct):
    """Both error bodies: `error` is an object in the first, a string in the second."""

    error: ErrorDetail | str
    details: Any = None
    """`{formErrors: [str], fieldErrors: {field: [str]}}`, as documented; some write a string in place of a list."""


Body = dict[str, Any]
"""The JSON body of a write: only the keys that are to be set."""
