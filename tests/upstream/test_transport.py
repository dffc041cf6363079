"""The network at its worst, the same for every transport that ships: what is told, and what was sent."""

import asyncio
import gzip
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trustme

from gateway.settings import Settings
from gateway.upstream import errors
from gateway.upstream.attempt import HttpClient, error_for
from gateway.upstream.transport.base import Request, Transport
from tests.raw_upstream import BOTH_LOOPS, RawUpstream, Then, answer, built_in, plain_httpx, raw_upstream

LOOPS = BOTH_LOOPS
KEY = {"X-API-Key": "demo", "Accept": "application/json"}
MAX_BYTES = 2**20
BOMB = gzip.compress(bytes(32 * MAX_BYTES))


Open = Callable[..., HttpClient]


@pytest.fixture(params=[built_in, plain_httpx], ids=["built-in", "httpx"])
def carry(request: pytest.FixtureRequest) -> Callable[..., Transport]:
    chosen: Callable[..., Transport] = request.param
    return chosen


@pytest.fixture
async def connect(carry: Callable[..., Transport]) -> AsyncIterator[Open]:
    """Open clients that the test need not close."""
    clients: list[HttpClient] = []

    def open_client(url: str, *, timeout: float = 5, connections: int = 2, ca: trustme.CA | None = None) -> HttpClient:
        settings = Settings(upstream_timeout=timeout, max_upstream_bytes=MAX_BYTES)
        client = HttpClient(settings, carry(url, timeout, connections, ca))
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        await client.aclose()


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """A REST API that answers with the target of the request, and its connections."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                writer.write(answer((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    server.close()
    for writer in connections:
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as opened:
        yield opened


async def fail(client: HttpClient, method: str = "GET") -> tuple[type[Exception], bool]:
    """The exception that an attempt ends with, and whether the upstream may have seen the call."""
    with pytest.raises(errors.Failed) as caught:
        await client.attempt(Request(method, "/agents", KEY))
    return type(caught.value), caught.value.reached


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"
MANY = "".join(f"X-{i}: {i}\r\n" for i in range(100_000)).encode()
GZIP, DEFLATE = "Content-Encoding: gzip", "Content-Encoding: deflate"
PIECES = f"HTTP/1.1 200 OK\r\n{GZIP}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
PIECES += b"".join(b"1\r\n%c\r\n" % byte for byte in gzip.compress(b"{") + gzip.compress(b"}")) + b"0\r\n\r\n"
GZIPPED = answer(gzip.compress(b"{}")[:-1], "200 OK", "Content-Encoding: gzip")
BROKEN: dict[str, tuple[bytes, Then, type[errors.Failed]]] = {
    "no answer": (b"", "close", errors.Unavailable),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", "close", errors.Unavailable),
    "reset": (b"", "reset", errors.Unavailable),
    "garbage": (b"BLA BLA\r\n\r\n", "close", errors.BadResponse),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "close", errors.BadResponse),
    "header of 1 MB": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20 + b"\r\n\r\n", "close", errors.BadResponse),
    "100,000 headers": (b"HTTP/1.1 200 OK\r\n" + MANY + b"\r\n", "close", errors.BadResponse),
    "two lengths": (answer(b"{}", "200 OK", "Content-Length: 3"), "close", errors.BadResponse),
    "length of no number": (answer(b"{}").replace(b": 2", b": two"), "close", errors.BadResponse),
    "length and chunks": (
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"),
        "close",
        errors.BadResponse,
    ),
    "name with a space": (answer(b"{}", "200 OK", "X-A : b"), "close", errors.BadResponse),
    "only interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 9, "close", errors.Unavailable),
    "other protocol": (
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "close",
        errors.BadResponse,
    ),
    "chunk of no size": (CHUNKED + b"ZZ\r\n{}\r\n", "close", errors.BadResponse),
    "chunks cut off": (CHUNKED + b"2\r\n{}\r\n", "close", errors.BadResponse),
    "body cut off": (LONG, "close", errors.BadResponse),
    "body reset": (LONG, "reset", errors.BadResponse),
    "gzip cut off in the second member": (
        answer(gzip.compress(b"{}") + b"\x1f", "200 OK", GZIP),
        "keep",
        errors.BadResponse,
    ),
    "too many gzip members": (answer(gzip.compress(b"") * 1001, "200 OK", GZIP), "keep", errors.BadResponse),
    "gzip members that are a bomb": (answer(BOMB + BOMB, "200 OK", GZIP), "keep", errors.BadResponse),
    "gzip and something else": (answer(gzip.compress(b"{}") + b"{}", "200 OK", GZIP), "keep", errors.BadResponse),
    "gzip cut off": (GZIPPED, "keep", errors.BadResponse),
    "gzip cut off at once": (answer(BOMB[:4], "200 OK", "Content-Encoding: gzip"), "keep", errors.BadResponse),
    "broken gzip": (answer(BOMB[:10] + b"\xff" * 9, "200 OK", GZIP), "keep", errors.BadResponse),
    "no gzip": (answer(b"{}", "200 OK", "Content-Encoding: gzip"), "keep", errors.BadResponse),
    "encoding not asked for": (answer(b"{}", "200 OK", "Content-Encoding: br"), "keep", errors.BadResponse),
    "too large": (answer(bytes(2 * MAX_BYTES)), "keep", errors.BadResponse),
    "too large and endless": (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(2 * MAX_BYTES), "hang", errors.BadResponse),
    "bomb": (answer(BOMB, "200 OK", "Content-Encoding: gzip"), "keep", errors.BadResponse),
}


@pytest.mark.parametrize(("data", "then", "kind"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_told_and_counts_as_sent(
    connect: Open, upstream: RawUpstream, data: bytes, then: Then, kind: type[errors.Failed]
) -> None:
    upstream.play((data, then))

    failure = await fail(connect(upstream.url))

    assert failure == (kind, True)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("data", [b"", LONG], ids=["before the head", "in the body"])
async def test_an_upstream_that_hangs_is_timed_out(connect: Open, upstream: RawUpstream, data: bytes) -> None:
    upstream.play((data, "hang"))

    failure = await fail(connect(upstream.url, timeout=0.1))

    assert failure == (errors.TimedOut, True)


async def test_a_refused_connection_counts_as_not_sent(connect: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    failure = await fail(connect(f"http://127.0.0.1:{port}"))

    assert failure == (errors.Unavailable, False)


async def test_a_host_without_an_address_counts_as_not_sent(connect: Open) -> None:
    failure = await fail(connect("http://nobody.invalid"))

    assert failure == (errors.Unavailable, False)


async def test_a_connection_that_nobody_accepts_counts_as_not_sent(connect: Open) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)

        failure = await fail(connect(f"http://127.0.0.1:{address[1]}", timeout=0.1))

        for each in waiting:
            each.close()
    assert failure == (errors.TimedOut, False)


async def test_a_call_that_finds_no_free_connection_counts_as_not_sent(connect: Open, upstream: RawUpstream) -> None:
    client = connect(upstream.url, timeout=0.1, connections=1)
    upstream.play((b"", "hang"))
    first = asyncio.create_task(fail(client))
    await upstream.seen.wait()

    second = await fail(client)

    assert second == (errors.TimedOut, False)
    assert await first == (errors.TimedOut, True)
    assert len(upstream.requests) == 1


async def test_certificates_are_verified(connect: Open) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    async with raw_upstream(context) as upstream:
        trusted = await connect(upstream.url, ca=ca).attempt(Request("GET", "/agents", KEY))
        unknown = await fail(connect(upstream.url))

    assert (trusted.status, unknown) == (200, (errors.Unavailable, False))
    assert len(upstream.requests) == 1


async def test_a_certificate_for_another_host_is_refused(connect: Open) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("elsewhere.example").configure_cert(context)
    async with raw_upstream(context) as upstream:
        failure = await fail(connect(upstream.url, ca=ca))

    assert failure == (errors.Unavailable, False)
    assert upstream.requests == []


async def test_a_key_that_is_no_header_is_never_sent(connect: Open, upstream: RawUpstream) -> None:
    client = connect(upstream.url)

    with pytest.raises(errors.Failed) as caught:
        await client.attempt(Request("GET", "/agents", {"X-API-Key": "a\r\nX-Evil: b"}))

    assert not caught.value.reached
    assert upstream.requests == []


async def test_a_handshake_that_hangs_counts_as_not_sent(connect: Open, upstream: RawUpstream) -> None:
    failure = await fail(connect(upstream.url.replace("http:", "https:"), timeout=0.1))

    assert failure == (errors.TimedOut, False)
    assert upstream.requests == []


GOOD: dict[str, tuple[bytes, Then, bytes]] = {
    "whole": (answer(b'{"a": 1}'), "keep", b'{"a": 1}'),
    "chunked": (CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", "keep", b"{}"),
    "until the end": (b"HTTP/1.1 200 OK\r\n\r\n{}", "close", b"{}"),
    "gzip": (answer(gzip.compress(b"{}" * 9), "200 OK", "Content-Encoding: GZIP"), "keep", b"{}" * 9),
    "x-gzip": (answer(gzip.compress(b"{}"), "200 OK", "Content-Encoding: X-GZIP"), "keep", b"{}"),
    "no coding": (answer(b"{}", "200 OK", "Content-Encoding:"), "keep", b"{}"),
    "one coding of two": (answer(gzip.compress(b"{}"), "200 OK", "Content-Encoding: identity, gzip"), "keep", b"{}"),
    "gzip members": (
        answer(gzip.compress(b"{") + gzip.compress(b"") + gzip.compress(b"}"), "200 OK", GZIP),
        "keep",
        b"{}",
    ),
    "gzip members in pieces": (PIECES, "keep", b"{}"),
    "deflate without a header": (answer(zlib.compress(b"{}", wbits=-15), "200 OK", DEFLATE), "keep", b"{}"),
    "deflate": (answer(zlib.compress(b"{}"), "200 OK", "Content-Encoding: deflate"), "keep", b"{}"),
    "after interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),
        "keep",
        b"{}",
    ),
    "just small enough": (answer(bytes(MAX_BYTES)), "keep", bytes(MAX_BYTES)),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "keep", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "keep", b""),
    "HTTP/1.0": (answer().replace(b"/1.1", b"/1.0"), "close", b"{}"),
    "HTTP/1.0, kept": (answer(b"{}", "200 OK", "Connection: keep-alive").replace(b"/1.1", b"/1.0"), "keep", b"{}"),
    "its last": (answer(b"{}", "200 OK", "connection: Close"), "hang", b"{}"),
    "trailers": (CHUNKED + b"2;a=b\r\n{}\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n", "keep", b"{}"),
    "upper case": (b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "keep", b"{}"),
    "spaces": (b"HTTP/1.1 200 OK\r\ncontent-length:2  \r\ncontent-encoding: \t identity \r\n\r\n{}", "keep", b"{}"),
    "no reason": (answer(b"{}", "200"), "keep", b"{}"),
}


@pytest.mark.parametrize(("data", "then", "body"), GOOD.values(), ids=GOOD)
async def test_a_good_answer_is_read_whole_and_the_next_one_too(
    connect: Open, upstream: RawUpstream, data: bytes, then: Then, body: bytes
) -> None:
    upstream.play((data, then), (answer(b"next"), "keep"))
    client = connect(upstream.url, connections=1)

    first = await client.attempt(Request("GET", "/agents?page=1&search=a%2Fb", KEY))
    second = await client.attempt(Request("GET", "/agents", KEY))

    assert (first.body, second.body) == (body, b"next")
    assert upstream.requests[0].startswith(b"GET /agents?page=1&search=a%2Fb HTTP/1.1\r\n")


async def test_a_bomb_costs_no_more_memory_than_the_cap_allows(connect: Open, upstream: RawUpstream) -> None:
    upstream.play((answer(BOMB, "200 OK", "Content-Encoding: gzip"), "keep"))
    client = connect(upstream.url)
    tracemalloc.start()

    failure = await fail(client)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert failure == (errors.BadResponse, True)
    assert peak < 4 * MAX_BYTES


async def test_what_follows_a_packed_body_is_refused(connect: Open, upstream: RawUpstream) -> None:
    packed = gzip.compress(b"{}")
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (packed, bytes(2**17), bytes(2**17)))
    upstream.play((head + chunks + b"0\r\n\r\n", "keep"))

    failure = await fail(connect(upstream.url))

    assert failure == (errors.BadResponse, True)


async def test_a_redirect_is_not_followed_and_a_cookie_not_kept(connect: Open, upstream: RawUpstream) -> None:
    moved = answer(b"", "302 Found", f"Location: {upstream.url}/elsewhere", "Set-Cookie: a=b; Path=/")
    upstream.play((moved, "keep"), (answer(), "keep"))
    client = connect(upstream.url)

    reply = await client.attempt(Request("GET", "/agents", KEY))
    await client.attempt(Request("GET", "/numbers", KEY))

    assert isinstance(error_for(reply), errors.BadResponse)
    assert [request.split(b" ")[1] for request in upstream.requests] == [b"/agents", b"/numbers"]
    assert b"cookie" not in b"".join(upstream.requests).lower()


async def test_headers_are_found_in_lower_case_and_odd_ones_missed(connect: Open, upstream: RawUpstream) -> None:
    data = answer(b"{}", "200 OK", "x-request-id: r1").replace(b"200 OK\r\n", b"200 OK\r\nX-Odd: \xe9\xff\r\n")
    upstream.play((data, "keep"))

    headers = (await connect(upstream.url).attempt(Request("GET", "/agents", KEY))).headers

    assert headers["x-request-id"] == "r1"
    assert headers.get("retry-after", "none") == "none"
    assert headers.get("x-odd", "none") in {"none", "\xe9\xff"}
    assert {name.lower() for name in headers} == {"x-odd", "content-length", "x-request-id"}
    assert len(headers) == 3


async def test_a_body_is_sent_as_json_with_nothing_of_the_environment(connect: Open, upstream: RawUpstream) -> None:
    client = connect(upstream.url)

    await client.attempt(Request("POST", "/numbers", KEY, b'{"a": 1}'))

    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    sent = dict(line.split(b": ") for line in head.lower().split(b"\r\n")[1:])
    assert body == b'{"a": 1}'
    assert sent[b"content-type"] == b"application/json"
    assert sent.keys() - {b"user-agent"} == {
        b"host",
        b"content-length",
        b"content-type",
        b"x-api-key",
        b"accept",
        b"x-request-id",
        b"cache-control",
    }


async def test_a_call_given_up_leaves_the_connections_usable(connect: Open, upstream: RawUpstream) -> None:
    upstream.play((b"", "hang"), (answer(), "keep"))
    client = connect(upstream.url)
    call = asyncio.create_task(client.attempt(Request("GET", "/agents", KEY)))
    await upstream.seen.wait()

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    assert (await client.attempt(Request("GET", "/agents", KEY))).status == 200


async def test_a_call_given_up_in_its_body_frees_its_place(connect: Open, upstream: RawUpstream) -> None:
    upstream.play((LONG, "hang"), (answer(), "keep"))
    client = connect(upstream.url, timeout=0.1, connections=1)

    failure = await fail(client)

    assert failure == (errors.TimedOut, True)
    assert (await client.attempt(Request("GET", "/agents", KEY))).status == 200


async def test_a_call_given_up_in_its_body_closes_its_connection(connect: Open, upstream: RawUpstream) -> None:
    upstream.play((LONG, "hang"), (answer(), "keep"))
    client = connect(upstream.url, connections=1)
    call = asyncio.create_task(client.attempt(Request("GET", "/agents", KEY)))
    await upstream.seen.wait()

    call.cancel()
    await asyncio.wait([call])

    await upstream.left.wait()
    assert (await client.attempt(Request("GET", "/agents", KEY))).body == b"{}"


async def test_calls_come_back_with_their_own_answers_over_few_connections(connect: Open) -> None:
    async with echoing() as (url, connections):
        client = connect(url, connections=4, timeout=30)

        replies = await asyncio.gather(*(client.attempt(Request("GET", f"/agents/{i}", KEY)) for i in range(200)))

    assert [reply.body for reply in replies] == [f"/agents/{i}".encode() for i in range(200)]
    assert len(connections) <= 4


class Failing(httpx.AsyncBaseTransport):
    """Raises an exception in place of a response."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002
        raise self.error


