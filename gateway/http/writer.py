"""Sends everything that is written in one turn of the event loop at once."""

import asyncio
from collections.abc import Callable


class Writer(asyncio.Transport):
    """Collects the bytes written in one turn of the event loop and sends them in one piece.

    uvicorn writes head and body of a response separately, and uvloop would send each: two packets, and two wake-ups of
    the client.

    Args:
        transport: the connection.
        loop: its event loop.
        end: closes the connection; called once, after everything was sent to `transport`.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, end: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._end = end or transport.close
        self._pieces: list[bytes] = []
        self._closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the data at the end of the turn."""
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(bytes(data))

    def is_closing(self) -> bool:
        """Return whether the transport is closed or being closed."""
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        """Send the collected bytes, and close."""
        if not self._closed:
            self.flush()
            self._closed = True
            self._end()

    def flush(self) -> None:
        """Send the collected bytes."""
        if self._pieces and not self.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()
