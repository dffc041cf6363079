"""GraphQL over HTTP: one request in, one answer out, with the status and media type that fit.

An ASGI application that `app` puts at `/graphql`. `request` reads, `execution` prepares and runs, and here the
answer is written, the bill added and one line logged. A browser gets GraphiQL. What is wrong with a request
itself is a `RequestError` of any room below. Facts: the GraphQL-over-HTTP draft, whose audits the tests run.
"""

import asyncio
import contextlib
import time
from typing import Any, NamedTuple

import msgspec
from graphql import ExecutionResult, OperationDefinitionNode
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.execution.engine import Engine, is_mutation
from gateway.execution.errors import INTERNAL, Formatted, RequestError, field_errors, request_error
from gateway.execution.response import ResponseSize, ResponseTooLarge, encode
from gateway.http.compression import compress
from gateway.http.disconnect import Caller, Disconnected
from gateway.http.middleware import SECURITY
from gateway.http.negotiation import GRAPHQL, HTML, JSON, negotiate
from gateway.http.persisted_documents import Documents
from gateway.http.request import (
    METHODS,
    Batch,
    Fields,
    GraphQLRequest,
    Reader,
    api_key,
    header_fields,
    needs_preflight,
)
from gateway.observability.logging import log, operation_done, secret
from gateway.observability.logging import request_id as new_request_id
from gateway.observability.metrics import Metrics
from gateway.schema.context import Context
from gateway.settings import Settings
from gateway.upstream.client import Client, Session
from gateway.upstream.errors import ErrorCode

_CONTENT_TYPES = {name: (b"content-type", f"{name}; charset=utf-8".encode()) for name in (JSON, GRAPHQL)}
_CLOSING = {408, 413}  # what is left of such a body is not worth reading


class _Outcome(NamedTuple):
    """What one operation came to: status, body, and the methods of a 405."""

    status: int
    body: dict[str, Any]
    allow: str | None = None


class Endpoint:
    """The GraphQL endpoint.

    Args:
        settings: caps, and the key for callers that send none.
        engine: executes documents.
        documents: finds and prepares what a request means.
        client: the REST API.
        metrics: counts.
        graphiql: answers a browser; None where GraphiQL is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        documents: Documents,
        client: Client,
        metrics: Metrics,
        graphiql: ASGIApp | None,
    ) -> None:
        self._fallback_key = settings.upstream_api_key
        self._reader = Reader(
            max_bytes=settings.max_body_bytes, max_batch=settings.max_batch, timeout=settings.body_timeout
        )
        self._max_bytes = settings.max_response_bytes
        self._engine = engine
        self._documents = documents
        self._client = client
        self._metrics = metrics
        self._graphiql = graphiql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or stop working on it when its caller leaves."""
        fields, method = header_fields(scope["headers"]), scope["method"]
        browsable = self._graphiql is not None and method in {"GET", "HEAD"}
        media_type = negotiate(fields.get(b"accept", b""), html=browsable)
        if self._graphiql is not None and media_type == HTML:
            await self._graphiql(scope, receive, send)
        elif method == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", METHODS.encode())]})
            await send({"type": "http.response.body"})
        else:
            exchange = _Exchange(method, fields, media_type, self._metrics, ResponseSize(self._max_bytes))
            try:
                await self._handle(exchange, scope, receive)
            except Disconnected:
                exchange.finish(499)
            else:
                await exchange.send(send)

    async def _handle(self, exchange: "_Exchange", scope: Scope, receive: Receive) -> None:
        """Bring one request to its answer, whatever comes of it."""
        try:
            _check_accept(exchange.media_type)
            key = api_key(exchange.fields, self._fallback_key)
            secret.set(key)
            request = await self._reader.read(scope, exchange.fields, receive)
            with Caller(receive):
                # one session for a whole batch: its operations share one budget and one deadline
                exchange.session = await self._client.session(key, exchange.request_id, fresh=exchange.fresh)
                if isinstance(request, list):
                    await self._run_batch(exchange, exchange.session, request)
                else:
                    exchange.answer(await self._run(exchange, exchange.session, request))
        except RequestError as error:
            exchange.answer(exchange.refusal(error))
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence: nothing internal reaches a caller
            exchange.answer(exchange.failure(error))

    async def _run_batch(self, exchange: "_Exchange", session: Session, requests: Batch) -> None:
        outcomes = await asyncio.gather(*(self._run(exchange, session, request) for request in requests))
        exchange.described = {"type": "batch", "name": None, "operations": len(outcomes)}
        exchange.answer_batch(outcomes)

    async def _run(self, exchange: "_Exchange", session: Session, request: GraphQLRequest | RequestError) -> _Outcome:
        """Run one operation; what is wrong with it is its own outcome, and no other's."""
        if isinstance(request, RequestError):
            return exchange.refusal(request)
        try:
            document = await self._documents.prepare(request, session.tenant)
            node = document.operation(request.operation_name)
            exchange.describe(node)
            _check_method(exchange, node)
            result = await self._engine.execute(
                document, request.operation_name, request.variables, Context(session), exchange.size
            )
            return exchange.result(result)
        except RequestError as error:
            return exchange.refusal(error)
        except ResponseTooLarge as error:
            return exchange.too_large(error)
        except Exception as error:  # noqa: BLE001 - one operation of a batch must not take the others with it
            return exchange.failure(error)