RAISED: list[tuple[Exception, type[errors.Failed], bool]] = [
    (httpx.ConnectError(""), errors.Unavailable, False),
    (httpx.ConnectTimeout(""), errors.TimedOut, False),
    (httpx.PoolTimeout(""), errors.TimedOut, False),
    (httpx.ProxyError("407"), errors.Unavailable, False),
    (httpx.LocalProtocolError(""), errors.Unavailable, False),
    (httpx.UnsupportedProtocol(""), errors.Unavailable, False),
    (httpx.InvalidURL(""), errors.Unavailable, False),
    (httpx.ReadTimeout(""), errors.TimedOut, True),
    (httpx.WriteTimeout(""), errors.TimedOut, True),
    (TimeoutError(), errors.TimedOut, True),
    (httpx.RemoteProtocolError("Server disconnected without sending a response."), errors.Unavailable, True),
    (httpx.RemoteProtocolError("illegal status line"), errors.BadResponse, True),
    (httpx.DecodingError(""), errors.BadResponse, True),
    (httpx.ReadError(""), errors.Unavailable, True),
    (httpx.WriteError(""), errors.Unavailable, True),
    (httpx.StreamClosed(), errors.Unavailable, True),
    (ConnectionResetError(), errors.Unavailable, True),
]


@pytest.mark.parametrize(("error", "kind", "reached"), RAISED, ids=[repr(row[0]) for row in RAISED])
async def test_an_exception_of_httpx_is_told(error: Exception, kind: type[errors.Failed], *, reached: bool) -> None:
    client = HttpClient(Settings(), Failing(error))

    assert await fail(client, "POST") == (kind, reached)
