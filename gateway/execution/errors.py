"""Turns whatever stopped a field or a request into a GraphQL error a caller may see.

`endpoint` calls `field_errors` for the errors of an execution and `request_error` for what failed
before it. Upstream errors keep their code and message, a caller's mistake is told as graphql-core
tells it, and everything else is masked: its text stays in our log.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from graphql import GraphQLError

from gateway.observability.logging import log
from gateway.upstream.errors import ErrorCode, UpstreamError

INTERNAL = "Something went wrong in the gateway; try again, and tell its operator the request id if it happens again."

MAX_MESSAGE = 200
"""Characters of graphql-core's message, which repeats the caller's value."""
MAX_LOCATIONS = 5
"""Locations of one error: some name every place in the document."""
MAX_REQUEST_ERRORS = 5
"""Errors of one code that belong to no field."""
MAX_FIELD_ERRORS = 100
"""Errors of one code that belong to a field: a page of rows, since clients take a null without an error for data."""
MAX_LOGGED = 5
"""Errors of ours in one answer that are logged, each with its traceback."""

Formatted = dict[str, Any]
"""A GraphQL error as it is sent: `message`, `locations`, `path`, `extensions`."""


class RequestError(Exception):
    """A request that is refused before it is executed.

    Args:
        code: `extensions.code` of its errors.
        problems: messages, or graphql-core's errors, which bring their locations.
        status: HTTP status where the request itself is at fault, whatever the answer's media type.
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
    """Format what is wrong with a request as a whole."""
    formatted: Formatted = {"message": problem} if isinstance(problem, str) else _formatted(problem)
    formatted["extensions"] = {"code": code}
    return formatted


def field_errors(errors: Sequence[GraphQLError]) -> list[Formatted]:
    """Format what went wrong while an operation was executed: so many errors of each code, and what is left out."""
    found: Counter[tuple[ErrorCode, bool]] = Counter()
    shown: list[Formatted] = []
    for error in errors:
        kind = _code(error), error.path is not None
        found[kind] += 1
        if found[kind] <= (MAX_FIELD_ERRORS if error.path else MAX_REQUEST_ERRORS):
            shown.append(field_error(error, logged=found[kind] <= MAX_LOGGED))
    for (code, of_field), count in found.items():
        if of_field and count > MAX_FIELD_ERRORS:
            problem = f"{count - MAX_FIELD_ERRORS} more errors of this code are left out: not every null has its error."
            shown.append({"message": problem, "extensions": {"code": code}})
    return shown


def field_error(error: GraphQLError, *, logged: bool = True) -> Formatted:
    """Format what went wrong while an operation was executed; mask what is not for callers, and log it."""
    formatted = _formatted(error)
    cause = error.original_error
    formatted["extensions"] = {"code": _code(error)}
    if isinstance(cause, UpstreamError):
        formatted["message"] = error.message
        formatted["extensions"] = _extensions(cause)
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
    if isinstance(cause, UpstreamError):
        return cause.code
    return ErrorCode.BAD_USER_INPUT if is_callers(error) else ErrorCode.INTERNAL_SERVER_ERROR


def is_callers(error: GraphQLError) -> bool:
    """Tell whether variables or arguments do not fit.

    graphql-core says so before any field has run, or of a field with the argument's node; what it says
    of values that we return has no node of its own.
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
