"""The composition root: every room put together into one ASGI application.

`cli` serves what `create_app` returns; tests call it with a transport, a clock and settings of their own.
Nothing else in the gateway builds a client or an engine.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from gateway import graphiql
from gateway.endpoint import Endpoint
from gateway.execution import Engine
from gateway.limits import Limits
from gateway.settings import Settings
from gateway.upstream.client import Client


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.time,
    graphiql_key: str = "",
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Build the gateway.

    Args:
        settings: everything that can be set.
        transport: stands in for the network to the REST API.
        clock: unix seconds.
        graphiql_key: API key that GraphiQL fills in; only for the demo.
        routes: served beside the gateway's own.
    """
    limits = Limits(
        settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_root_fields, settings.max_directives
    )
    client = Client(settings, transport, clock)

    directory = graphiql.static_dir()

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        cdn = not directory and b"cdn=1" in scope["query_string"].split(b"&")
        answer = graphiql.page(api_key=graphiql_key, cdn=cdn)
        await HTMLResponse(answer.html, headers=dict(answer.headers))(scope, receive, send)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await client.start()
        yield
        await client.aclose()

    endpoint = Endpoint(
        settings, Engine(limits, introspection=settings.introspection), client, page if settings.graphiql else None
    )
    own: list[BaseRoute] = [Route("/graphql", endpoint), Route("/healthz", _healthz)]
    if settings.graphiql and directory:
        own.append(Mount("/graphiql", graphiql.assets(directory)))
    return Starlette(routes=[*own, *routes], lifespan=lifespan)


async def _healthz(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")
