"""Formats exceptions as GraphQL errors that clients may see.

Upstream errors keep their code and message, and a client's mistake keeps graphql-core's message. Everything else is
masked; its text appears only in the log.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError

from gateway.observability.logging import log
from gateway.upstream.errors import ErrorCode, UpstreamError

INTERNAL = "Something went wrong in the gateway; try again, and tell its operator the request id if it happens again."

MAX_MESSAGE = 200
"""Characters of graphql-core's messages, which repeat the client's values."""
MAX_LOCATIONS = 5
"""Locations of one error; some errors have one for each node of the document."""
MAX_REQUEST_ERRORS = 5
"""Errors of one code without a path."""
MAX_FIELD_ERRORS = 100
"""Errors of one code with a path: as many as a page has rows, because clients take a null without an error for data."""
MAX_FAILURES = 2000
"""Errors of all codes after which an operation that graphql-core executes ends: a page of rows for each root field."""
MAX_LOGGED = 5
"""Internal errors of one response that are logged, each with its traceback."""

Formatted = dict[str, Any]
"""A GraphQL error as it is sent: `message`, `locations`, `path`, `extensions`."""


class RequestError(Exception):
    """A request is refused before it is executed.

    Args:
        code: `extensions.code` of its errors.
        problems: messages, or graphql-core's errors with their locations.
        status: HTTP status for every media type; None if it depends on the media type.
        allow: methods for the `Allow` header of a 405.
    """

    def __init__(
        self, code: ErrorCode, *problems: str | GraphQLError, status: int | None = None, allow: str | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.allow = allow
        self.errors = [request_error(problem, code) for problem in problems]


def request_error(problem: str | GraphQLError, code: ErrorCode) -> Formatted:
    """Format an error of a whole request."""
    formatted: Formatted = {"message": problem} if isinstance(problem, str) else _formatted(problem)
    formatted["extensions"] = {"code": code}
    return formatted


class Summary(Exception):
    """What is told of an operation's errors as a whole; the message may be shown to clients."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyErrors(Exception):
    """The operation has failed at more than `MAX_FAILURES` places."""

    @property
    def summary(self) -> GraphQLError:
        """The error that tells of it."""
        problem = (
            f"The operation was ended because it failed at more than {MAX_FAILURES} places. Correct what the other"
            " errors tell, nest fewer lists, or select fewer aliases. What a mutation wrote stays written."
        )
        return GraphQLError(problem, original_error=Summary(ErrorCode.OPERATION_TOO_LARGE, problem))


class Failures:
    """The field errors of one operation: `MAX_FIELD_ERRORS` of each code are made, the others only counted."""

    def __init__(self) -> None:
        self._found: Counter[ErrorCode] = Counter()
        self._executed = 0
        self.made: list[GraphQLError] = []
        """Those of graphql-core's executor."""

    def room(self, code: ErrorCode, count: int = 1) -> int:
        """Count errors of a code, and return how many of them are to be made."""
        found = self._found[code]
        self._found[code] += count
        return max(0, min(count, MAX_FIELD_ERRORS - found))

    def is_full(self, code: ErrorCode) -> bool:
        """Tell whether no more errors of a code are to be made."""
        return self._found[code] >= MAX_FIELD_ERRORS

    def check(self) -> None:
        """Count an error of graphql-core's executor, where each takes its time.

        Raises:
            TooManyErrors: there are.
        """
        self._executed += 1
        if self._executed > MAX_FAILURES:
            raise TooManyErrors

    def left_out(self) -> list[GraphQLError]:
        """Return an error for each code of which errors are left out."""
        summaries = [
            Summary(
                code, f"{count - MAX_FIELD_ERRORS} more errors of this code are left out: not every null has its error."
            )
            for code, count in self._found.items()
            if count > MAX_FIELD_ERRORS
        ]
        return [GraphQLError(str(summary), original_error=summary) for summary in summaries]


def code_of(raw: Exception) -> ErrorCode:
    """Return the code of what a field raised, or of the error that was made of it."""
    cause = (raw.original_error or raw) if isinstance(raw, GraphQLError) else raw
    if isinstance(cause, UpstreamError | Summary):
        return cause.code
    by_caller = isinstance(cause, GraphQLError) and cause.nodes
    return ErrorCode.BAD_USER_INPUT if by_caller else ErrorCode.INTERNAL_SERVER_ERROR


def field_errors(errors: Sequence[GraphQLError]) -> list[Formatted]:
    """Format the errors of an operation; of those without a path a limited number of each code."""
    found: Counter[tuple[ErrorCode, bool]] = Counter()
    shown: list[Formatted] = []
    for error in errors:
        kind = _code(error), error.path is not None
        found[kind] += 1
        if error.path or found[kind] <= MAX_REQUEST_ERRORS:
            shown.append(field_error(error, logged=found[kind] <= MAX_LOGGED))
    return shown


def field_error(error: GraphQLError, *, logged: bool = True) -> Formatted:
    """Format one error of an operation; an internal error is masked and logged."""
    formatted = _formatted(error)
    cause = error.original_error
    formatted["extensions"] = {"code": _code(error)}
    if isinstance(cause, UpstreamError):
        formatted["message"] = error.message
        formatted["extensions"] = _extensions(cause)
    elif isinstance(cause, Summary):
        formatted["message"] = error.message
    elif not is_callers(error):
        formatted["message"] = INTERNAL
        if logged:
            log.error("field_failed", path=error.path, exc_info=cause or error)
    return formatted


def _formatted(error: GraphQLError) -> Formatted:
    formatted: Formatted = dict(error.formatted)
    formatted["message"] = error.message[:MAX_MESSAGE]
    if error.locations:
        formatted["locations"] = formatted["locations"][:MAX_LOCATIONS]
    return formatted


def _code(error: GraphQLError) -> ErrorCode:
    cause = error.original_error
    if isinstance(cause, UpstreamError | Summary):
        return cause.code
    return ErrorCode.BAD_USER_INPUT if is_callers(error) else ErrorCode.INTERNAL_SERVER_ERROR


def is_callers(error: GraphQLError) -> bool:
    """Return whether a client's variables or arguments caused an error.

    Such an error of graphql-core has no path, or its cause has the argument's node. An error in a value that the
    gateway returned has neither.
    """
    cause = error.original_error
    if cause is not None and not isinstance(cause, GraphQLError):
        return False
    return error.path is None or bool(cause and cause.nodes)


def _extensions(cause: UpstreamError) -> dict[str, Any]:
    extensions: dict[str, Any] = {"code": cause.code}
    if cause.retry_after is not None:
        extensions["retryAfter"] = cause.retry_after
    if cause.field_errors:
        extensions["fieldErrors"] = cause.field_errors
    if cause.response:
        answer = {"status": cause.response.status, "code": cause.response.code, "requestId": cause.response.request_id}
        extensions["upstream"] = {name: value for name, value in answer.items() if value is not None}
    return extensions
