"""The composition root: every room put together into one ASGI application.

`cli` serves what `create_app` returns; tests call it with a transport, a clock and settings of their own.
Nothing else in the gateway builds a client or an engine.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import graphiql
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.http.endpoint import Endpoint
from gateway.http.middleware import Dispatcher, failed, refused, secured
from gateway.http.persisted_documents import Documents, read_manifest
from gateway.observability.metrics import Metrics
from gateway.settings import Settings
from gateway.upstream.client import Client


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.time,
    graphiql_preset: graphiql.Preset = graphiql.Preset(),  # noqa: B008 - frozen
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the gateway, to be served or mounted in another application.

    A mounted application's lifespan does not run by itself. Without it everything works, but at the end connections to
    the REST API and Redis are not closed; `async with gateway.router.lifespan_context(gateway)` in the lifespan of the
    application around it does that.

    Args:
        settings: everything that can be set.
        transport: stands in for the network to the REST API.
        clock: unix seconds.
        graphiql_preset: what GraphiQL starts with; its own is for any workspace.
        routes: served beside the gateway's own.
    """
    metrics = Metrics(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    client = Client(settings, transport, clock, metrics.rest_calls.inc)

    directory = graphiql.static_dir()

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        cdn = not directory and b"cdn=1" in scope["query_string"].split(b"&")
        answer = graphiql.page(graphiql_preset, cdn=cdn)
        await HTMLResponse(answer.html, headers=answer.headers)(scope, receive, secured(scope, send))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await client.start()
        yield
        await client.aclose()

    engine = Engine(Limits.of(settings), introspection=settings.introspection, compiled=settings.compiled)
    trusted = read_manifest(settings.trusted_documents) if settings.trusted_documents else {}
    documents = Documents(engine, trusted=trusted, only=settings.trusted_only, shared=client.replicas)
    metrics.watch("gateway_selections_compiled", "Selections run compiled.", lambda: engine.counts.compiled)
    metrics.watch("gateway_selections_stock", "Selections left to graphql-core.", lambda: engine.counts.fallen_back)
    replicas = client.replicas
    http = client.path.http
    metrics.watch("gateway_mismatched_answers", "Answers of the upstream to another call.", lambda: http.mismatches)
    metrics.watch("gateway_redis_failures", "Redis commands failed.", lambda: replicas.failures if replicas else 0)
    endpoint = Endpoint(settings, engine, documents, client, metrics, page if settings.graphiql else None)
    graphql = _shared(endpoint, settings)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    own: list[BaseRoute] = [Route("/healthz", _healthz), Route("/metrics", show_metrics)]
    if settings.graphiql and directory:
        own.append(Mount("/graphiql", graphiql.assets(directory)))
    app = _Application(
        routes=[*own, *routes], lifespan=lifespan, exception_handlers={HTTPException: _refused, Exception: _failed}
    )
    app.open(graphql, "/graphql", settings.hosts)
    app.router.redirect_slashes = False  # its target is built from the Host header, which is the caller's
    return app


class _Application(Starlette):
    """Starlette, with the dispatcher in front of its own middleware: GraphQL needs none of it."""

    def open(self, graphql: ASGIApp, path: str, hosts: Sequence[str]) -> None:
        """Serve GraphQL at this path, to requests that name one of these hosts."""
        self._dispatch = Dispatcher(super().__call__, graphql, path, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._dispatch(scope, receive, send)


def _shared(endpoint: ASGIApp, settings: Settings) -> ASGIApp:
    """Let the pages of other origins call the endpoint, where the settings name some."""
    if not settings.origins:
        return endpoint
    return CORSMiddleware(
        endpoint,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # those of these origins only; never with credentials: the key is a header, not a cookie
        expose_headers=["X-Request-Id"],
        max_age=7200,
    )


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's signature says less than it does
    response = refused(error.status_code, f"{error.detail}. GraphQL is served at /graphql.")
    response.headers.update(error.headers or {})
    return response


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return failed()


async def _healthz(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