def _check_accept(media_type: str | None) -> None:
    if media_type is None:
        raise RequestError(ErrorCode.BAD_REQUEST, f"Accept must allow {GRAPHQL} or {JSON}.", status=406)


def _check_method(exchange: "_Exchange", node: OperationDefinitionNode) -> None:
    """Refuse to write with a GET, and to execute one that any page of the web could have made a browser send."""
    if exchange.method == "POST":
        return
    if is_mutation(node):
        raise RequestError(ErrorCode.BAD_REQUEST, "A mutation must be sent with POST.", status=405, allow="POST")
    if not needs_preflight(exchange.fields):
        problem = (
            "A GET could come from any page: send X-API-Key, or the header GraphQL-Require-Preflight: 1,"
            " Apollo-Require-Preflight or X-Requested-With, or Content-Type: application/json."
        )
        raise RequestError(ErrorCode.BAD_REQUEST, problem, status=400)


class _Exchange:
    """One request, and its answer while it comes together."""

    def __init__(
        self, method: str, fields: Fields, media_type: str | None, metrics: Metrics, size: ResponseSize
    ) -> None:
        self.started = time.perf_counter()
        self._metrics = metrics
        self.method = method
        self.fields = fields
        self.media_type = media_type
        self.size = size
        self.request_id = new_request_id(fields.get(b"x-request-id", b"").decode("latin-1"))
        self.session: Session | None = None
        self.described: dict[str, Any] = {}
        self._status = 200
        self._allow: str | None = None
        self._bodies: list[dict[str, Any]] = []
        self._content = b""

    @property
    def fresh(self) -> bool:
        """Whether the caller wants nothing that was remembered."""
        return b"no-cache" in self.fields.get(b"cache-control", b"").lower()

    def describe(self, node: OperationDefinitionNode) -> None:
        """Note for the log what runs."""
        self.described = {"type": node.operation.value, "name": node.name.value if node.name else None}

    def result(self, result: ExecutionResult) -> _Outcome:
        """Return the outcome of what was executed."""
        errors = field_errors(result.errors or ())
        if result.data is None and not any("path" in error for error in errors):
            return self._refusal(errors)  # nothing was executed: variables that do not fit
        return _Outcome(200, {"data": result.data, "errors": errors} if errors else {"data": result.data})

    def refusal(self, error: RequestError) -> _Outcome:
        """Return the outcome of what was not."""
        return self._refusal(error.errors, error.status, error.allow)

    def too_large(self, error: ResponseTooLarge) -> _Outcome:
        """Return the outcome of what was executed for nothing: the calls it spent are told."""
        return _Outcome(200, {"data": None, "errors": [request_error(str(error), ErrorCode.OPERATION_TOO_LARGE)]})

    def failure(self, error: Exception) -> _Outcome:
        """Return the outcome where something of ours went wrong."""
        log.error("request_failed", request_id=self.request_id, exc_info=error)
        return self._refusal([request_error(INTERNAL, ErrorCode.INTERNAL_SERVER_ERROR)], 500)

    def _refusal(self, errors: list[Formatted], status: int | None = None, allow: str | None = None) -> _Outcome:
        # the draft: a well-formed request that GraphQL refuses is 400, but 200 to who knows only application/json
        return _Outcome(status or (400 if self.media_type == GRAPHQL else 200), {"errors": errors}, allow)

    def answer(self, outcome: _Outcome) -> None:
        """Answer with one operation's outcome."""
        self._status, body, self._allow = outcome
        self._bodies = [body]
        self._bill()
        self._content = encode(body)
        if len(self._content) > self.size.limit and body.get("data"):
            self.answer(self.too_large(ResponseTooLarge(self.size.limit)))

    def answer_batch(self, outcomes: list[_Outcome]) -> None:
        """Answer with the outcomes of a batch, each of which stands for itself; the bill is the batch's."""
        self._bodies = [outcome.body for outcome in outcomes]
        self._bill()
        self._content = encode(self._bodies)
        if len(self._content) > self.size.limit and any(body.get("data") for body in self._bodies):
            self.answer_batch([self.too_large(ResponseTooLarge(self.size.limit)) for _ in outcomes])

    def _bill(self) -> None:
        if self.session and (self.session.bill.touched or self.session.stale_age is not None):
            quota = _quota(self.session)
            for body in self._bodies:
                if "data" in body:
                    body["extensions"] = {"quota": quota}

    async def send(self, send: Send) -> None:
        """Write the answer and the log line."""
        content, coding = await compress(self._content, self.fields.get(b"accept-encoding", b""))
        headers = [
            _CONTENT_TYPES[GRAPHQL if self.media_type == GRAPHQL else JSON],
            (b"content-length", b"%d" % len(content)),
            (b"x-request-id", self.request_id.encode()),
            *SECURITY,
        ]
        if coding:
            headers.append((b"content-encoding", coding.encode()))
        if self._allow:
            headers.append((b"allow", self._allow.encode()))
        if self._status in _CLOSING:
            headers.append((b"connection", b"close"))
        self.finish(self._status)
        with contextlib.suppress(OSError):  # by the ASGI specification: the client has disconnected
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else content})

    def finish(self, status: int) -> None:
        """Leave the request's one line, once its REST calls have ended: a write may outlast its caller."""
        seconds = time.perf_counter() - self.started
        if self.session:
            self.session.finish(lambda: self._log(status, seconds))
        else:
            self._log(status, seconds)

    def _log(self, status: int, seconds: float) -> None:
        codes = [str(error["extensions"]["code"]) for body in self._bodies for error in body.get("errors", ())]
        session = self.session
        self._metrics.count(self.described.get("type", "none"), status, seconds, codes, session and session.bill)
        operation_done(
            {
                "request_id": self.request_id,
                "tenant": session.tenant.name[:12] if session and session.has_key else None,
                "method": self.method,
                **self.described,
                "status": status,
                "codes": sorted(set(codes)),
                "spent": session.bill.spent if session else 0,
                "ms": round(seconds * 1000, 1),
            }
        )


def _quota(session: Session) -> dict[str, Any]:
    """Return `extensions.quota`: what the operation spent and saved, and what the key has left."""
    bill, state = session.bill, session.quota
    quota: dict[str, Any] = {"spent": bill.spent, "saved": msgspec.structs.asdict(bill.saved)}
    if state:
        quota |= {"limit": state.limit, "remaining": state.remaining, "resetAt": state.reset_at}
    if session.stale_age is not None:
        quota |= {"stale": True, "age": round(session.stale_age)}
    return quota
