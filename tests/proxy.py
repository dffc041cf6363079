"""A forward proxy of plain sockets: CONNECT tunnels, and requests for absolute http:// addresses."""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_ABSOLUTE = re.compile(rb"http://([^/ ]+)")


class Proxy:
    """Records the head of each request that it receives, and answers `refusal` in place of serving it, if set."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.refusal: bytes | Literal["hang"] = b""
        self.url = ""
        self._open: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    @property
    def requests(self) -> list[str]:
        """The first line of each request."""
        return [head.split(b"\r\n", 1)[0].decode() for head in self.heads]

    def authorized_as(self, user: str) -> bool:
        """Whether every request carried this user and password."""
        header = b"Proxy-Authorization: Basic " + base64.b64encode(user.encode())
        return bool(self.heads) and all(header in head for head in self.heads)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side closes it."""
        self.connections += 1
        self._open[asyncio.current_task()] = writer
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await self._head(reader)
            if self.refusal == "hang":
                await reader.read()
            elif self.refusal:
                writer.write(self.refusal)
            elif head.startswith(b"CONNECT "):
                await self._tunnel(head.split(b" ")[1], reader, writer)
            else:
                await self._forward(head, reader, writer)
        writer.close()

    async def stop(self) -> None:
        """End every connection."""
        for task, writer in self._open.items():
            writer.transport.abort()
            if task:
                await asyncio.wait([task])

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head

    async def _tunnel(self, target: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.decode().rpartition(":")
        upstream, to_upstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_copy(reader, to_upstream), _copy(upstream, writer))
        finally:
            to_upstream.close()

    async def _forward(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = _ABSOLUTE.search(head)
        assert found
        host, _, port = found[1].decode().rpartition(":")
        upstream, to_upstream = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(_copy(upstream, writer))
        try:
            while True:
                lines = head.replace(found[0], b"", 1).split(b"\r\n")
                to_upstream.write(b"\r\n".join(line for line in lines if not line.startswith(b"Proxy-")))
                length = _LENGTH.search(head)
                to_upstream.write(await reader.readexactly(int(length[1]) if length else 0))
                head = await self._head(reader)
        finally:
            to_upstream.close()
            await back


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def forward_proxy(tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Listen on a free port of the loopback."""
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
