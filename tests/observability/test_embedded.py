"""The log of a gateway in another application: its own logger, the host's configuration, and never a key."""

import asyncio
import gc
import io
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from gateway.app import create_app
from gateway.settings import load
from tests.harness import UPSTREAM, open_gateway

console = pytest.importorskip("rich.console", reason="rich is not installed")
rich = pytest.importorskip("rich.logging")

KEY = "sk-s3cret-key"
QUERY = "query Totals { agents { totalCount nodes { numbers { id } } } }"
WRITE = 'mutation { deletePhoneNumber(id: "x") { deletedPhoneNumberId } }'


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """What the host's handler writes, which shows local variables."""
    text = io.StringIO()
    wide = console.Console(file=text, width=400)
    handler = rich.RichHandler(console=wide, rich_tracebacks=True, tracebacks_show_locals=True, locals_max_string=9999)
    level = logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.DEBUG)
    yield text
    logging.root.removeHandler(handler)
    logging.root.setLevel(level)


async def test_leaves_the_hosts_logging_and_structlog_alone() -> None:
    before = logging.root.handlers[:], logging.root.level, dict(structlog.get_config())

    async with open_gateway() as gateway:
        await gateway.ask(QUERY)

    assert (logging.root.handlers, logging.root.level, structlog.get_config()) == before
    assert not structlog.is_configured()


async def test_writes_its_line_to_its_own_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "gateway")

    async with open_gateway() as gateway:
        await gateway.ask(QUERY)

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("gateway", "INFO")
    assert record.getMessage().startswith("operation method=POST type=query name=Totals status=200 spent=2 ms=")
    assert capsys.readouterr() == ("", "")


async def test_respects_the_log_level_of_the_host(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway")

    async with open_gateway() as gateway:
        await gateway.ask(QUERY)

    assert caplog.records == []


@pytest.mark.parametrize("text", ["boom", f"headers {{'X-API-Key': '{KEY}'}}"])
@pytest.mark.parametrize("query", [QUERY, WRITE])
async def test_a_handler_that_shows_local_variables_shows_no_key(
    text: str, query: str, told: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        raise RuntimeError(text) from ValueError(request.headers["X-API-Key"])

    async with open_gateway() as gateway:
        gateway.upstream.play(".*", fail)
        await gateway.ask(query, key=KEY)
    gc.collect()  # asyncio tells then of exceptions that nobody has retrieved

    assert "field_failed" in told.getvalue()
    assert "Traceback" in told.getvalue()
    assert "RuntimeError" in told.getvalue()
    assert "retrieved" not in told.getvalue()
    assert KEY not in told.getvalue() + "".join(capsys.readouterr())


async def test_an_exception_never_reaches_the_application_around_it(told: io.StringIO) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError(KEY)

    gateway = create_app(load({}, {"upstream_url": UPSTREAM}), routes=[Route("/broken", broken)])
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/omnia", gateway)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
        answer = await http.get("/omnia/broken", headers={"X-API-Key": KEY})

    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (500, "INTERNAL_SERVER_ERROR")
    assert told.getvalue().count("request_failed") == 1
    assert KEY not in told.getvalue()


@pytest.mark.parametrize(("error", "lines"), [(RuntimeError("too late"), 1), (BrokenPipeError(), 0)])
async def test_a_failing_send_shows_no_key(error: Exception, lines: int, told: io.StringIO) -> None:
    body = [{"type": "http.request", "body": b'{"query": "{ __typename }"}'}]

    async def receive() -> dict[str, Any]:
        return body.pop()

    async def send(_: Any) -> None:
        raise error

    headers = [(b"content-type", b"application/json"), (b"x-api-key", KEY.encode())]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "headers": headers}
    await create_app(load({}, {"upstream_url": UPSTREAM}))(scope, receive, send)

    assert told.getvalue().count("request_failed") == lines
    assert KEY not in told.getvalue()
