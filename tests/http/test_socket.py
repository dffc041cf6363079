"""The gateway on a real socket: what arrives slowly, oversized, upgraded or as no HTTP at all."""

import asyncio
import json
import socket

import httpx
import pytest

from gateway.http.server import Protocol
from gateway.http.writer import Writer
from tests.server import serve, talk

BODY = b'{"query": "{ __typename }"}'
HEAD = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nConnection: close\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
UPGRADE = (
    b"GET /graphql HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
)


class Hasty(Protocol):
    """A protocol whose patience a test can await."""

    head_timeout = 0.05
    max_head = 4096


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_tells_no_server_name_and_sends_head_without_a_body() -> None:
    with serve() as port:
        answer = talk(port, REQUEST)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status(answer), json.loads(body)) == (200, {"data": {"__typename": "Query"}})
    assert b"server:" not in head.lower()
    assert b"cache-control: private, no-store" in head


def test_refuses_a_websocket_and_logs_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with serve() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(UPGRADE)
            answer = connection.recv(65536)
        after = http.post("/graphql", content=BODY, headers={"Content-Type": "application/json"})

    assert status(answer) == 400
    assert b'{"errors":' in answer
    assert after.status_code == 200
    assert caplog.messages == []


def test_closes_a_connection_without_a_request() -> None:
    with serve(Hasty) as port:
        answer = talk(port)

    assert answer == b""


def test_closes_a_connection_with_blank_lines_after_a_response() -> None:
    with serve(Hasty) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(REQUEST.replace(b"close", b"keep-alive"))
        answer = connection.recv(65536)
        connection.sendall(b"\r\n")

        assert (status(answer), connection.recv(65536)) == (200, b"")


@pytest.mark.parametrize("pieces", [[b"G"], [HEAD], [REQUEST.replace(b"close", b"keep-alive"), b"POST /gra"]])
def test_a_head_that_arrives_too_slowly_times_out(pieces: list[bytes]) -> None:
    with serve(Hasty) as port:
        answer = talk(port, *pieces)

    last = answer[answer.rindex(b"HTTP/1.1 ") :]
    assert status(last) == 408
    assert json.loads(last.partition(b"\r\n\r\n")[2])["errors"][0]["extensions"] == {"code": "BAD_REQUEST"}


def test_reads_a_head_that_comes_in_pieces() -> None:
    with serve() as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for piece in (REQUEST[:9], REQUEST[9:40], REQUEST[40:]):
            connection.sendall(piece)
            talk(port, REQUEST)  # the gateway has read the piece before it answers this
        answer = connection.recv(65536)

    assert status(answer) == 200


@pytest.mark.parametrize(
    "head", [b"GET /" + b"x" * 5000, HEAD + b"X: " + b"y" * 5000, HEAD + b"X: y\r\n" * 1000], ids=["URL", "one", "many"]
)
def test_refuses_a_head_too_large_without_reading_its_end(head: bytes) -> None:
    with serve(Hasty) as port:
        answer = talk(port, head)

    assert status(answer) == 431


def test_reads_a_large_body_after_a_small_head() -> None:
    body = BODY[:-1] + b" " * 100_000 + b"}"
    with serve(Hasty) as port:
        answer = talk(port, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert status(answer) == 200


@pytest.mark.parametrize("length", [b"Content-Length: 9999999", b"Transfer-Encoding: chunked"])
def test_answers_a_body_too_large_before_its_end(length: bytes) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with serve(max_body_bytes="1024") as port:
        answer = talk(port, HEAD + length + b"\r\n\r\n", chunk)

    assert status(answer) == 413
    assert b"connection: close" in answer


def test_a_body_that_arrives_too_slowly_times_out() -> None:
    with serve(body_timeout="0.05") as port:
        answer = talk(port, HEAD + b"Content-Length: 100\r\n\r\n{")

    assert status(answer) == 408


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: gateway\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"X-API-Key: a\nb\r\n\r\n",
        HEAD + b"X-Request-Id: a\rSet-Cookie: b=c\r\n\r\n",
    ],
    ids=lambda noise: repr(noise[:20]),
)
def test_refuses_bytes_that_are_not_http(noise: bytes) -> None:
    with serve() as port:
        answer = talk(port, noise)
        after = talk(port, REQUEST)

    assert 400 <= status(answer) < 500
    assert b"set-cookie" not in answer.lower()
    assert status(after) == 200


class Wire(asyncio.Transport):
    """A transport that keeps what it is to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_sends_the_writes_of_one_turn_in_one_piece() -> None:
    wire = Wire()
    writer = Writer(wire, asyncio.get_running_loop())

    writer.write(b"head ")
    writer.write(b"body")
    before = list(wire.sent)
    await asyncio.sleep(0)
    writer.write(b"more")
    writer.close()

    assert (before, wire.sent, writer.is_closing()) == ([], [b"head body", b"more"], True)


async def test_sends_nothing_after_a_disconnect() -> None:
    wire = Wire()
    writer = Writer(wire, asyncio.get_running_loop())

    writer.write(b"answer")
    wire.closed = True
    await asyncio.sleep(0)

    assert wire.sent == []
