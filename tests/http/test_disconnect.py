"""What a client's disconnect cancels, on a real `gateway serve` whose upstream takes its time, and what is none."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.disconnect import DISCONNECTED, CancelOnDisconnect
from gateway.http.server import Protocol
from tests.process import Process, started
from tests.raw_upstream import raw_upstream
from tests.server import serve_app

QUERY = "{ agents(first: 3) { nodes { name numbers { phoneNumber agent { id } } } } }"
CALLS = ["GET /agents?page=1&limit=3 200", "GET /numbers?page=1&limit=100 200"]
TARGET = f"/graphql?query={quote(QUERY)}"
HEADERS = "Host: localhost\r\nX-API-Key: demo\r\nContent-Type: application/json\r\n"
BODY = f'{{"query": "{QUERY}"}}'
REQUESTS = {
    "GET": f"GET {TARGET} HTTP/1.1\r\n{HEADERS}\r\n",
    "HEAD": f"HEAD {TARGET} HTTP/1.1\r\n{HEADERS}\r\n",
    "GET with a body": f"GET {TARGET} HTTP/1.1\r\n{HEADERS}Content-Length: {len(BODY)}\r\n\r\n{BODY}",
    "GET with chunks": f"GET {TARGET} HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\n\r\n",
    "POST": f"POST /graphql HTTP/1.1\r\n{HEADERS}Content-Length: {len(BODY)}\r\n\r\n{BODY}",
}

FOLLOWERS = {
    "one": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
    "too many": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 150,
    "a large one": f"POST /graphql HTTP/1.1\r\n{HEADERS}Content-Length: 100000\r\n\r\n".encode() + b" " * 100_000,
    "half a large one": f"POST /graphql HTTP/1.1\r\n{HEADERS}Content-Length: 200000\r\n\r\n".encode() + b" " * 100_000,
    "a broken one": b"GET /healthz HTTP/1.1\r\n\r\n",
}
"""Requests that are sent before the response to an earlier one."""


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo", "--latency-ms", "50") as process:
        yield process


@pytest.fixture(scope="module")
def gateway(demo: Process) -> Iterator[Process]:
    with started("serve", "--upstream-url", f"{demo.address}/demo/api/v1") as process:
        yield process


def connected(process: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(process.address).port or 0), timeout=5)


@pytest.mark.parametrize("request_", REQUESTS)
def test_answers_a_request_that_waits_for_the_upstream(demo: Process, gateway: Process, request_: str) -> None:
    gateway.ask(QUERY)  # tells the sizes of the lists
    demo.rest_calls(2)

    with connected(gateway) as connection:
        for piece in REQUESTS[request_].encode().partition(b"\r\n\r\n"):
            connection.sendall(piece)
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert sorted(demo.rest_calls(2)) == CALLS


@pytest.mark.parametrize("request_", REQUESTS)
async def test_cancels_the_rest_calls_of_a_client_that_disconnects(request_: str) -> None:
    async with raw_upstream() as upstream:
        upstream.play((b"", "hang"))
        with started("serve", "--upstream-url", upstream.url) as gateway:
            with connected(gateway) as connection:
                connection.sendall(REQUESTS[request_].encode())
                await asyncio.wait_for(upstream.seen.wait(), 5)
            await asyncio.wait_for(upstream.left.wait(), 5)

            line = gateway.logged("operation")

    assert (line["method"], line["status"]) == (request_.split(" ", maxsplit=1)[0], 499)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("followers", FOLLOWERS)
async def test_cancels_the_rest_calls_although_other_requests_wait(followers: str, *, later: bool) -> None:
    async with raw_upstream() as upstream:
        upstream.play((b"", "hang"))
        with started("serve", "--upstream-url", upstream.url) as gateway:
            with connected(gateway) as connection:
                request = REQUESTS["POST"].encode()
                connection.sendall(request if later else request + FOLLOWERS[followers])
                await asyncio.wait_for(upstream.seen.wait(), 5)
                if later:
                    connection.sendall(FOLLOWERS[followers])
            await asyncio.wait_for(upstream.left.wait(), 5)

            line = gateway.logged("operation")

    assert (line["method"], line["status"]) == ("POST", 499)


class Watchful(Protocol):
    """A protocol that looks often."""

    closed_check = 0.01


class Slow:
    """Responds after several checks of `Watchful`, to `/wait` not before the disconnect."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.disconnected = threading.Event()

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        await asyncio.sleep(0.05)
        if scope["path"] == "/wait":
            self.waits.set()
            await scope[DISCONNECTED]
            self.disconnected.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


def test_watches_a_connection_that_is_not_read() -> None:
    app = Slow()
    with (
        serve_app(app, http=Watchful) as port,
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n" * 2)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 2:
            answer += connection.recv(65536)
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: b\r\n\r\n" * 2)
        assert app.waits.wait(5)
        connection.close()

        assert app.disconnected.wait(5)


async def test_a_failing_receive_is_no_disconnect() -> None:
    async def receive() -> dict[str, str]:
        raise RuntimeError("Unexpected message received: http.request")

    with CancelOnDisconnect({}, receive):
        for _ in range(5):
            await asyncio.sleep(0)
