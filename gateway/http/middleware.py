"""Adds the security headers and the request id to every response that lacks them."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.observability.logging import request_id

SECURITY: Final = (
    (b"cache-control", b"private, no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that does not say otherwise."""

FRAMES: Final = (b"x-frame-options", b"DENY")
"""On HTML, for browsers that do not know `frame-ancestors`."""


class Door:
    """Guards the answers of all that is not GraphQL, and takes GraphQL past it to the endpoint.

    Args:
        app: everything else.
        graphql: the endpoint, whose answers guard themselves; but for what CORS says to a preflight.
        path: where the endpoint is.
    """

    def __init__(self, app: ASGIApp, graphql: ASGIApp, path: str) -> None:
        self._app = app
        self._graphql = graphql
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] != self._path:
            await self._app(scope, receive, guard(scope, send))
        else:
            await self._graphql(scope, receive, guard(scope, send) if scope["method"] == "OPTIONS" else send)


def guard(scope: Scope, send: Send) -> Send:
    """Return a `send` that adds the headers an answer lacks."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            html = any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers)
            lacking = (*_guards(scope), FRAMES) if html else _guards(scope)
            headers += [(name, value) for name, value in lacking if name not in present]
            message = {**message, "headers": headers}
        await send(message)

    return guarded


def _guards(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    """Return what every answer to this request carries: `SECURITY`, and the request id."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return (*SECURITY, (b"x-request-id", request_id(given.decode("latin-1")).encode()))
