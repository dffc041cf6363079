"""Turns whatever stopped a field or a request into a GraphQL error a caller may see.

`endpoint` calls `field_error` for each error of an execution and `request_error` for what failed
before it. Upstream errors keep their code and message, a caller's mistake is told as graphql-core
tells it, and everything else is masked: its text stays in our log.
"""

from typing import Any

from graphql import GraphQLError

from gateway.observability.logging import log
from gateway.upstream.errors import UpstreamError

INTERNAL = "Something went wrong in the gateway; try again, and tell its operator the request id if it happens again."

MAX_MESSAGE = 500
"""Characters of graphql-core's message, which repeats the caller's value."""

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
        self, code: str, *problems: str | GraphQLError, status: int | None = None, allow: str | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.allow = allow
        self.errors = [request_error(problem, code) for problem in problems]


def request_error(problem: str | GraphQLError, code: str) -> Formatted:
    """Format what is wrong with a request as a whole."""
    formatted: Formatted = {"message": problem} if isinstance(problem, str) else dict(problem.formatted)
    formatted["extensions"] = {"code": code}
    return formatted


def field_error(error: GraphQLError) -> Formatted:
    """Format what went wrong while an operation was executed; mask what is not for callers."""
    formatted: Formatted = dict(error.formatted)
    cause = error.original_error
    if isinstance(cause, UpstreamError):
        formatted["extensions"] = _extensions(cause)
    elif _is_callers(error):
        formatted["message"] = error.message[:MAX_MESSAGE]
        formatted["extensions"] = {"code": "BAD_USER_INPUT"}
    else:
        log.error("field_failed", path=error.path, exc_info=cause or error)
        formatted["message"] = INTERNAL
        formatted["extensions"] = {"code": "INTERNAL_SERVER_ERROR"}
    return formatted


def _is_callers(error: GraphQLError) -> bool:
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
    if cause.answer:
        answer = {"status": cause.answer.status, "code": cause.answer.code, "requestId": cause.answer.request_id}
        extensions["upstream"] = {name: value for name, value in answer.items() if value is not None}
    return extensions
