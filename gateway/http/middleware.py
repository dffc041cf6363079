"""ASGI middleware: security headers, request ids, log line and metrics, allowed hosts."""

import contextlib
import random
import re
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict
from starlette._utils import get_route_path
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.execution.errors import INTERNAL, request_error
from gateway.http.hosts import MAX_HOST, host_check, is_address
from gateway.observability.logging import MAX_NAME, log, secret
from gateway.observability.metrics import Metrics
from gateway.upstream.client import Session
from gateway.upstream.errors import ErrorCode

SECURITY: Final = (
    (b"cache-control", b"private, no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept, Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_PROBES: Final = frozenset({"/healthz", "/readyz"})
_METRICS: Final = "/metrics"


class SecurityHeaders:
    """Adds the headers of `SECURITY` to each response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                names = dict(headers)
                message["headers"] = [*headers, *[header for header in SECURITY if header[0] not in names]]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def request_id(given: bytes = b"") -> str:
    """Return the client's request id if it is 1 to 64 letters, digits, `.`, `_` or `-`, else a new one."""
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


class RequestRecord(Struct):
    """What the log and the metrics tell of one GraphQL request."""

    request_id: str
    method: str
    started: float = field(default_factory=time.perf_counter)
    status: int | None = None
    graphql: bool = False
    """Whether this is a GraphQL request; others are neither logged nor counted."""
    session: Session | None = None
    type: str | None = None
    """`query`, `mutation` or `batch`."""
    name: str | None = None
    """Of the operation."""
    operations: int | None = None
    """Number of operations in a batch."""
    codes: Sequence[str] = ()
    """The code of each error."""


class RequestLogging:
    """Gives each request an id; logs and counts GraphQL requests; turns exceptions into responses.

    `scope["gateway.record"]` is the request's `RequestRecord`. No exception leaves this middleware: a server or an
    application around it might log it with local variables, which hold API keys.

    Args:
        app: the application.
        metrics: the counters.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        record = RequestRecord(request_id(given.get(b"x-request-id", b"")), scope["method"])
        scope["gateway.record"] = record

        async def send_logged(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if record.graphql or b"x-request-id" not in dict(headers):
                    message["headers"] = [*headers, (b"x-request-id", record.request_id.encode())]
                self._finish(record, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_logged)
        except Exception as error:  # noqa: BLE001 - see the class
            secret.set(given.get(b"x-api-key", b"").decode("latin-1") or secret.get())
            log.error("request_failed", request_id=record.request_id, exc_info=error)
            record.codes = [ErrorCode.INTERNAL_SERVER_ERROR.value]
            response = error_response(500, INTERNAL, ErrorCode.INTERNAL_SERVER_ERROR)
            with contextlib.suppress(Exception):  # the response has begun, or the client has disconnected
                await response(scope, receive, send_logged)
        self._finish(record, 499)

    def _finish(self, record: RequestRecord, status: int) -> None:
        """Log and count a GraphQL request once all its REST calls have ended; writes continue after a disconnect."""
        if record.status is not None:
            return
        record.status = status
        if not record.graphql:
            return
        seconds = time.perf_counter() - record.started
        if record.session:
            record.session.finish(lambda: self._write(record, seconds))
        else:
            self._write(record, seconds)

    def _write(self, record: RequestRecord, seconds: float) -> None:
        metrics, session = self._metrics, record.session
        metrics.requests(record.type or "none", record.status).inc()
        metrics.seconds.observe(seconds)
        for code in record.codes:
            metrics.errors(code).inc()
        if session and session.usage.touched:
            for how, calls in asdict(session.usage.saved).items():
                saved = metrics.saved(how)
                if calls:
                    saved.inc(calls)
        if metrics.shared:
            metrics.update()
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "tenant": session.tenant.name[:12] if session and session.has_key else None,
            "method": record.method,
            "type": record.type,
            "name": record.name and record.name[:MAX_NAME],
            "status": record.status,
            "codes": sorted(set(record.codes)),
            "spent": session.usage.spent if session else 0,
            "ms": round(seconds * 1000, 1),
        }
        if record.operations is not None:
            fields["operations"] = record.operations
        log.info("operation", **fields)


class AllowedHosts:
    """Refuses requests whose Host header is not one of the allowed hosts.

    Health checks are served under any host, metrics also under any IP address: load balancers and Prometheus use the
    address of each replica, and DNS rebinding needs a name.

    Args:
        app: the application.
        hosts: patterns, see `host_check`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._allowed = host_check(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        if scope["type"] == "http":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            host = hosts[0] if len(hosts) == 1 and len(hosts[0]) <= MAX_HOST else b""
            if not self._allowed(host) and not _serves_any_host(get_route_path(scope), host):
                problem = "The Host header is not one of GATEWAY_ALLOWED_HOSTS, which the operator sets."
                app = error_response(400, problem)
        await app(scope, receive, send)


def _serves_any_host(path: str, host: bytes) -> bool:
    return path in _PROBES or (path == _METRICS and is_address(host))


def error_response(status: int, problem: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> JSONResponse:
    """Return a response with one GraphQL error."""
    return JSONResponse({"errors": [request_error(problem, code)]}, status)
