"""The GraphQL endpoint: parses a request, prepares its document, executes it, responds.

Facts: the GraphQL-over-HTTP draft, whose audits the tests run.
"""

import asyncio
import contextlib
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.execution.documents import Document
from gateway.execution.engine import Engine, is_mutation
from gateway.execution.errors import INTERNAL, RequestError, field_errors, request_error
from gateway.execution.response import ResponseSize, ResponseTooLarge, encode
from gateway.http.compression import COMPRESS, COMPRESS_IN_THREAD, MAX_INLINE, MIN_SIZE
from gateway.http.disconnect import CancelOnDisconnect, Disconnected
from gateway.http.middleware import RequestRecord
from gateway.http.negotiation import GRAPHQL, HTML, JSON, choose_coding, negotiate
from gateway.http.persisted_documents import Documents
from gateway.http.request import (
    METHODS,
    Batch,
    GraphQLRequest,
    Headers,
    RequestParser,
    api_key,
    header_fields,
    needs_preflight,
)
from gateway.observability.logging import log, secret
from gateway.schema.context import Context
from gateway.settings import Settings
from gateway.upstream.client import Client, Session
from gateway.upstream.errors import ErrorCode

_CONTENT_TYPES = {name: (b"content-type", f"{name}; charset=utf-8".encode()) for name in (JSON, GRAPHQL)}
_OFFERS = (JSON, GRAPHQL)
_OFFERS_WITH_HTML = (*_OFFERS, HTML)
_VARY = (b"vary", b"Accept, Accept-Encoding")
_CLOSING = {408, 413}  # the rest of such a body is not read


class _Request(Struct):
    """One GraphQL request over HTTP; a batch has several operations."""

    method: str
    headers: Headers
    media_type: str | None
    """Of the response; None if the client accepts none that is offered."""
    record: RequestRecord
    size: ResponseSize
    api_key: str = ""

    @property
    def refusal_status(self) -> int:
        """Status of a well-formed request that GraphQL refuses: 400, but 200 to clients of `application/json`."""
        return 400 if self.media_type == GRAPHQL else 200


class _Result(NamedTuple):
    """The result of one operation: HTTP status, response object, and the allowed methods of a 405."""

    status: int
    body: dict[str, Any]
    allow: str | None = None


