"""What can go wrong between the gateway and the REST API, as one tree of exceptions.

UpstreamError
├── Refused              by the gateway, before a byte was sent
│   ├── InvalidInput         BAD_USER_INPUT: an id that must not enter a path, an argument out of range
│   ├── NoKey                UNAUTHENTICATED: the caller sent no key
│   ├── BudgetExceeded       REQUEST_LIMIT_EXCEEDED: the operation's own budget
│   └── QuotaSpent           RATE_LIMITED: the key's quota is known to be spent
├── Rejected             by the upstream, in words: any 4xx
│   ├── BadInput             400, 422
│   ├── Unauthenticated      401
│   ├── PaymentRequired      402
│   ├── Forbidden            403
│   ├── NotFound             404
│   ├── Conflict             409
│   └── RateLimited          429
└── Failed               no usable answer
    ├── TimedOut             an attempt's timeout or the operation's deadline
    ├── Unavailable          no connection, 502 to 504
    └── BadAnswer            other 5xx, a redirect, an unreadable or oversized answer
        └── Mismatch             the answer to another call

`client` raises them, `errors` turns them into GraphQL errors. Messages may be shown to callers: they
hold no URL, no body, no key and no text of another exception. Codes: design table in the README.
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


class Answer(Struct, frozen=True):
    """What the upstream said of itself in an answer that failed."""

    status: int
    code: str | None = None
    request_id: str | None = None


class UpstreamError(Exception):
    """A REST call without a usable result; `code` is the GraphQL error's `extensions.code`."""

    code: ClassVar[ErrorCode]
    answer: Answer | None = None
    retry_after: int | None = None
    """Seconds until another try can succeed, where known."""
    field_errors: dict[str, list[str]] | None = None


class Refused(UpstreamError):
    """Not sent."""


class InvalidInput(Refused):
    """The caller's value cannot be sent."""

    code = ErrorCode.BAD_USER_INPUT


class NoKey(Refused):
    """There is no API key to send."""

    code = ErrorCode.UNAUTHENTICATED


class BudgetExceeded(Refused):
    """The operation has spent its REST calls."""

    code = ErrorCode.REQUEST_LIMIT_EXCEEDED


class QuotaSpent(Refused):
    """The key's quota has no call left for this."""

    code = ErrorCode.RATE_LIMITED


class Rejected(UpstreamError):
    """A 4xx that the table does not name."""

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
    """No usable answer."""

    code = ErrorCode.UPSTREAM_ERROR
    reached = True
    """Whether the upstream may have seen the call, and counted it."""


class TimedOut(Failed):
    """Too late."""

    code = ErrorCode.UPSTREAM_TIMEOUT


class Unavailable(Failed):
    """Nobody there, or nobody ready."""

    code = ErrorCode.UPSTREAM_UNAVAILABLE


class BadAnswer(Failed):
    """Answered, but not with what the documents promise."""


class Mismatch(BadAnswer):
    """An answer that does not belong to its request; whatever it says may be another tenant's.

    Args:
        message: for callers.
        field: of the answer that contradicts the request.
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
    """Return a failed write's error with what its caller must know: it may have been carried out."""
    if not error.reached:
        return error
    told = type(error)(f"{error} The change may have been made: read it before you try again.")
    told.answer = error.answer
    return told
