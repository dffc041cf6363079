"""One connection, byte by byte and by a clock that the test sets."""

import asyncio
import gzip
import random
from collections.abc import Mapping

import pytest

from gateway.upstream.transport.base import ConnectError, InvalidResponse, ReadTimeout, Request
from gateway.upstream.transport.http1 import MAX_HEAD, Connection
from gateway.upstream.transport.pool import IDLE_TIMEOUT, QUIET_PERIOD, Pool
from tests.raw_upstream import answer, options, raw_upstream


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time the test puts on."""

    ahead = 0.0

    def time(self) -> float:
        return self.ahead


LOOPS = {"clock": Clock}


class Socket(asyncio.Transport):
    """Takes what is sent."""

    def __init__(self, unsent: int = 0) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.closed = False
        self.unsent = unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.closed = True

    close = abort


class Taken:
    """Takes an answer."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, Mapping[str, str]]] = []
        self.body = b""

    def on_send(self, generation: int) -> None:
        """Hear of it."""

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.heads.append((status, headers))

    def on_data(self, chunk: bytes) -> None:
        self.body += chunk


def opened(socket: Socket) -> Connection:
    connection = Connection(asyncio.get_running_loop(), lambda _: None)
    connection.connection_made(socket)
    return connection


async def put_on(seconds: float) -> None:
    """Let time pass, and what is due happen."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.ahead += seconds
    for _ in range(9):
        await asyncio.sleep(0)


CHUNKED = b"HTTP/1.1 200 OK\r\nX-A: b \r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n"
ANSWERS = {
    "length": answer(b"{}", "200 OK", "X-A: b"),
    "chunks": CHUNKED,
    "interim": b"HTTP/1.1 100 Continue\r\nX-A: a\r\n\r\n" + answer(b"{}", "200 OK", "x-a: b"),
}


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_may_come_in_single_bytes(data: bytes) -> None:
    connection, taken = opened(Socket()), Taken()
    done = connection.send(b"request", taken, 1)

    for at in range(len(data)):
        assert not done.done()
        connection.data_received(data[at : at + 1])

    await done
    assert taken.body == b"{}"
    assert [(status, headers["x-a"]) for status, headers in taken.heads] == [(200, "b")]
    assert connection.reusable


@pytest.mark.parametrize("status", ["099 Odd", "000 None", "101 Switching"])
async def test_a_status_that_ends_no_request_is_refused(status: str) -> None:
    connection, taken = opened(Socket()), Taken()
    done = connection.send(b"", taken, 1)

    connection.data_received(answer(b"", status))

    with pytest.raises(InvalidResponse):
        await done
    assert not taken.heads


HEADS = {
    "one header": b"X: " + b"x" * MAX_HEAD + b"\r\n",
    "many headers": b"".join(b"X-%d: x\r\n" % i for i in range(MAX_HEAD // 4)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("size", [2**20, 2**12])
async def test_a_head_beyond_the_cap_is_refused_in_one_piece_and_in_many(head: bytes, size: int) -> None:
    connection, taken = opened(Socket()), Taken()
    data = answer().replace(b"\r\n", b"\r\n" + head, 1)
    done = connection.send(b"", taken, 1)

    for at in range(0, len(data), size):
        if not done.done():
            connection.data_received(data[at : at + size])

    with pytest.raises(InvalidResponse):
        await done
    assert not taken.heads


async def test_a_body_beyond_the_cap_of_a_head_is_no_head() -> None:
    connection, taken = opened(Socket()), Taken()
    done = connection.send(b"", taken, 1)

    connection.data_received(answer(bytes(3 * MAX_HEAD)))

    await done
    assert len(taken.body) == 3 * MAX_HEAD


@pytest.mark.parametrize("method", ["on_head", "on_data"])
async def test_what_the_handler_raises_reaches_the_caller(method: str) -> None:
    def refuse(*_: object) -> None:
        raise refusal

    refusal = LookupError("mine")
    socket, taken = Socket(), Taken()
    setattr(taken, method, refuse)
    connection = opened(socket)
    done = connection.send(b"", taken, 1)

    connection.data_received(CHUNKED)

    with pytest.raises(LookupError) as caught:
        await done
    assert caught.value is refusal
    assert socket.closed


async def test_a_connection_with_unsent_bytes_is_not_used_again() -> None:
    socket = Socket(unsent=1)
    connection = opened(socket)
    done = connection.send(b"", Taken(), 1)

    connection.data_received(answer())

    await done
    assert socket.closed


async def test_nothing_is_sent_over_a_closed_connection() -> None:
    socket = Socket()
    connection = opened(socket)

    connection.eof_received()

    with pytest.raises(ConnectError):
        connection.send(b"", Taken(), 1)
    assert not socket.sent


async def test_what_comes_for_a_call_that_was_given_up_is_not_missed_by_the_next() -> None:
    connection, taken = opened(Socket()), Taken()
    given_up = connection.send(b"", taken, 1)

    given_up.cancel()
    connection.data_received(answer(b"first"))

    assert given_up.cancelled()


async def test_each_call_is_timed_out_in_its_own_time() -> None:
    connections = [opened(Socket()) for _ in range(3)]
    calls = []
    for connection in connections:
        calls.append(connection.send(b"", Taken(), 10))
        await put_on(3)

    ended = [[call.done() for call in calls]]
    for _ in range(3):
        ended.append([call.done() for call in calls])
        await put_on(3)

    assert ended == [[False] * 3, [False] * 3, [True, False, False], [True, True, False]]
    assert [type(call.exception()) for call in calls] == [ReadTimeout] * 3


async def test_the_time_of_one_call_does_not_end_the_next() -> None:
    connection = opened(Socket())
    connection.send(b"", Taken(), 10)
    connection.data_received(answer())
    await put_on(9)

    second = connection.send(b"", Taken(), 10)
    await put_on(9)
    still = second.done()
    await put_on(2)

    assert not still
    assert isinstance(second.exception(), ReadTimeout)


async def test_a_shorter_time_after_a_longer_one_counts() -> None:
    connection = opened(Socket())
    connection.rest(IDLE_TIMEOUT)

    call = connection.send(b"", Taken(), 1)
    await put_on(2)

    assert isinstance(call.exception(), ReadTimeout)


async def test_an_idle_connection_is_kept_for_a_while_and_then_closed() -> None:
    async with raw_upstream() as upstream:
        pool = Pool(options(upstream.url, 10, 2))
        await pool.send(Request("GET", "/agents", {}), Taken())
        await put_on(IDLE_TIMEOUT - 1)
        await pool.send(Request("GET", "/agents", {}), Taken())
        kept = upstream.connections

        await put_on(IDLE_TIMEOUT + 1)
        await upstream.left.wait()

        await pool.send(Request("GET", "/agents", {}), Taken())
        await pool.aclose()
    assert (kept, upstream.connections) == (1, 2)


async def test_a_connection_is_quiet_before_another_tenant_gets_it() -> None:
    async with raw_upstream() as upstream:
        pool = Pool(options(upstream.url, 10, 1))

        def call(tenant: str) -> "asyncio.Task[None]":
            return asyncio.create_task(pool.send(Request("GET", f"/{tenant}", {}, None, tenant), Taken()))

        await call("a")
        others = [call("b"), call("c"), call("b")]
        await put_on(0)
        await call("a")
        before = list(upstream.calls)
        others[1].cancel()
        await put_on(QUIET_PERIOD / 2)
        await put_on(QUIET_PERIOD / 2)
        await others[0]
        await others[2]

        await pool.aclose()
    assert before == ["GET /a", "GET /a"]
    assert upstream.calls == ["GET /a", "GET /a", "GET /b", "GET /b"]
    assert upstream.connections == 1


async def test_a_slot_that_is_freed_in_a_quiet_period_is_granted_at_once() -> None:
    async with raw_upstream() as upstream:
        pool = Pool(options(upstream.url, 10, 1))
        await pool.send(Request("GET", "/agents", {}, None, "a"), Taken())
        waiting = asyncio.create_task(pool.send(Request("GET", "/agents", {}, None, "b"), Taken()))
        await put_on(0)

        upstream.push(b"x")
        await waiting

        await pool.aclose()
    assert upstream.connections == 2


def mutated(draw: random.Random) -> bytes:
    data = bytearray(draw.choice([*ANSWERS.values(), answer(gzip.compress(b"{}"), "200 OK", "Content-Encoding: gzip")]))
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data))
        data[at : at + draw.randint(0, 2)] = draw.choice([b"", b"\r\n", b"0", b"9", b"A", b"HTTP/1.1 200 OK\r\n\r\n"])
    return bytes(data)


@pytest.mark.parametrize("seed", range(10))
async def test_a_reused_connection_has_nothing_left_of_a_broken_response(seed: int) -> None:
    draw, again = random.Random(seed), 0
    for _ in range(200):
        connection, taken = opened(Socket()), Taken()
        first = connection.send(b"", Taken(), 1)
        for part in (data := mutated(draw))[: (half := draw.randrange(len(data)))], data[half:]:
            connection.data_received(part)
        if connection.reusable:
            again += 1
            second = connection.send(b"", taken, 1)
            connection.data_received(answer(b"next"))
            await second
            assert (taken.body, connection.reusable) == (b"next", True)
        connection.connection_lost(None)
        assert first.done()
        first.exception()
    assert again > 10
