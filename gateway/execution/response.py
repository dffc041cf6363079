"""Bounds of one response: the bytes of its JSON, and how long building it may hold the event loop.

The compiler and the executor count each object before it is repeated in the response, so a document whose
objects are shared (`numbers { agent { numbers } }`) is refused while it is still as small as what was fetched.
Long work is done in slices; between two of them others have a turn of the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
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

    Rows have an upper bound that costs little, and are counted only if the sum of these bounds exceeds the limit.

    Args:
        limit: bytes allowed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counted = 0
        self.bound = 0
        """Upper bound of what is not counted yet."""
        self.parts: list[Part] = []
        """What is not counted yet."""

    @property
    def bytes(self) -> int:
        """The exact count."""
        while self.parts:
            self._count_last()
        return self.counted

    def check(self) -> None:
        """Count as much exactly as is needed to know whether all fits.

        Raises:
            ResponseTooLarge: it does not.
        """
        while self.counted + self.bound > self.limit:
            if self.counted > self.limit:
                raise ResponseTooLarge(self.limit)
            self._count_last()

    def take_back(self, owners: "set[Bounds]") -> None:
        """Remove all that these have added."""
        for owner in owners:
            self.counted -= owner.bytes
            owner.bytes = 0
        self.bound -= sum(bound for owner, bound, _ in self.parts if owner in owners)
        self.parts = [part for part in self.parts if part[0] not in owners]

    def _count_last(self) -> None:
        owner, bound, count = self.parts.pop()
        count_ = count()
        owner.bytes += count_
        self.counted += count_
        self.bound -= bound


Part = tuple["Bounds", int, Callable[[], int]]
"""Who added it, an upper bound of its bytes, and what counts them."""


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

    __slots__ = ("_attempts", "_pace", "_size", "_waiting", "bytes", "session")

    def __init__(
        self,
        session: Session,
        size: ResponseSize,
        pace: Pace,
        waiting: "list[asyncio.Future[None]] | None" = None,
    ) -> None:
        self.session = session
        self._size = size
        self._pace = pace
        self._waiting: list[asyncio.Future[None]] = [] if waiting is None else waiting
        self._attempts: list[Bounds] = []
        self.bytes = 0
        """Counted so far."""

    def attempt(self) -> "Bounds":
        """Return bounds of a part whose bytes may have to be taken back."""
        self._attempts.append(Bounds(self.session, self._size, self._pace, self._waiting))
        return self._attempts[-1]

    def add(self, count: int) -> None:
        """Add bytes, before they exist if that is possible; raises as `ResponseSize.check`."""
        size = self._size
        self.bytes += count
        size.counted += count
        if size.counted + size.bound > size.limit:
            size.check()

    def add_later(self, bound: int, count: Callable[[], int]) -> None:
        """Add at most `bound` bytes, which `count` counts exactly; raises as `ResponseSize.check`."""
        size = self._size
        size.parts.append((self, bound, count))
        size.bound += bound
        if size.counted + size.bound > size.limit:
            size.check()

    def take_back(self) -> None:
        """Count nothing of this part: it is done again, or not at all."""
        self._size.take_back(set(self.family()))

    def family(self) -> "Iterator[Bounds]":
        """Iterate over these bounds and those of the attempts below."""
        yield self
        for attempt in self._attempts:
            yield from attempt.family()

    async def turn(self) -> None:
        """Let others have a turn of the event loop.

        Raises:
            TimedOut: the operation's deadline has passed.
        """
        await self._pace.turn(self._waiting)
        self.session.check_deadline()
