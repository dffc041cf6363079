"""Bounds of one response: the bytes of its JSON, and how long building it may hold the event loop.

The compiler and the executor count each object before it is repeated in the response, so a document whose
objects are shared (`numbers { agent { numbers } }`) is refused while it is still as small as what was fetched.
Long work is done in slices; between two of them others have a turn of the event loop.
"""

import asyncio
from collections import deque
from typing import Final

import msgspec

from gateway.upstream.client import Session

SLICE: Final = 1000
"""Rows that compiled execution handles in one turn of the event loop: 0.1 to 2 ms."""

encode: Final = msgspec.json.Encoder().encode


class ResponseTooLarge(Exception):
    """The response would be larger than `GATEWAY_MAX_RESPONSE_BYTES`; the message may be shown to callers."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The response would be larger than {limit} bytes. Nest fewer lists, select fewer fields and aliases, ask"
            " for a smaller `first`, or have GATEWAY_MAX_RESPONSE_BYTES raised. What a mutation wrote stays written."
        )


class ResponseSize:
    """Bytes of the response to one request; the operations of a batch share them.

    Args:
        limit: bytes allowed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def add(self, count: int) -> None:
        """Count bytes, before they exist where that can be.

        Raises:
            ResponseTooLarge: there are too many.
        """
        self.bytes += count
        if self.bytes > self.limit:
            raise ResponseTooLarge(self.limit)


class Pace:
    """Gives one slice of long work, of all operations, each turn of the event loop."""

    def __init__(self) -> None:
        self._queue: deque[list[asyncio.Future[None]]] = deque()
        self._running = False

    async def turn(self, waiting: "list[asyncio.Future[None]]") -> None:
        """Wait for the next turn that nobody else has.

        Args:
            waiting: those of the same operation. The last to come is the first to go on, so that what is nested
                is done before more of it is begun; operations take turns.
        """
        loop = asyncio.get_running_loop()
        if not self._running:
            self._running = True
            loop.call_soon(self._next, loop)
        if not waiting:
            self._queue.append(waiting)
        waiting.append(loop.create_future())
        await waiting[-1]

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            future = waiting.pop()
            if waiting:
                self._queue.append(waiting)
            if not future.done():
                future.set_result(None)
                loop.call_soon(self._next, loop)
                return
        self._running = False


class Bounds:
    """What one operation, or one attempt at a part of it, adds to a response.

    Args:
        session: the operation's, with its deadline.
        size: of the response.
        pace: of all operations.
        waiting: for a turn of the event loop, in the same operation.
    """

    __slots__ = ("_attempts", "_bytes", "_pace", "_session", "_size", "_waiting")

    def __init__(
        self,
        session: Session,
        size: ResponseSize,
        pace: Pace,
        waiting: "list[asyncio.Future[None]] | None" = None,
    ) -> None:
        self._session = session
        self._size = size
        self._pace = pace
        self._waiting: list[asyncio.Future[None]] = [] if waiting is None else waiting
        self._attempts: list[Bounds] = []
        self._bytes = 0

    def attempt(self) -> "Bounds":
        """Return bounds of a part whose bytes may have to be taken back."""
        self._attempts.append(Bounds(self._session, self._size, self._pace, self._waiting))
        return self._attempts[-1]

    def add(self, count: int) -> None:
        """Count bytes; raises as `ResponseSize.add`."""
        self._bytes += count
        self._size.add(count)

    def take_back(self) -> None:
        """Count nothing of this part: it is done again, or not at all."""
        self._size.bytes -= self._bytes
        self._bytes = 0
        for attempt in self._attempts:
            attempt.take_back()

    async def turn(self) -> None:
        """Let others have a turn of the event loop.

        Raises:
            TimedOut: the operation's deadline has passed.
        """
        await self._pace.turn(self._waiting)
        self._session.check_deadline()
