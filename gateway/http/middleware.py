"""Passes requests on by host and path, and adds the security headers and the request id to every response."""

import contextlib
from collections.abc import Collection
from typing import Final

from starlette._utils import get_route_path
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.execution.errors import INTERNAL, request_error
from gateway.http.hosts import host_check, host_header, is_address
from gateway.observability.logging import log, request_id, secret
from gateway.upstream.errors import ErrorCode

SECURITY: Final = (
    (b"cache-control", b"private, no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
)
"""On every answer that does not say otherwise."""

FRAMES: Final = (b"x-frame-options", b"DENY")
"""On HTML, for browsers that do not know `frame-ancestors`."""


_PROBES: Final = frozenset({"/healthz", "/readyz"})
"""Say nothing of value and are asked by whatever name or address a load balancer has."""
_MEASURES: Final = "/metrics"
"""Prometheus asks each replica by its address, which no page can have resolve to another."""
_NO_HOST: Final = "The Host header must be one of GATEWAY_ALLOWED_HOSTS, which the operator of this gateway sets."


class Dispatcher:
    """Passes GraphQL on to its endpoint and everything else to Starlette, by the exact path below the root path.

    In place of a stack of middleware, since each layer costs a small query time. No exception leaves it: the server, or
    the application around it, might log it with local variables, and those hold API keys.

    Args:
        app: everything else.
        graphql: the endpoint, which adds the security headers itself; but not to what CORS answers to a preflight.
        path: where the endpoint is.
        hosts: that a request may name; see `host_check`.
    """

    def __init__(self, app: ASGIApp, graphql: ASGIApp, path: str, hosts: Collection[str]) -> None:
        self._app = app
        self._graphql = graphql
        self._path = path
        self._named = None if "*" in hosts else host_check(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._pass_on(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - see above
            secret.set(_header(scope, b"x-api-key") or secret.get())
            log.error("request_failed", exc_info=error)
            with contextlib.suppress(Exception):  # the response has begun, or nobody takes it
                await failed()(scope, receive, secured(scope, send))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = get_route_path(scope)
        if not self._serves(scope, path):
            await refused(400, _NO_HOST)(scope, receive, secured(scope, send))
        elif path == self._path:
            await self._graphql(scope, receive, secured(scope, send) if scope["method"] == "OPTIONS" else send)
        elif path.endswith("\n"):  # Starlette's patterns match before it
            await refused(404, "Not Found.")(scope, receive, secured(scope, send))
        else:
            await self._app(scope, receive, secured(scope, send))

    def _serves(self, scope: Scope, path: str) -> bool:
        """Tell whether a request names a host of this gateway, or asks for what may be asked by any."""
        if self._named is None or path in _PROBES:
            return True
        host = host_header(scope["headers"])
        return self._named(host) or (path == _MEASURES and is_address(host))


def refused(status: int, problem: str) -> JSONResponse:
    """Return the response to a request that is not for GraphQL, or not for this gateway."""
    return JSONResponse({"errors": [request_error(problem, ErrorCode.BAD_REQUEST)]}, status)


def failed() -> JSONResponse:
    """Return the response where something of ours went wrong."""
    return JSONResponse({"errors": [request_error(INTERNAL, ErrorCode.INTERNAL_SERVER_ERROR)]}, 500)


def secured(scope: Scope, send: Send) -> Send:
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
    return (*SECURITY, (b"x-request-id", request_id(_header(scope, b"x-request-id")).encode()))


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")
