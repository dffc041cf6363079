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

from typing import ClassVar

from msgspec import Struct


class Answer(Struct, frozen=True):
    """What the upstream said of itself in an answer that failed."""

    status: int
    code: str | None = None
    request_id: str | None = None


class UpstreamError(Exception):
    """A REST call without a usable result; `code` is the GraphQL error's `extensions.code`."""

    code: ClassVar[str]
    answer: Answer | None = None
    retry_after: int | None = None
    """Seconds until another try can succeed, where known."""
    field_errors: dict[str, list[str]] | None = None


class Refused(UpstreamError):
    """Not sent."""


class InvalidInput(Refused):
    """The caller's value cannot be sent."""

    code = "BAD_USER_INPUT"


class NoKey(Refused):
    """There is no API key to send."""

    code = "UNAUTHENTICATED"


class BudgetExceeded(Refused):
    """The operation has spent its REST calls."""

    code = "REQUEST_LIMIT_EXCEEDED"


class QuotaSpent(Refused):
    """The key's quota has no call left for this."""

    code = "RATE_LIMITED"


class Rejected(UpstreamError):
    """A 4xx that the table does not name."""

    code = "UPSTREAM_ERROR"


class BadInput(Rejected):
    """400 or 422."""

    code = "BAD_USER_INPUT"


class Unauthenticated(Rejected):
    """401."""

    code = "UNAUTHENTICATED"


class PaymentRequired(Rejected):
    """402."""

    code = "PAYMENT_REQUIRED"


class Forbidden(Rejected):
    """403."""

    code = "FORBIDDEN"


class NotFound(Rejected):
    """404: none, or not visible to this key."""

    code = "NOT_FOUND"


class Conflict(Rejected):
    """409."""

    code = "CONFLICT"


class RateLimited(Rejected):
    """429."""

    code = "RATE_LIMITED"


class Failed(UpstreamError):
    """No usable answer."""

    code = "UPSTREAM_ERROR"
    reached = True
    """Whether the upstream may have seen the call, and counted it."""


class TimedOut(Failed):
    """Too late."""

    code = "UPSTREAM_TIMEOUT"


class Unavailable(Failed):
    """Nobody there, or nobody ready."""

    code = "UPSTREAM_UNAVAILABLE"


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
