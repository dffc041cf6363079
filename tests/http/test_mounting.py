"""The gateway below a path: mounted in another application, or behind a proxy that a root path tells of."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import create_app
from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.settings import load
from tests.browser import needs_chromium, open_browser, open_visit
from tests.harness import UPSTREAM, Recorder
from tests.process import Process, running, started
from tests.server import serve, talk

QUERY = "{ agents(first: 3) { nodes { name numbers { phoneNumber agent { id } } } } }"
CALLS = ["GET /agents?page=1&limit=3", "GET /numbers?page=1&limit=100"]
HEADERS = {"X-API-Key": "demo"}


def fastapi(gateway: ASGIApp) -> Any:
    app = pytest.importorskip("fastapi", reason="FastAPI is not installed").FastAPI()
    app.mount("/api/omnia", gateway)
    return app


def starlette(gateway: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/api", routes=[Mount("/omnia", gateway)])])


def rooted(gateway: ASGIApp) -> ASGIApp:
    """As a server passes requests on that has been told of a root path."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gateway({**scope, "root_path": "/api/omnia"}, receive, send)

    return app


@asynccontextmanager
async def mounted(mount: Callable[[ASGIApp], ASGIApp]) -> AsyncIterator[tuple[httpx.AsyncClient, Recorder]]:
    """A gateway whose lifespan does not run."""
    upstream = Recorder(create_demo({"demo": sample_workspace()}))
    gateway = create_app(load({}, {"upstream_url": UPSTREAM}), transport=upstream)
    transport = httpx.ASGITransport(mount(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://host/api/omnia") as http:
        yield http, upstream


@pytest.mark.parametrize("mount", [fastapi, starlette, rooted])
async def test_answers_below_the_path_where_it_is_mounted(mount: Callable[[ASGIApp], ASGIApp]) -> None:
    async with mounted(mount) as (http, upstream):
        posted = await http.post("/graphql", json={"query": QUERY}, headers=HEADERS)
        calls, upstream.calls = upstream.calls, []
        got = await http.get("/graphql", params={"query": QUERY}, headers=HEADERS)
        health, metrics = await http.get("/healthz"), await http.get("/metrics")
        script = await http.get("/graphiql/main.js")
        missing = [(await http.get(path)).status_code for path in ("", "/", "/graphql/", "/nothing", "/omnia/graphql")]

    assert posted.json()["data"] == got.json()["data"]
    assert sorted(calls) == sorted(upstream.calls) == CALLS
    assert (health.text, metrics.status_code, script.status_code) == ("ok", 200, 200)
    assert missing == [404] * 5


@pytest.mark.parametrize("mount", [fastapi, starlette, rooted])
async def test_its_page_asks_below_the_path_where_it_is_mounted(mount: Callable[[ASGIApp], ASGIApp]) -> None:
    async with mounted(mount) as (http, _):
        page = await http.get("/graphql", headers={"Accept": "text/html"})
        url = page.url.join("graphiql/main.js")
        script = await http.get(url)

    assert '"graphiql/main.js"' in page.text
    assert '"endpoint": "graphql"' in page.text
    assert (url.path, script.status_code) == ("/api/omnia/graphiql/main.js", 200)


async def test_serves_routes_of_any_kind_beside_its_own() -> None:
    other = PlainTextResponse("other")
    app = create_app(
        load({}, {"upstream_url": UPSTREAM}), routes=[Host("other.example", other), Route("/other", other)]
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        answers = [await http.get("/other"), await http.get("/x", headers={"Host": "other.example"})]

    assert [answer.text for answer in answers] == ["other", "other"]


@pytest.mark.parametrize("path", ["/graphql", "/healthz", "/metrics"])
@pytest.mark.parametrize("tail", ["%0a", "%0A", "%0d", "%0d%0a", "%20", "%00", ";x", "/", "%2f", "%0a%0a"])
def test_answers_a_path_only_as_it_is(port: int, path: str, tail: str) -> None:
    answer = talk(port, f"GET {path}{tail} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"BAD_REQUEST"' in answer


@pytest.mark.parametrize("tail", ["%0a", "%00"])
def test_answers_an_asset_only_by_its_name(port: int, tail: str) -> None:
    answer = talk(port, f"GET /graphiql/main.js{tail} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve() as served:
        yield served


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo", "--latency-ms", "20") as process:
        yield process


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["gateway.cli:from_environment", "--factory", "--root-path", "/api"], ""),
        (["tests.embedding:app"], "/omnia"),
    ],
)
def test_answers_on_a_server_that_mounts_it(demo: Process, command: list[str], path: str) -> None:
    environ = {"GATEWAY_UPSTREAM_URL": f"{demo.address}/demo/api/v1"}
    demo.rest_calls(0)

    with running("-m", "uvicorn", *command, "--port", "0", environ=environ) as server:
        address = f"{server.address}{path}/graphql"
        answers = [
            httpx.post(address, json={"query": QUERY}, headers=HEADERS),
            httpx.get(address, params={"query": QUERY}, headers=HEADERS),
        ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["data"] == answers[1].json()["data"]
    assert sorted(demo.rest_calls(4)) == sorted(f"{call} 200" for call in CALLS * 2)


@needs_chromium
def test_graphiql_runs_where_it_is_mounted(demo: Process) -> None:
    environ = {"GATEWAY_UPSTREAM_URL": f"{demo.address}/demo/api/v1"}
    with (
        running("-m", "uvicorn", "tests.embedding:app", "--port", "0", environ=environ) as server,
        open_browser() as chromium,
        open_visit(chromium) as visit,
    ):
        visit.page.goto(f"{server.address}/omnia/graphql")
        body = visit.execute()

    assert body["data"]
    assert visit.complaints == []
    assert {httpx.URL(url).path.split("/")[1] for url in visit.requests if url.startswith("http")} == {"omnia"}