class Endpoint:
    """The GraphQL endpoint, an ASGI application inside `RequestLogging`.

    Args:
        settings: limits, and the key for clients that send none.
        engine: executes documents.
        documents: finds and prepares documents.
        client: the REST API.
        graphiql: serves the page to browsers; None if GraphiQL is switched off.
    """

    def __init__(
        self, settings: Settings, engine: Engine, documents: Documents, client: Client, graphiql: ASGIApp | None
    ) -> None:
        self._fallback_key = settings.upstream_api_key
        self._parser = RequestParser(
            max_bytes=settings.max_body_bytes, max_batch=settings.max_batch, timeout=settings.body_timeout
        )
        self._max_bytes = settings.max_response_bytes
        self._engine = engine
        self._documents = documents
        self._client = client
        self._graphiql = graphiql

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request; stop if its client disconnects."""
        headers, method = header_fields(scope["headers"]), scope["method"]
        offers = _OFFERS_WITH_HTML if self._graphiql and method in {"GET", "HEAD"} else _OFFERS
        media_type = negotiate(headers.get(b"accept", b""), offers)
        if self._graphiql and media_type == HTML:
            await self._graphiql(scope, receive, send)
            return
        if method == "OPTIONS":
            await Response(status_code=204, headers={"Allow": METHODS})(scope, receive, send)
            return
        record: RequestRecord = scope["gateway.record"]
        record.graphql = True
        request = _Request(method, headers, media_type, record, ResponseSize(self._max_bytes))
        try:
            operations = await self._parse(request, scope, receive)
            with CancelOnDisconnect(scope, receive):
                results = await self._run_all(request, operations)
        except RequestError as error:
            results = [_refused(request, error)]
        except Disconnected:
            return
        await self._respond(request, results, send)

    async def _parse(self, request: _Request, scope: Scope, receive: Receive) -> GraphQLRequest | Batch:
        """Read API key and operations."""
        if request.media_type is None:
            raise RequestError(ErrorCode.BAD_REQUEST, f"Accept must allow {GRAPHQL} or {JSON}.", status=406)
        request.api_key = api_key(request.headers, self._fallback_key)
        secret.set(request.api_key)
        return await self._parser.parse(scope, request.headers, receive)

    async def _run_all(self, request: _Request, operations: GraphQLRequest | Batch) -> list[_Result]:
        """Prepare and execute each operation; those of a batch share one session, so one budget and one deadline."""
        fresh = b"no-cache" in request.headers.get(b"cache-control", b"").lower()
        session = await self._client.session(request.api_key, request.record.request_id, fresh=fresh)
        request.record.session = session
        if isinstance(operations, GraphQLRequest):
            return [await self._run(request, session, operations)]
        request.record.type, request.record.operations = "batch", len(operations)
        return await asyncio.gather(*(self._run(request, session, operation) for operation in operations))

    async def _run(self, request: _Request, session: Session, operation: GraphQLRequest | RequestError) -> _Result:
        """Prepare and execute one operation; its failure does not affect the others of a batch."""
        if isinstance(operation, RequestError):
            return _refused(request, operation)
        try:
            document = await self._prepare(request, session, operation)
            return await self._execute(request, session, document, operation)
        except RequestError as error:
            return _refused(request, error)
        except ResponseTooLarge as error:
            return _too_large(error)
        except Exception as error:  # noqa: BLE001 - nothing internal is shown to a client
            log.error("request_failed", request_id=request.record.request_id, exc_info=error)
            problem = request_error(INTERNAL, ErrorCode.INTERNAL_SERVER_ERROR)
            return _Result(500, {"errors": [problem]})

    async def _prepare(self, request: _Request, session: Session, operation: GraphQLRequest) -> Document:
        """Find, check and compile the document; check that the HTTP method may execute the operation."""
        document = await self._documents.prepare(operation, session.tenant)
        node = document.operation(operation.operation_name)
        if request.record.operations is None:
            request.record.type = node.operation.value
            request.record.name = node.name.value if node.name else None
        if request.method != "POST":
            if is_mutation(node):
                raise RequestError(
                    ErrorCode.BAD_REQUEST, "A mutation must be sent with POST.", status=405, allow="POST"
                )
            if not needs_preflight(request.headers):
                problem = (
                    "GET requests need a header that browsers preflight (CSRF protection): X-API-Key,"
                    " GraphQL-Require-Preflight: 1, Apollo-Require-Preflight, X-Requested-With, or Content-Type:"
                    " application/json."
                )
                raise RequestError(ErrorCode.BAD_REQUEST, problem, status=400)
        return document

    async def _execute(
        self, request: _Request, session: Session, document: Document, operation: GraphQLRequest
    ) -> _Result:
        """Execute the operation."""
        result = await self._engine.execute(
            document, operation.operation_name, operation.variables, Context(session), request.size
        )
        if not result.errors:
            return _Result(200, {"data": result.data})
        errors = field_errors(result.errors)
        if result.data is None and not any("path" in error for error in errors):
            return _Result(
                request.refusal_status, {"errors": errors}
            )  # variables that do not fit: nothing was executed
        return _Result(200, {"data": result.data, "errors": errors})

    async def _respond(self, request: _Request, results: list[_Result], send: Send) -> None:
        """Encode, compress and send the response."""
        content = _encode(request, results)
        if len(content) > self._max_bytes and any(body.get("data") for _, body, _ in results):
            results = [_too_large(ResponseTooLarge(self._max_bytes)) for _ in results]
            content = _encode(request, results)
        request.record.codes = [
            str(error["extensions"]["code"]) for _, body, _ in results for error in body.get("errors", ())
        ]
        accept_encoding = request.headers.get(b"accept-encoding", b"")
        coding = choose_coding(accept_encoding) if len(content) >= MIN_SIZE else None
        if coding and len(content) > MAX_INLINE:
            content = await asyncio.to_thread(COMPRESS_IN_THREAD[coding], content)
        elif coding:
            content = COMPRESS[coding](content)
        status, allow = (results[0].status, results[0].allow) if request.record.operations is None else (200, None)
        headers = [
            _CONTENT_TYPES[GRAPHQL if request.media_type == GRAPHQL else JSON],
            (b"content-length", b"%d" % len(content)),
            _VARY,
        ]
        if coding:
            headers.append((b"content-encoding", coding.encode()))
        if allow:
            headers.append((b"allow", allow.encode()))
        if status in _CLOSING:
            headers.append((b"connection", b"close"))
        with contextlib.suppress(OSError):  # by the ASGI specification: the client has disconnected
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else content})


def _refused(request: _Request, error: RequestError) -> _Result:
    return _Result(error.status or request.refusal_status, {"errors": error.errors}, error.allow)


def _too_large(error: ResponseTooLarge) -> _Result:
    """Return the result of an operation whose data is dropped; `data` is there because REST calls were spent."""
    return _Result(200, {"data": None, "errors": [request_error(str(error), ErrorCode.OPERATION_TOO_LARGE)]})


def _encode(request: _Request, results: list[_Result]) -> bytes:
    """Return the JSON of the response, with `extensions.quota` if the operations used or saved REST calls."""
    session = request.record.session
    if session and (session.usage.touched or session.stale_age is not None):
        quota = _quota(session)
        for _, body, _ in results:
            if "data" in body:
                body["extensions"] = {"quota": quota}
    return encode(results[0].body if request.record.operations is None else [body for _, body, _ in results])


def _quota(session: Session) -> dict[str, Any]:
    """Return `extensions.quota`: REST calls spent and saved, and what is left of the key's quota."""
    usage, state = session.usage, session.quota
    quota: dict[str, Any] = {"spent": usage.spent, "saved": asdict(usage.saved)}
    if state:
        quota |= {"limit": state.limit, "remaining": state.remaining, "resetAt": state.reset_at}
    if session.stale_age is not None:
        quota |= {"stale": True, "age": round(session.stale_age)}
    return quota
