"""Clients that ask much and read little."""

import select
import socket
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server import Protocol
from tests.http.test_closing import flood
from tests.server import serve_app

SIZE = 16_000_000
"""Bytes of a response, more than the kernel takes for a client that does not read."""
REQUEST = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
REFUSED = b"GET / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\n"


class Impatient(Protocol):
    """A protocol whose patience a test can await."""

    write_timeout = 0.2
    write_rate = 1024 * 1024


class Patient(Protocol):
    """A protocol that looks often and asks little."""

    write_timeout = 0.1
    write_rate = 1024
    linger_timeout = 0.3


class Full(Protocol):
    """A protocol that keeps little of what clients do not read."""

    max_waiting = 2 * SIZE


async def large(scope: Scope, _: Receive, send: Send) -> None:
    """Answer with 16 MB."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % SIZE)]})
        await send({"type": "http.response.body", "body": bytes(SIZE)})


class Counting:
    """Answers as `large`, and counts the requests."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.count += scope["type"] == "http"
        await large(scope, receive, send)


def asking(port: int, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(request)
    return connection


def wait_for_reset(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)  # errors and hang-ups are always told
    return bool(poll.poll(10_000))


def read(connection: socket.socket) -> int:
    size = 0
    while piece := connection.recv(1 << 20):
        size += len(piece)
    return size


@pytest.mark.parametrize(
    "request_", [REQUEST, CLOSING, REFUSED, REQUEST * 3], ids=["kept", "closing", "early", "piped"]
)
def test_disconnects_clients_that_never_read(request_: bytes) -> None:
    with serve_app(large, http=Impatient) as port, ExitStack() as stack:
        connections = [stack.enter_context(asking(port, request_)) for _ in range(5)]

        assert [wait_for_reset(connection) for connection in connections] == [True] * 5


def test_disconnects_a_client_that_reads_single_bytes() -> None:
    with serve_app(large, http=Impatient) as port, asking(port, CLOSING) as connection:
        poll = select.poll()
        poll.register(connection, 0)
        read = 0
        while not poll.poll(20):
            read += len(connection.recv(1))

    assert 0 < read < 500


@pytest.mark.parametrize("request_", [CLOSING, REFUSED], ids=["closing", "early"])
def test_lets_a_client_read_that_is_slow_to_begin(request_: bytes) -> None:
    with serve_app(large, http=Impatient) as port, asking(port, request_) as connection:
        while not select.select([connection], [], [], 10)[0]:
            pass

        assert read(connection) > SIZE


def test_lets_a_client_read_that_goes_on_slowly() -> None:
    with serve_app(large, http=Patient) as port, asking(port, CLOSING) as connection:
        poll = select.poll()
        poll.register(connection, 0)
        size = 0
        while size < SIZE // 2:
            size += len(connection.recv(1 << 20))
            poll.poll(20)

        assert size + read(connection) > SIZE


def test_closes_on_a_client_that_has_read_all_and_stays() -> None:
    with serve_app(large, http=Patient) as port, asking(port, REFUSED) as connection:
        assert read(connection) > SIZE
        with pytest.raises(OSError, match=r"reset|pipe"):
            flood(connection, b"x")


def test_limits_the_waiting_bytes_of_all_clients_together() -> None:
    with serve_app(large, http=Full) as port, ExitStack() as stack:
        first, second, third = (stack.enter_context(asking(port, CLOSING)) for _ in range(3))

        assert wait_for_reset(first)
        assert read(third) > SIZE
        assert read(second) > SIZE


def test_starts_no_request_before_the_client_has_read() -> None:
    app = Counting()
    with serve_app(app, http=Impatient) as port, asking(port, REQUEST * 2) as connection:
        assert connection.recv(1)
        connection.sendall(REQUEST * 2)

        assert wait_for_reset(connection)
        assert app.count == 1


def test_serves_a_pipeline_as_fast_as_it_is_read() -> None:
    app = Counting()
    with serve_app(app, http=Protocol) as port, asking(port, REQUEST * 3) as connection:
        assert connection.recv(1)
        connection.sendall(CLOSING)

        assert read(connection) > 4 * SIZE
    assert app.count == 4


def test_refuses_a_broken_body_of_a_request_that_waits() -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
    app = Counting()
    with serve_app(app, http=Protocol) as port, asking(port, REQUEST) as connection:
        size = len(connection.recv(1))
        connection.sendall(chunked)
        connection.sendall(b"x\r\n")

        assert size + read(connection) > SIZE
    assert app.count == 1


def test_serves_a_kept_connection_after_a_slow_response() -> None:
    with serve_app(large, http=Impatient) as port, asking(port, REQUEST) as connection:
        size = 0
        while size < SIZE:
            size += len(connection.recv(1 << 20))
        connection.sendall(CLOSING)

        assert read(connection) > SIZE
