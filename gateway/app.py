"""Builds the gateway as one ASGI application."""

import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from gateway import graphiql
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.http.endpoint import Endpoint
from gateway.http.middleware import AllowedHosts, RequestLogging, SecurityHeaders, error_response
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

    Starlette does not run the lifespan of a mounted application. Without it everything works, but connections to the
    REST API and Redis are not closed at the end; enter `gateway.router.lifespan_context(gateway)` in the lifespan of
    the application around it to close them.

    Args:
        settings: all settings.
        transport: sends the REST calls instead of the built-in transport.
        clock: unix seconds.
        graphiql_preset: what GraphiQL starts with; the default fits any workspace.
        routes: served beside the gateway's own.
    """
    metrics = Metrics(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    client = Client(settings, transport, clock, metrics.rest_calls.inc)
    engine = Engine(Limits.of(settings), introspection=settings.introspection, compiled=settings.compiled)
    trusted = read_manifest(settings.trusted_documents) if settings.trusted_documents else {}
    documents = Documents(engine, trusted=trusted, only=settings.trusted_only, shared=client.replicas)
    _watch(metrics, engine, client)
    bundle = graphiql.static_dir()

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        cdn = not bundle and b"cdn=1" in scope["query_string"].split(b"&")
        built = graphiql.page(graphiql_preset, cdn=cdn)
        await HTMLResponse(built.html, headers=built.headers)(scope, receive, send)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=1.0.0; charset=utf-8")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await client.start()
        yield
        await client.aclose()

    endpoint = Endpoint(settings, engine, documents, client, page if settings.graphiql else None)
    own: list[BaseRoute] = [
        Route("/graphql", endpoint, middleware=_cors(settings)),
        Route("/healthz", _healthz),
        Route("/metrics", show_metrics),
    ]
    if settings.graphiql and bundle:
        own.append(Mount("/graphiql", graphiql.assets(bundle)))
    middleware = [Middleware(SecurityHeaders), Middleware(RequestLogging, metrics)]
    if "*" not in settings.hosts:
        middleware.append(Middleware(AllowedHosts, settings.hosts))
    app = Starlette(
        routes=[*own, *routes],
        middleware=middleware,
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the redirect's target would be built from the client's Host header
    for route in app.routes:
        if isinstance(route, Route | Mount):  # `$` also matches before a newline at the end of the path
            route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return app


def _watch(metrics: Metrics, engine: Engine, client: Client) -> None:
    http, replicas = client.http, client.replicas
    metrics.watch("gateway_selections_compiled", "Selections run compiled.", lambda: engine.counts.compiled)
    metrics.watch("gateway_selections_stock", "Selections left to graphql-core.", lambda: engine.counts.fallen_back)
    metrics.watch("gateway_mismatched_answers", "Responses of the REST API to another call.", lambda: http.mismatches)
    metrics.watch("gateway_redis_failures", "Redis commands failed.", lambda: replicas.failures if replicas else 0)


def _cors(settings: Settings) -> list[Middleware]:
    """Allow pages of the origins in the settings to call the endpoint."""
    if not settings.origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # never with credentials: the API key is a header, not a cookie
        expose_headers=["X-Request-Id"],
        max_age=7200,
    )
    return [cors]


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's signature is wider
    response = error_response(error.status_code, f"{error.detail}. GraphQL is served at /graphql.")
    response.headers.update(error.headers or {})
    return response


async def _healthz(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
