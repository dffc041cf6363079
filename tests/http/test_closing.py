"""A response that comes before the end of its request reaches the client, and what still arrives is discarded."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server import Protocol
from tests.server import serve, serve_app, talk

LARGE = b'{"query": "' + b"x" * 5_000_000 + b'"}'
TIMES = 10
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(LARGE)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSALS = {
    "413": {"Content-Type": "application/json"},
    "415": {"Content-Type": "text/plain"},
    "406": {"Content-Type": "application/json", "Accept": "text/csv"},
    "400": {"Content-Type": "application/json", "X-API-Key": "not visible ASCII"},
}
"""Headers of a request with `LARGE` by the status of its response."""


class Hasty(Protocol):
    """A protocol whose patience a test can await."""

    head_timeout = 0.1
    linger_timeout = 0.2
    max_discarded = 1_000_000


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve() as port:
        yield port


def with_urllib(port: int, headers: dict[str, str]) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", LARGE, headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.read()
    return refused.value.code


def with_http_client(port: int, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/graphql", iter([LARGE] * 2), headers, encode_chunked=True)
    response = connection.getresponse()
    response.read()
    return response.status


def with_curl(port: int, headers: dict[str, str]) -> int:
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not installed here")
    options = [option for header in headers.items() for option in ("--header", ": ".join(header))]
    command = [curl, "--silent", "--show-error", "--data-binary", "@-", "--write-out", "\n%{http_code}", *options]
    url = f"http://127.0.0.1:{port}/graphql"
    answer = subprocess.run([*command, url], input=LARGE, check=True, capture_output=True, timeout=20).stdout
    return int(answer.splitlines()[-1])


def with_a_socket(port: int, headers: dict[str, str]) -> int:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\n" + fields + LENGTH + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head + LARGE)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split(b" ")[1])


@pytest.mark.parametrize("client", [with_urllib, with_http_client, with_curl, with_a_socket])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_client_that_is_still_sending_reads_the_refusal(
    port: int, client: Callable[[int, dict[str, str]], int], status: str
) -> None:
    headers = {"Accept": "application/json", **REFUSALS[status]}

    assert [client(port, headers) for _ in range(TIMES)] == [int(status)] * TIMES


@pytest.mark.parametrize("status", REFUSALS)
def test_fetch_of_node_reads_the_refusal(port: int, status: str, node: tuple[str, Path]) -> None:
    program, folder = node
    script = """
        const [url, headers, times] = process.argv.slice(1)
        for (let i = 0; i < times; i++) {
            const options = {method: 'POST', headers: JSON.parse(headers), body: 'x'.repeat(5_000_000)}
            const answer = await fetch(url, options).then(async (answer) => [answer.status, await answer.text()])
                .catch((error) => [String(error.cause)])
            console.log(answer[0])
        }"""
    command = [program, "--input-type=module", "--eval", script, "--", f"http://127.0.0.1:{port}/graphql"]
    arguments = [json.dumps(REFUSALS[status]), str(TIMES)]
    answer = subprocess.run([*command, *arguments], cwd=folder, check=True, capture_output=True, timeout=60).stdout

    assert answer.decode().split("\n")[:-1] == [status] * TIMES


@pytest.mark.parametrize("status", REFUSALS)
def test_refuses_before_it_asks_for_the_body(port: int, status: str) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name, value in REFUSALS[status].items()).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\n" + fields + LENGTH + b"Expect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece

    assert answer.startswith(b"HTTP/1.1 " + status.encode())
    assert b"connection: close" in answer


@pytest.mark.parametrize("method", [b"POST /nowhere", b"PUT /graphql", b"GET /healthz"])
def test_never_takes_the_rest_of_a_body_for_a_request(port: int, method: bytes) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n"
    head = method + b" HTTP/1.1\r\nHost: gateway\r\n" + JSON + LENGTH + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        answer = connection.recv(65536)
        connection.sendall(smuggled * 10_000)
        while piece := connection.recv(65536):
            answer += piece

    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_reads_the_408_of_a_body_that_goes_on() -> None:
    head = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\n" + JSON + LENGTH + b"\r\n"
    with (
        serve(body_timeout="0.1", max_body_bytes="10000000") as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(head + LARGE[:100])
        answer = connection.recv(65536)
        connection.sendall(LARGE[100:])
        rest = connection.recv(65536)

    assert (answer.split(b" ")[1], rest) == (b"408", b"")


def flood(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


@pytest.mark.parametrize("end", [b"", b"x" * 100_000], ids=["silent", "sending"])
def test_closes_on_a_client_that_does_not_close(end: bytes) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: gateway\r\n" + LENGTH + b"\r\n"
    with serve(Hasty) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        with pytest.raises(OSError, match=r"reset|pipe"):
            flood(connection, end or b"x")

    assert answer.startswith(b"HTTP/1.1 404")


def test_stops_at_once_although_a_refused_client_stays() -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: gateway\r\n" + LENGTH + b"\r\n"
    with socket.socket() as connection:
        with serve() as port:
            connection.settimeout(10)
            connection.connect(("127.0.0.1", port))
            connection.sendall(head)
            assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        # the server has ended: its linger timeout of 30 s is longer than a test may take
        assert Protocol.linger_timeout == 30


async def eager(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, but begin before it has arrived."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        message = await receive()
        while message["more_body"]:
            message = await receive()
        await send({"type": "http.response.body", "body": b"done"})


@pytest.mark.parametrize("fault", [b"", b"x"], ids=["complete", "broken"])
def test_a_response_that_begins_before_the_end_of_the_body_is_the_last(fault: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: gateway\r\n" + CHUNKED + b"\r\n"
    with (
        serve_app(eager, http=Protocol) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(head)
        answer = connection.recv(65536)
        connection.sendall(fault + b"0\r\n\r\n")
        while piece := connection.recv(65536):
            answer += piece

    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer
    assert answer.endswith(b"" if fault else b"done")


def test_closes_idle_connections_when_it_stops() -> None:
    with socket.socket() as connection:
        with serve() as port:
            connection.settimeout(10)
            connection.connect(("127.0.0.1", port))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")

        assert connection.recv(65536) == b""


@pytest.mark.parametrize("second", [b"POST /gra", b"nonsense"])
def test_a_request_under_way_is_answered_before_the_next_is_refused(second: bytes) -> None:
    first = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\n" + JSON + b"X-API-Key: demo\r\nContent-Length: %d\r\n\r\n"
    query = b'{"query": "{ agents { totalCount } }"}'
    with serve(Hasty, upstream_timeout="0.5", upstream_url="http://127.0.0.1:9") as port:
        answer = talk(port, first % len(query) + query + second)

    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"408" if b"POST" in second else b"400"]
