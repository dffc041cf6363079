"""GraphQL over HTTP: one request in, one answer out, with the status and media type that fit.

An ASGI application that `app` mounts at `/graphql`. `request` reads, `execution` prepares and runs, and here the
answer is written, the bill added and one line logged. A browser gets GraphiQL. What is wrong with a request
itself is a `RequestError` of any room below. Facts: the GraphQL-over-HTTP draft, whose audits the tests run.
"""

import asyncio
import time
from typing import Any

import msgspec
from graphql import ExecutionResult
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import observability
from gateway.context import Context
from gateway.errors import INTERNAL, Formatted, RequestError, field_error, request_error
from gateway.execution import Engine, is_mutation
from gateway.request import GRAPHQL, HTML, JSON, METHODS, Disconnected, api_key, negotiate, read
from gateway.settings import Settings
from gateway.upstream.client import Client, Session

_ENCODE = msgspec.json.Encoder().encode
_SECURITY = (
    (b"cache-control", b"private, no-store"),
    (b"vary", b"Accept"),
    (b"x-content-type-options", b"nosniff"),
)


class Endpoint:
    """The GraphQL endpoint.

    Args:
        settings: caps, and the key for callers that send none.
        engine: prepares and executes documents.
        client: the REST API.
        graphiql: answers a browser; None where GraphiQL is switched off.
    """

    def __init__(self, settings: Settings, engine: Engine, client: Client, graphiql: ASGIApp | None) -> None:
        self._settings = settings
        self._engine = engine
        self._client = client
        self._graphiql = graphiql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or stop working on it when its caller leaves."""
        headers = Headers(scope=scope)
        media_type = negotiate(",".join(headers.getlist("accept")))
        if self._graphiql and media_type == HTML and scope["method"] in {"GET", "HEAD"}:
            await self._graphiql(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", METHODS.encode())]})
            await send({"type": "http.response.body", "body": b""})
            return
        operation = _Operation(headers, media_type)
        try:
            operation.request_line = scope["method"]
            await self._handle(operation, scope, headers, receive)
        except Disconnected:
            operation.log(499)
            return
        await operation.send(send, head=scope["method"] == "HEAD")

    async def _handle(self, operation: "_Operation", scope: Scope, headers: Headers, receive: Receive) -> None:
        """Run one request to its answer, whatever comes of it."""
        try:
            _check_accept(operation.media_type)
            request = await read(scope, headers, receive, self._settings.max_body_bytes)
            document = self._engine.prepare(request.query or "")
            node = document.operation(request.operation_name)
            operation.describe(node.operation.value, node.name.value if node.name else None)
            _check_method(scope["method"], mutation=is_mutation(node))
            key = api_key(headers, self._settings.upstream_api_key)
            fresh = "no-cache" in headers.get("cache-control", "").lower()
            operation.session = await self._client.session(key, operation.request_id, fresh=fresh)
            run = self._engine.execute(document, request.operation_name, request.variables, Context(operation.session))
            operation.finish(await _unless_gone(run, receive))
        except RequestError as error:
            operation.refuse(error)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: nothing internal reaches a caller
            observability.log.error("request_failed", request_id=operation.request_id, exc_info=error)
            operation.fail()


def _check_accept(media_type: str | None) -> None:
    if media_type is None:
        raise RequestError("BAD_REQUEST", f"Accept must allow {GRAPHQL} or {JSON}.", status=406)


def _check_method(method: str, *, mutation: bool) -> None:
    if mutation and method != "POST":
        raise RequestError("BAD_REQUEST", "A mutation must be sent with POST.", status=405, allow="POST")


async def _unless_gone(run: Any, receive: Receive) -> ExecutionResult:
    """Await an execution, but cancel it when the caller disconnects.

    Raises:
        Disconnected: the caller left. Writes already sent go on to their end.
    """
    work = asyncio.ensure_future(run)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Disconnected
        result: ExecutionResult = await work
        return result
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))


class _Operation:
    """One request's answer while it comes together."""

    def __init__(self, headers: Headers, media_type: str | None) -> None:
        self.started = time.perf_counter()
        self.request_id = observability.request_id(headers.get("x-request-id"))
        self.media_type = media_type
        self.session: Session | None = None
        self.request_line = ""
        self._fields: dict[str, Any] = {}
        self._status = 200
        self._allow = ""
        self._body: dict[str, Any] = {}

    def describe(self, kind: str, name: str | None) -> None:
        """Note for the log what runs."""
        self._fields = {"type": kind, "name": name}

    def finish(self, result: ExecutionResult) -> None:
        """Answer with an execution's result."""
        errors = [field_error(error) for error in result.errors or ()]
        if result.data is None and not any("path" in error for error in errors):
            self._refuse(errors, None)  # nothing was executed: variables that do not fit
        else:
            self._body = {"data": result.data}
            if errors:
                self._body["errors"] = errors
        if self.session and self.session.bill.touched:
            self._body["extensions"] = {"quota": _quota(self.session)}

    def refuse(self, error: RequestError) -> None:
        """Answer with what is wrong with the request."""
        self._allow = error.allow or ""
        self._refuse(error.errors, error.status)

    def fail(self) -> None:
        """Answer that something of ours went wrong."""
        self._refuse([request_error(INTERNAL, "INTERNAL_SERVER_ERROR")], 500)

    def _refuse(self, errors: list[Formatted], status: int | None) -> None:
        # the draft: a well-formed request that GraphQL refuses is 400, but 200 to who knows only application/json
        self._status = status or (400 if self.media_type == GRAPHQL else 200)
        self._body = {"errors": errors}

    async def send(self, send: Send, *, head: bool) -> None:
        """Write the answer and the log line."""
        content = _ENCODE(self._body)
        kind = GRAPHQL if self.media_type == GRAPHQL else JSON
        headers = [
            (b"content-type", f"{kind}; charset=utf-8".encode()),
            (b"content-length", str(len(content)).encode()),
            (b"x-request-id", self.request_id.encode()),
            *_SECURITY,
        ]
        if self._allow:
            headers.append((b"allow", self._allow.encode()))
        self.log(self._status)
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else content})

    def log(self, status: int) -> None:
        """Leave the operation's one line."""
        codes = sorted({error["extensions"]["code"] for error in self._body.get("errors", ())})
        bill = self.session.bill if self.session else None
        observability.operation_done(
            {
                "request_id": self.request_id,
                "tenant": self.session.tenant.name[:12] if self.session else None,
                "method": self.request_line,
                **self._fields,
                "status": status,
                "codes": codes,
                "spent": bill.spent if bill else 0,
                "ms": round((time.perf_counter() - self.started) * 1000, 1),
            }
        )


def _quota(session: Session) -> dict[str, Any]:
    """Return `extensions.quota`: what the operation spent and saved, and what the key has left."""
    bill, state = session.bill, session.quota
    quota: dict[str, Any] = {"spent": bill.spent, "saved": msgspec.structs.asdict(bill.saved)}
    if session.stale_age is not None:
        quota |= {"stale": True, "age": round(session.stale_age)}
    if state:
        quota |= {"limit": state.limit, "remaining": state.remaining, "resetAt": state.reset_at}
    return quota
