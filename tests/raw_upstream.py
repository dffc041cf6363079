"""A REST API of plain sockets that answers each request with scripted bytes, and the transports that call it."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import httpx
import trustme
import uvloop

from gateway.upstream.transport.base import Transport
from gateway.upstream.transport.httpx import HttpxTransport
from gateway.upstream.transport.pool import Pool

Then = Literal["keep", "close", "reset", "hang"]
"""What becomes of the connection after an answer."""

BOTH_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
_SYSTEM = ssl.create_default_context()
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def answer(body: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    """A correct answer."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class RawUpstream:
    """Writes down each request and answers with the next line of its script, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.seen = asyncio.Event()
        self.left = asyncio.Event()
        """Set once a client has closed a connection that hangs, or waits for a request."""
        self.connections = 0
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
        try:
            then: Then = "keep"
            while then == "keep":
                self.requests.append(await self._request(reader))
                self.seen.set()
                if self.answers:
                    data, then = self.answers(self.calls[-1]), "keep"
                else:
                    data, then = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                writer.write(data)
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
        """Write to every connection without having been asked."""
        for writer in self._open.values():
            writer.write(data)

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


def built_in(url: str, timeout: float, connections: int, ca: trustme.CA | None = None) -> Transport:
    """The built-in transport."""
    pem = ca.cert_pem.bytes() if ca else None
    return Pool(url, timeout=timeout, connections=connections, patience=timeout / 2, certificates=pem)


def plain_httpx(url: str, timeout: float, connections: int, ca: trustme.CA | None = None) -> Transport:
    """The transport of httpx itself, plugged in."""
    limits = httpx.Limits(max_connections=connections)
    context = ssl.create_default_context() if ca else _SYSTEM
    if ca:
        ca.configure_trust(context)
    return HttpxTransport(url, httpx.AsyncHTTPTransport(verify=context, limits=limits), timeout, 64)
