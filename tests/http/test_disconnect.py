"""What a client's disconnect cancels, on a real `gateway serve` whose upstream takes its time, and what is none."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from gateway.http.disconnect import CancelOnDisconnect
from tests.process import Process, started
from tests.raw_upstream import raw_upstream

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


async def test_a_failing_receive_is_no_disconnect() -> None:
    async def receive() -> dict[str, str]:
        raise RuntimeError("Unexpected message received: http.request")

    with CancelOnDisconnect({}, receive):
        for _ in range(5):
            await asyncio.sleep(0)
