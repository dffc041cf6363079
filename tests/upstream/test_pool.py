"""The built-in transport: who gets a connection, which one is used again, and what is given up when and how."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from gateway.settings import Settings
from gateway.upstream import errors
from gateway.upstream.attempt import HttpClient, Response
from gateway.upstream.transport.base import Request
from gateway.upstream.transport.pool import QUIET_PERIOD, Pool
from tests.raw_upstream import BOTH_LOOPS, RawUpstream, answer, options, raw_upstream

LOOPS = BOTH_LOOPS
KEY = {"X-API-Key": "demo"}
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"


class Line:
    """A pool behind a client."""

    def __init__(self, url: str, *, timeout: float = 5, connections: int = 1, ca: trustme.CA | None = None) -> None:
        self.places = connections
        self.pool = Pool(options(url, timeout, connections, ca))
        self.http = HttpClient(Settings(upstream_timeout=timeout), self.pool)

    def call(self, target: str = "/agents", body: bytes | None = None, tenant: str = "") -> "asyncio.Task[Response]":
        """Start a call."""
        request = Request("GET" if body is None else "POST", target, KEY, body, tenant)
        return asyncio.create_task(self.http.attempt(request))

    async def body(self, target: str = "/agents") -> bytes:
        """Make a call."""
        return (await self.call(target)).body

    async def settle(self, reached: Callable[[], bool]) -> None:
        """Let the loop run until something holds."""
        while not reached():  # noqa: ASYNC110  # there is no event of what the pool notices
            await asyncio.sleep(0)

    @property
    def untaken(self) -> int:
        """Places that no call holds."""
        return self.pool.state.free + self.pool.state.idle


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as opened:
        yield opened


@pytest.fixture
async def line(upstream: RawUpstream) -> AsyncIterator[Line]:
    opened = Line(upstream.url)
    yield opened
    await opened.http.aclose()
    assert opened.untaken == opened.places
    assert not opened.pool.state.open


async def failure(call: "asyncio.Task[Response]") -> tuple[type[BaseException], bool]:
    """The exception that a call ends with, and whether the upstream may have seen it."""
    with pytest.raises(errors.Failed) as caught:
        await call
    return type(caught.value), caught.value.reached


async def test_calls_one_after_the_other_share_a_connection(upstream: RawUpstream, line: Line) -> None:
    for _ in range(3):
        await line.body()

    assert upstream.connections == 1


async def test_an_idle_connection_that_the_upstream_closes_is_not_used_again(upstream: RawUpstream, line: Line) -> None:
    upstream.play((answer(), "close"), (answer(b"next"), "keep"))
    await line.body()
    await line.settle(lambda: not line.pool.state.idle)

    second = await line.body()

    assert (second, upstream.connections) == (b"next", 2)


@pytest.mark.parametrize("data", [b"\r\n", b"x", answer(b"evil")])
async def test_a_connection_that_speaks_unasked_is_closed(upstream: RawUpstream, line: Line, data: bytes) -> None:
    upstream.play((answer(), "keep"), (answer(b"next"), "keep"))
    await line.body()

    upstream.push(data)
    await upstream.left.wait()

    assert (await line.body(), upstream.connections) == (b"next", 2)


@pytest.mark.parametrize("data", [answer(b"evil"), b"H"])
async def test_what_comes_just_before_a_request_is_sent_is_no_answer(
    upstream: RawUpstream, line: Line, data: bytes
) -> None:
    upstream.play((answer(), "keep"), (answer(b"next"), "keep"))
    await line.body()

    upstream.push(data)  # which the loop has not read when the next call begins
    reply = await line.http.attempt(Request("GET", "/agents", KEY))

    assert (reply.body, upstream.served_by) == (b"next", [1, 2])


TURNS: dict[str, tuple[int, str, list[int]]] = {
    "its own": (2, "abaab", [1, 2, 1, 1, 2]),
    "a free place before anothers": (3, "aabac", [1, 1, 2, 1, 3]),
    "the one silent longest": (3, "abcad", [1, 2, 3, 1, 2]),
    "its own again": (3, "abcdada", [1, 2, 3, 1, 2, 1, 2]),
    "the only one": (1, "abba", [1, 1, 1, 1]),
}


@pytest.mark.parametrize(("connections", "tenants", "served_by"), TURNS.values(), ids=TURNS)
async def test_a_tenant_keeps_to_its_connection(
    upstream: RawUpstream, connections: int, tenants: str, served_by: list[int]
) -> None:
    line = Line(upstream.url, connections=connections)
    upstream.play((answer(), "keep"))

    for tenant in tenants:
        await line.call(tenant=tenant)

    assert upstream.served_by == served_by
    await line.settle(lambda: line.untaken == connections)
    await line.http.aclose()


async def test_another_tenants_connection_with_unread_input_is_not_used(upstream: RawUpstream) -> None:
    line = Line(upstream.url, connections=2)
    for tenant in "ab":
        await line.call(tenant=tenant)

    await asyncio.sleep(QUIET_PERIOD)
    upstream.push(b"x")
    await line.http.attempt(Request("GET", "/agents", KEY, None, "c"))

    assert upstream.served_by == [1, 2, 3]
    await line.http.aclose()


async def test_all_that_was_open_is_dropped_once(upstream: RawUpstream) -> None:
    line = Line(upstream.url, connections=2)
    upstream.play((answer(), "keep"), (b"", "hang"))
    first = await line.call(tenant="a")
    under_way = line.call(tenant="b")
    await line.settle(lambda: len(upstream.requests) == 2)

    dropped = [line.pool.close_generation(first.generation), line.pool.close_generation(first.generation)]

    assert dropped == [2, 0]
    assert await failure(under_way) == (errors.Unavailable, True)
    assert line.untaken == 2
    await line.http.aclose()


BEHIND = {"an answer": answer(b"evil"), "half an answer": answer(b"evil")[:-2], "a letter": b"H", "a space": b" "}


@pytest.mark.parametrize("more", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("header", ["X-A: b", "Connection: close"])
async def test_what_follows_an_answer_reaches_no_other_call(
    upstream: RawUpstream, line: Line, more: bytes, header: str
) -> None:
    upstream.play((answer(b"first", "200 OK", header) + more, "hang"), (answer(b"next"), "keep"))

    bodies = [await line.body(), await line.body()]

    assert (bodies, upstream.connections) == ([b"first", b"next"], 2)


async def test_a_connection_is_not_used_again_where_the_upstream_says_so(upstream: RawUpstream, line: Line) -> None:
    upstream.play((answer(b"{}", "200 OK", "Connection: close"), "hang"), (answer(), "keep"))

    await line.body()
    await upstream.left.wait()
    await line.body()

    assert upstream.connections == 2


async def test_an_answer_that_comes_before_its_request_is_sent_is_taken(line: Line) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"{}", "413 Content Too Large"))
        await writer.drain()
        await left.wait()
        writer.transport.abort()

    left = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**10)
    line = Line(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    reply = await line.call(body=bytes(2**24))

    assert reply.status == 413
    assert line.pool.state.free == 1
    left.set()
    await line.http.aclose()
    server.close()


async def test_endless_interim_answers_are_given_up(upstream: RawUpstream, line: Line) -> None:
    upstream.play((b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n" * 20_000, "hang"))

    assert await failure(line.call()) == (errors.BadResponse, True)


async def test_endless_trailers_are_given_up(upstream: RawUpstream, line: Line) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    upstream.play((head + b"X-A: b\r\n" * 100_000, "hang"))

    assert await failure(line.call()) == (errors.BadResponse, True)


async def test_places_are_given_in_the_order_of_asking(upstream: RawUpstream, line: Line) -> None:
    calls = [line.call(f"/agents/{i}") for i in range(20)]

    await asyncio.gather(*calls)

    assert upstream.calls == [f"GET /agents/{i}" for i in range(20)]
    assert upstream.connections == 1


async def test_a_place_is_free_as_soon_as_its_call_is_given_up(upstream: RawUpstream, line: Line) -> None:
    upstream.play((HALF, "hang"), (answer(), "keep"))
    first, second, third = (line.call(f"/agents/{i}") for i in range(3))
    await upstream.seen.wait()

    second.cancel()
    first.cancel()

    assert (await third).body == b"{}"
    assert first.cancelled()
    assert second.cancelled()
    assert upstream.calls == ["GET /agents/0", "GET /agents/2"]


async def test_a_place_that_comes_in_the_moment_of_giving_up_goes_to_the_next(
    upstream: RawUpstream, line: Line
) -> None:
    upstream.play((HALF, "hang"), (answer(), "keep"))
    first, second, third = (line.call(f"/agents/{i}") for i in range(3))
    await upstream.seen.wait()

    first.cancel()
    await line.settle(lambda: line.pool.state.waiting == 1)  # the second has its slot, and has not run since
    second.cancel()

    assert (await third).body == b"{}"
    assert second.cancelled()
    assert upstream.calls == ["GET /agents/0", "GET /agents/2"]


async def test_a_call_given_up_while_it_connects_leaves_nothing_behind(upstream: RawUpstream) -> None:
    line = Line(upstream.url.replace("http:", "https:"))
    call = line.call()
    await line.settle(lambda: upstream.connections > 0)

    call.cancel()
    await asyncio.wait([call])

    await upstream.left.wait()
    assert line.untaken == 1
    await line.http.aclose()


async def test_a_connection_that_closes_on_its_way_to_a_waiting_call_is_replaced(
    upstream: RawUpstream, line: Line
) -> None:
    upstream.play((answer(), "keep"), (answer(b"next"), "keep"))
    first, second = line.call(), line.call()
    await line.settle(lambda: line.pool.state.waiting == 1)
    await line.settle(lambda: line.pool.state.waiting == 0)  # the second has its slot, and has not run since

    line.pool.close_generation(0)

    assert [(await first).body, (await second).body] == [b"{}", b"next"]
    assert upstream.connections == 2


async def test_closing_ends_what_is_under_way(upstream: RawUpstream) -> None:
    upstream.play((HALF, "hang"))
    reading, connecting = Line(upstream.url), Line(upstream.url.replace("http:", "https:"))
    calls = [reading.call(), reading.call(), connecting.call(), connecting.call()]
    await upstream.seen.wait()
    await connecting.settle(lambda: upstream.connections == 2)

    await reading.http.aclose()
    await connecting.http.aclose()

    assert [(await failure(call))[1] for call in calls] == [True, False, False, False]
    assert await failure(reading.call()) == (errors.Unavailable, False)
    assert (reading.untaken, connecting.untaken) == (1, 1)
    assert not reading.pool.state.open


BAD: dict[str, tuple[str, str]] = {
    "line in a header": ("/agents", "a\r\nX-Evil: b"),
    "line feed": ("/agents", "a\nX-Evil: b"),
    "null": ("/agents", "a\0"),
    "beyond Latin-1": ("/agents", "ключ"),
    "line in the target": ("/agents\r\nX-Evil: b", "demo"),
    "space in the target": ("/agents HTTP/1.1", "demo"),
}


@pytest.mark.parametrize(("target", "key"), BAD.values(), ids=BAD)
async def test_what_is_no_request_is_not_sent(upstream: RawUpstream, line: Line, target: str, key: str) -> None:
    with pytest.raises(errors.Failed) as caught:
        await line.http.attempt(Request("GET", target, {"X-API-Key": key}))

    assert not caught.value.reached
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("http://api.example", "api.example"),
        ("https://api.example:443/", "api.example"),
        ("http://api.example:8080", "api.example:8080"),
        ("http://[::1]:81/v1/", "[::1]:81"),
    ],
)
async def test_a_request_names_the_host_and_stays_below_the_base(base: str, host: str) -> None:
    pool = Pool(options(base, 1, 1))

    request = pool.serialise(Request("POST", "/numbers", {"X-A": "é"}, b"{}"))

    path = "/v1" if "/v1" in base else ""
    lines = [f"POST {path}/numbers HTTP/1.1", f"Host: {host}", "User-Agent: omnia-graphql-gateway", "X-A: é"]
    assert request == "\r\n".join([*lines, "Content-Length: 2", "", "{}"]).encode("latin-1")


@pytest.mark.asyncio(loop_factories=["uvloop"])  # asyncio tells no difference
async def test_a_body_without_length_must_end_with_its_tls_connection() -> None:
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    async with raw_upstream(context) as upstream:
        upstream.play((b"HTTP/1.1 200 OK\r\n\r\n{}", "close"), (b"HTTP/1.1 200 OK\r\n\r\n{}", "reset"))
        line = Line(upstream.url, ca=ca)

        whole = await line.body()
        cut = await failure(line.call())

        await line.http.aclose()
    assert (whole, cut) == (b"{}", (errors.BadResponse, True))


async def test_a_name_that_is_no_name_counts_as_not_sent() -> None:
    line = Line(f"http://{'a' * 64}.example")

    assert await failure(line.call()) == (errors.Unavailable, False)
    assert line.untaken == 1


SAMPLES = [
    answer(b'{"a": 1}', "200 OK", "X-Request-Id: r1"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + answer(b"{}", "404 Not Found", "Connection: close"),
]


def mutated(seed: int) -> bytes:
    """A good answer with a few bytes changed, taken out or put in."""
    draw = random.Random(seed)
    data = bytearray(draw.choice(SAMPLES))
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data))
        data[at : at + draw.randint(0, 2)] = draw.choice(
            [b"", b"\r", b"\n", b"0", b"9", b":", b"\0", draw.randbytes(3)]
        )
    return bytes(data)


async def test_no_answer_however_broken_hangs_a_call_or_costs_a_place(upstream: RawUpstream, line: Line) -> None:
    kinds: set[type[Response | errors.Failed]] = set()
    upstream.play(*((mutated(seed), "close") for seed in range(2000)), (answer(b"next"), "keep"))

    while len(upstream.script) > 1:
        try:
            kinds.add(type(await line.call()))
        except errors.Failed as failed:
            kinds.add(type(failed))

    await line.settle(lambda: not line.pool.state.idle)
    assert await line.body() == b"next"
    assert kinds >= {Response, errors.BadResponse}
