"""The log: one line for each operation, request ids in and out, and never a key."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.http.middleware import request_id
from gateway.observability import logging as observability
from tests.harness import Gateway, Recorder, capture_logs, open_gateway

KEY = "sk-s3cret-key"
NAMED = "query Totals { agents(first: 5) { totalCount } }"
SANE = "A-1_b.2"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give back the process's logging."""
    loggers = {name: logging.getLogger(name) for name in ("", "httpx", "httpcore", "hpack", "asyncio")}
    handlers, levels = logging.root.handlers[:], {name: logger.level for name, logger in loggers.items()}
    yield
    logging.root.handlers[:] = handlers
    for name, logger in loggers.items():
        logger.setLevel(levels[name])
    observability.embed()


def lines_of(logs: Any) -> list[dict[str, Any]]:
    return [dict(line) for line in logs if line["event"] == "operation"]


async def test_logs_one_line_for_each_operation(gateway: Gateway) -> None:
    with capture_logs() as logs:
        await gateway.ask(NAMED, X_Request_Id=SANE)

    (line,) = logs
    ms = line.pop("ms")
    tenant = line.pop("tenant")
    expected = {"event": "operation", "log_level": "info", "request_id": SANE, "method": "POST", "type": "query"}
    assert line == expected | {"name": "Totals", "status": 200, "codes": [], "spent": 1}
    assert 0 < ms < 60_000
    assert re.fullmatch("[0-9a-f]{12}", tenant)


async def test_the_line_has_error_codes_and_rest_calls(gateway: Gateway) -> None:
    gateway.upstream.play("GET /agents.*", httpx.Response(403))

    with capture_logs() as logs:
        await gateway.ask("{ agents { totalCount } phoneNumbers { totalCount } a: agents(first: 0) { totalCount } }")

    (line,) = lines_of(logs)
    assert (line["codes"], line["spent"], line["status"]) == (["BAD_USER_INPUT", "FORBIDDEN"], 2, 200)


async def test_logs_mutations_and_refused_requests(gateway: Gateway) -> None:
    with capture_logs() as logs:
        await gateway.ask('mutation Drop { deletePhoneNumber(id: "n1") { deletedPhoneNumberId } }')
        await gateway.ask("{ nothing }")
        await gateway.http.post("/graphql", content=b"{", headers={"Content-Type": "application/json"})

    told = [(line.get("type"), line.get("name"), line["codes"]) for line in lines_of(logs)]
    assert told == [
        ("mutation", "Drop", ["NOT_FOUND"]),
        (None, None, ["GRAPHQL_VALIDATION_FAILED"]),
        (None, None, ["BAD_REQUEST"]),
    ]
    assert {line["log_level"] for line in logs} == {"info"}


async def test_two_keys_are_two_tenants_and_one_key_is_one(gateway: Gateway) -> None:
    with capture_logs() as logs:
        for key in ("demo", "demo-2", "demo"):
            await gateway.ask(NAMED, key=key)

    one, two, again = [line["tenant"] for line in lines_of(logs)]
    assert one == again != two


async def test_truncates_a_long_operation_name(gateway: Gateway) -> None:
    with capture_logs() as logs:
        await gateway.ask(f"query {'N' * 128} {{ __typename }}")

    assert [line["name"] for line in lines_of(logs)] == ["N" * observability.MAX_NAME]


async def test_logs_a_disconnect_as_499(gateway: Gateway) -> None:
    began = asyncio.Event()

    async def hang(_: httpx.Request) -> httpx.Response:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    gateway.upstream.play(".*", hang)
    messages = [{"type": "http.request", "body": json.dumps({"query": NAMED}).encode()}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await began.wait()
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(b"content-type", b"application/json"), (b"x-api-key", b"demo"), (b"host", b"gateway")]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "headers": headers}
    door: Any = gateway.http._transport
    with capture_logs() as logs:
        await asyncio.ensure_future(door.app(scope, receive, send))
        for _ in range(20):
            await asyncio.sleep(0)  # the line waits for its calls to end

    told = [(line["status"], line["name"], line["spent"]) for line in lines_of(logs)]
    assert told == [(499, "Totals", 1)]


