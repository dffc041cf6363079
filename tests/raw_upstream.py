"""A REST API of plain sockets that answers each request with scripted bytes, and the transports that call it."""

import asyncio
import os
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Literal

import httpx
import trustme
import uvloop

from gateway.demo.rest_api import Workspace, create_demo
from gateway.upstream.tls import tls_context
from gateway.upstream.transport.base import Options, Transport
from gateway.upstream.transport.httpx import HttpxTransport
from gateway.upstream.transport.pool import Pool

Then = Literal["keep", "close", "reset", "hang"]
"""What becomes of the connection after an answer."""

BOTH_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
_SYSTEM = tls_context()
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_ID = re.compile(rb"x-request-id: ([^\r]+)", re.IGNORECASE)
REPEATED = "X-Request-Id: its own"
"""A header of an answer; what the request said stands in its place."""


def answer(body: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    """A correct answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def id_of(request: bytes) -> bytes:
    """The request id that a request was sent with."""
    found = _ID.search(request)
    assert found
    return found[1]


class RawUpstream:
    """Writes down each request and answers with the next line of its script, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.seen = asyncio.Event()
        self.left = asyncio.Event()
        """Set once a client has closed a connection that hangs, or waits for a request."""
        self.connections = 0
        self.served_by: list[int] = []
        """The connection of each request, counted from 1."""
        self.script: list[tuple[bytes, Then]] = [(answer(), "keep")]
        self.answers: Callable[[str], bytes] | None = None
        """Answers each call (`GET /agents/a1`) in place of the script."""
        self.url = ""
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    @property
    def calls(self) -> list[str]:
        """Method and target of each request."""
        return [b" ".join(request.split(b" ", 2)[:2]).decode() for request in self.requests]

    def play(self, *script: tuple[bytes, Then]) -> None:
        """Answer with these, in order."""
        self.script = list(script)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the script ends it or the test does."""
        self._open[asyncio.current_task()] = writer
        self.connections += 1
        mine = self.connections
        try:
            then: Then = "keep"
            while then == "keep":
                self.requests.append(await self._request(reader))
                self.served_by.append(mine)
                self.seen.set()
                if self.answers:
                    data, then = self.answers(self.calls[-1]), "keep"
                else:
                    data, then = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                writer.write(data.replace(b"its own", id_of(self.requests[-1])) if REPEATED.encode() in data else data)
                await writer.drain()
            if then == "hang":
                await reader.read()
                self.left.set()
            elif then == "reset":
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    def push(self, data: bytes) -> None:
        """Write to every connection without having been asked, at once."""
        for writer in self._open.values():
            os.write(writer.get_extra_info("socket").fileno(), data)

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return head + await reader.readexactly(int(length[1]) if length else 0)

    async def stop(self) -> None:
        """End every connection."""
        for task, writer in self._open.items():
            writer.transport.abort()
            if task:
                await asyncio.wait([task])


class MixedUp:
    """The demo API on plain sockets, where a connection begins to answer with what the call before should have had.

    Its second answer to a call comes when the next call is under way: from there on each answer is one call late.

    Args:
        workspaces: by API key.
        every: calls after which, on average, a connection does; 0 is never.
        repeats: whether it repeats request ids.
    """

    def __init__(self, workspaces: Mapping[str, Workspace], *, every: int, repeats: bool) -> None:
        self.connections = 0
        self.late = 0
        """Answers that were another call's."""
        self._demo = httpx.ASGITransport(create_demo(workspaces, quota=10**6))
        self.every = every
        self._repeats = repeats
        self._chance = random.Random(7)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the client closes it."""
        owed: bytes | None = None
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                data = await self._answer(await reader.readuntil(b"\r\n\r\n"))
                self.late += owed is not None
                writer.write(owed or data)
                if owed or (self.every and self._chance.random() < 1 / self.every):
                    owed = data
        writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, target, _ = head.split(b" ", 2)
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        request = httpx.Request(method.decode(), f"http://demo{target.decode()}", headers=list(headers.items()))
        response = await self._demo.handle_async_request(request)
        told = id_of(head).decode() if self._repeats else response.headers["x-request-id"]
        return answer(await response.aread(), str(response.status_code), f"X-Request-Id: {told}")


@asynccontextmanager
async def listening(upstream: MixedUp) -> AsyncIterator[str]:
    """Listen on a free port of the loopback, and yield the base URL."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@asynccontextmanager
async def raw_upstream(tls: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """Listen on a free port of the loopback."""
    upstream = RawUpstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield upstream
    finally:
        server.close()
        await upstream.stop()


def trusting(ca: trustme.CA | None) -> ssl.SSLContext:
    """A client's context that trusts the system's authorities, or one more."""
    context = tls_context() if ca else _SYSTEM
    if ca:
        ca.configure_trust(context)
    return context


def options(url: str, timeout: float, connections: int, ca: trustme.CA | None = None, proxy: str = "") -> Options:
    """Options of a transport; an attempt waits for a connection for half its timeout."""
    return Options(url, timeout, connections, timeout / 2, proxy, trusting(ca) if "https:" in url + proxy else None)


def built_in(url: str, timeout: float, connections: int, ca: trustme.CA | None = None) -> Transport:
    """The built-in transport."""
    return Pool(options(url, timeout, connections, ca))


def plain_httpx(url: str, timeout: float, connections: int, ca: trustme.CA | None = None) -> Transport:
    """The transport of httpx itself, plugged in."""
    plugged = httpx.AsyncHTTPTransport(verify=trusting(ca))
    return HttpxTransport(options(url, timeout, connections), lambda: plugged)
