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


def field_errors(errors: Sequence[GraphQLError]) -> list[Formatted]:
    """Format the errors of an operation: a limited number of each code, and how many are left out."""
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
    """Format one error of an operation; an internal error is masked and logged."""
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