@pytest.mark.parametrize("turns", range(14))
async def test_a_disconnect_at_any_turn_logs_the_rest_calls_sent(gateway: Gateway, turns: int) -> None:
    ids = list(gateway.workspaces["demo"].agents)[:2]
    query = f'{{ a: agent(id: "{ids[0]}") {{ name }} b: agent(id: "{ids[1]}") {{ numbers {{ id }} name }} }}'
    messages = [{"type": "http.request", "body": json.dumps({"query": query}).encode()}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        for _ in range(turns):
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    headers = [(b"content-type", b"application/json"), (b"x-api-key", b"demo"), (b"host", b"gateway")]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "headers": headers}
    door: Any = gateway.http._transport
    with capture_logs() as logs:
        await asyncio.ensure_future(door.app(scope, receive, send))
        for _ in range(40):
            await asyncio.sleep(0)

    (line,) = lines_of(logs)
    assert line["spent"] == len(gateway.calls)
    assert f"gateway_rest_calls_total {float(line['spent'])}" in (await gateway.http.get("/metrics")).text


async def test_returns_and_forwards_the_clients_request_id(gateway: Gateway) -> None:
    answer = await gateway.http.post(
        "/graphql", json={"query": NAMED}, headers={"X-API-Key": "demo", "X-Request-Id": SANE}
    )

    assert answer.headers["x-request-id"] == SANE
    assert gateway.upstream.requests[0].headers["x-request-id"].startswith(f"{SANE}-")


@pytest.mark.parametrize("given", ["", "a b", "a" * 65, "a;b", "<a>", "\u00e4", "a\tb"])
async def test_replaces_an_invalid_request_id_for_the_upstream(gateway: Gateway, given: str) -> None:
    headers = [(b"X-API-Key", b"demo"), (b"X-Request-Id", given.encode("latin-1"))]

    answer = await gateway.http.post("/graphql", json={"query": NAMED}, headers=headers)

    made = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert gateway.upstream.requests[0].headers["x-request-id"].startswith(f"{made}-")


def test_keeps_a_valid_request_id() -> None:
    assert request_id(SANE.encode()) == SANE
    assert request_id() != request_id()


@asynccontextmanager
async def open_socket_gateway() -> AsyncIterator[Gateway]:
    """A gateway whose REST calls go through httpx's own transport to a real socket."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        def real(_: Recorder) -> httpx.AsyncBaseTransport:
            return httpx.AsyncHTTPTransport()

        async with open_gateway(settings={"upstream_url": url}, transport=real) as gateway:
            yield gateway


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_key_is_in_no_log_at_any_level(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    observability.configure(logging.DEBUG, log_format)
    for name in ("", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.DEBUG)

    async with open_socket_gateway() as gateway:
        answer = await gateway.ask(NAMED, key=KEY)

    told = capsys.readouterr()
    assert answer["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    assert "send_request_headers" in told.err
    assert KEY not in told.out + told.err + json.dumps(answer)


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_logs_an_internal_error_with_a_traceback_without_variables(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    observability.configure(logging.INFO, log_format)
    async with open_gateway() as gateway:
        gateway.upstream.play(".*", RuntimeError("boom"))

        await gateway.ask(NAMED, key=KEY)

    told = capsys.readouterr().err
    assert "field_failed" in told
    assert "Traceback (most recent call last)" in told
    assert "RuntimeError: boom" in told
    assert KEY not in told


def test_a_failure_elsewhere_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    observability.configure(logging.INFO, "json")

    try:
        raise ValueError("inner")  # noqa: TRY301
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in %s", "ASGI application")
    logging.getLogger("uvicorn.error").info("not told")

    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["level"]) == ("Exception in ASGI application", "error")
    assert told["exception"].endswith("ValueError: inner")
    assert told["timestamp"].endswith("Z")


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", True), ("json", True), ("console", False)])
def test_writes_console_lines_only_to_a_terminal_or_if_told(
    log_format: str,
    is_json: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    observability.configure(logging.INFO, log_format)

    observability.log.info("operation", request_id="r1", tenant=None, name=None, codes=[], spent=0)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("{") is is_json
    assert is_json or re.fullmatch(r"\d\d:\d\d:\d\d \[info\] operation spent=0 request_id=r1", line)


def test_writes_nothing_below_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    observability.configure(logging.ERROR, "json")

    observability.log.info("operation")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")

    assert capsys.readouterr().err == ""


def test_a_json_line_can_hold_any_value(capsys: pytest.CaptureFixture[str]) -> None:
    observability.configure(logging.INFO, "json")

    observability.log.info("odd", path=Path("x"))
    observability.log.info("odd", path=Path("x"), half="\ud800")

    whole, half = map(json.loads, capsys.readouterr().err.splitlines())
    assert whole["path"] == half["path"] == repr(Path("x"))
    assert half["half"] == "\ud800"
