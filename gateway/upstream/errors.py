"""The errors of REST calls, as one tree of exceptions.

UpstreamError
├── Refused              by the gateway, before a byte was sent
│   ├── InvalidInput         BAD_USER_INPUT: an id that must not enter a path, an argument out of range
│   ├── NoKey                UNAUTHENTICATED: the client sent no key
│   ├── BudgetExceeded       REQUEST_LIMIT_EXCEEDED: the operation's own budget
│   └── QuotaSpent           RATE_LIMITED: the key's quota is known to be spent
├── Rejected             by the upstream: any 4xx
│   ├── BadInput             400, 422
│   ├── Unauthenticated      401
│   ├── PaymentRequired      402
│   ├── Forbidden            403
│   ├── NotFound             404
│   ├── Conflict             409
│   └── RateLimited          429
└── Failed               no usable response
    ├── TimedOut             an attempt's timeout or the operation's deadline
    ├── Unavailable          no connection, 502 to 504
    └── BadResponse          other 5xx, a redirect, an unreadable or oversized response
        └── Mismatch             the response to another call

Clients see the messages: they hold no URL, no body, no key and no text of another exception.
"""

from enum import StrEnum
from typing import ClassVar

from msgspec import Struct


class ErrorCode(StrEnum):
    """`extensions.code` of a GraphQL error; clients rely on these names."""

    BAD_REQUEST = "BAD_REQUEST"
    GRAPHQL_PARSE_FAILED = "GRAPHQL_PARSE_FAILED"
    GRAPHQL_VALIDATION_FAILED = "GRAPHQL_VALIDATION_FAILED"
    OPERATION_TOO_LARGE = "OPERATION_TOO_LARGE"
    PERSISTED_QUERY_NOT_FOUND = "PERSISTED_QUERY_NOT_FOUND"
    PERSISTED_QUERY_NOT_SUPPORTED = "PERSISTED_QUERY_NOT_SUPPORTED"
    BAD_USER_INPUT = "BAD_USER_INPUT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PAYMENT_REQUIRED = "PAYMENT_REQUIRED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    REQUEST_LIMIT_EXCEEDED = "REQUEST_LIMIT_EXCEEDED"
    UPSTREAM_TIMEOUT = "UPSTREAM_TIMEOUT"
    UPSTREAM_UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
    UPSTREAM_ERROR = "UPSTREAM_ERROR"
    INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"


class ErrorResponse(Struct, frozen=True):
    """What `extensions.upstream` tells of a response."""

    status: int
    code: str | None = None
    request_id: str | None = None


class UpstreamError(Exception):
    """A REST call without a usable result; `code` is the GraphQL error's `extensions.code`."""

    code: ClassVar[ErrorCode]
    response: ErrorResponse | None = None
    retry_after: int | None = None
    """Seconds until another try can succeed, if known."""
    field_errors: dict[str, list[str]] | None = None


class Refused(UpstreamError):
    """Not sent."""


class InvalidInput(Refused):
    """A value of the client cannot be sent."""

    code = ErrorCode.BAD_USER_INPUT


class NoKey(Refused):
    """The client sent no API key."""

    code = ErrorCode.UNAUTHENTICATED


class BudgetExceeded(Refused):
    """The operation has spent its REST calls."""

    code = ErrorCode.REQUEST_LIMIT_EXCEEDED


class QuotaSpent(Refused):
    """The key's quota has no call left for this."""

    code = ErrorCode.RATE_LIMITED


class Rejected(UpstreamError):
    """Any other 4xx."""

    code = ErrorCode.UPSTREAM_ERROR


class BadInput(Rejected):
    """400 or 422."""

    code = ErrorCode.BAD_USER_INPUT


class Unauthenticated(Rejected):
    """401."""

    code = ErrorCode.UNAUTHENTICATED


class PaymentRequired(Rejected):
    """402."""

    code = ErrorCode.PAYMENT_REQUIRED


class Forbidden(Rejected):
    """403."""

    code = ErrorCode.FORBIDDEN


class NotFound(Rejected):
    """404: none, or not visible to this key."""

    code = ErrorCode.NOT_FOUND


class Conflict(Rejected):
    """409."""

    code = ErrorCode.CONFLICT


class RateLimited(Rejected):
    """429."""

    code = ErrorCode.RATE_LIMITED


class Failed(UpstreamError):
    """No usable response."""

    code = ErrorCode.UPSTREAM_ERROR
    reached = True
    """Whether the upstream may have received the call, and counted it."""


class TimedOut(Failed):
    """A timeout or the deadline has passed."""

    code = ErrorCode.UPSTREAM_TIMEOUT


class Unavailable(Failed):
    """No connection, or the upstream is not ready."""

    code = ErrorCode.UPSTREAM_UNAVAILABLE


class BadResponse(Failed):
    """A response that is not of the documented shape."""


class Mismatch(BadResponse):
    """A response that does not belong to its request; its content may be another tenant's.

    Args:
        message: for clients.
        field: of the response that contradicts the request.
    """

    def __init__(self, message: str = "", field: str = "") -> None:
        super().__init__(message or "The upstream sent the answer to another call; try again later.")
        self.field = field


BY_STATUS: dict[int, type[Rejected]] = {
    400: BadInput,
    401: Unauthenticated,
    402: PaymentRequired,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: BadInput,
    429: RateLimited,
}


def in_doubt(error: Failed) -> Failed:
    """Return a failed write's error with the note that it may have been carried out."""
    if not error.reached:
        return error
    told = type(error)(f"{error} The change may have been made: read it before you try again.")
    told.response = error.response
    return told
