"""uvicorn's HTTP/1.1 protocol with bounds on how slow and how large the head of a request may be."""

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.execution.errors import request_error


class Writer(asyncio.Transport):
    """Sends what is written in one turn of the loop at once: the head of an answer together with its body.

    uvicorn writes them one by one, and uvloop sends each: two packets, and two wake-ups of whoever reads them.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send this at the end of the turn."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(bytes(data))

    def is_closing(self) -> bool:
        """Tell whether nothing can be sent any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Send what was written, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with caps on how slow and how large the head of a request may be."""

    head_timeout = 10.0
    """Seconds from the connection, or a later request's first byte, to the end of its head."""
    max_head = 64 * 1024
    """Bytes of request line and headers; what arrives with their end may be more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        self.transport = Writer(transport, self.loop)
        self._head: int | None = None
        self._hurry: asyncio.TimerHandle | None = self.loop.call_later(self.head_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head grows too large."""
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > self.max_head:
                self._refuse("431 Request Header Fields Too Large", f"The headers are over {self.max_head} bytes.")
            elif self._hurry is None:  # most heads arrive whole, and never need it
                self._hurry = self.loop.call_later(self.head_timeout, self._too_slow)
        elif self._hurry is None and self.cycle and self.cycle.response_complete:
            # blank lines between requests: they have stopped uvicorn's own timer, and begin nothing
            self._hurry = self.loop.call_later(self.head_timeout, self._too_slow)

    def on_message_begin(self) -> None:
        """Count the bytes of the head, and the time anew."""
        super().on_message_begin()
        self._head = 0
        self._relax()

    def on_headers_complete(self) -> None:
        """Stop waiting: the endpoint has its own patience with the body."""
        self._head = None
        self._relax()
        super().on_headers_complete()

    def _relax(self) -> None:
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: no WebSocket is meant to be served, and the log is not the caller's to fill."""

    def _too_slow(self) -> None:
        self._refuse("408 Request Timeout", f"The headers did not arrive within {self.head_timeout:g} s.")

    def _refuse(self, status: str, problem: str) -> None:
        # who has said nothing expects no answer, and one into the middle of another would be part of that
        if self._head is not None and (self.cycle is None or self.cycle.response_complete):
            body = json.dumps({"errors": [request_error(problem, "BAD_REQUEST")]})
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}".encode("ascii"))
        self.transport.close()
