"""Limits one response: the bytes of its JSON, and the time for which building it may block the event loop.

Objects are counted before the response repeats them. A document whose objects are shared
(`numbers { agent { numbers } }`) is therefore refused while it takes no more memory than what was fetched.
Long work is done in slices; other tasks run between two slices.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway.execution.errors import Failures
from gateway.execution.places import FailedFields
from gateway.upstream.client import Session

SLICE: Final = 1000
"""Rows that compiled execution makes in one turn of the event loop: 0.1 to 2 ms."""

encode: Final = msgspec.json.Encoder().encode


class ResponseTooLarge(Exception):
    """The response would be larger than `GATEWAY_MAX_RESPONSE_BYTES`; clients see the message."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The response would be larger than {limit} bytes. Nest fewer lists, select fewer fields and aliases, ask"
            " for a smaller `first`, or have GATEWAY_MAX_RESPONSE_BYTES raised. What a mutation wrote stays written."
        )


class ResponseSize:
    """Bytes of the response to one request; the operations of a batch share them.

    Rows get an upper bound, which costs little. They are counted only if the sum of the bounds exceeds the limit.

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
        """Count rows until it is known whether the response fits.

        Raises:
            ResponseTooLarge: it does not fit.
        """
        while self.counted + self.bound > self.limit:
            if self.counted > self.limit:
                raise ResponseTooLarge(self.limit)
            self._count_last()

    def take_back(self, shares: "set[Share]") -> None:
        """Subtract all bytes of these shares."""
        for share in shares:
            self.counted -= share.bytes
            share.bytes = 0
        self.bound -= sum(part[1] for part in self.parts if part[0] in shares)
        self.parts = [part for part in self.parts if part[0] not in shares]

    def _count_last(self) -> None:
        share, bound, count, values, weights = self.parts.pop()
        counted = count(values, weights)
        share.bytes += counted
        self.counted += counted
        self.bound -= bound


Count = Callable[[Sequence[Any], list[int] | None], int]
"""Counts the bytes of values, each multiplied by its weight if there are weights."""
Part = tuple["Share", int, Count, Sequence[Any], list[int] | None]
"""Share, upper bound of the bytes, the function that counts them, and its arguments."""


class Share:
    """The bytes of one part of a response; it refers to nothing, so that no cycle holds the rows of a response."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Pace:
    """Runs one slice of long work in each turn of the event loop, over all operations."""

    def __init__(self) -> None:
        self._queue: deque[list[asyncio.Future[None]]] = deque()
        self._running = False

    async def turn(self, waiting: "list[asyncio.Future[None]]") -> None:
        """Wait for a turn of the event loop in which no other slice runs.

        Args:
            waiting: the futures of the same operation. The newest one continues first, so that nested work ends
                before more of it starts. Operations take turns.
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
    """Counts the bytes that one operation, or one attempt at a part of it, adds to a response.

    Args:
        session: has the operation's deadline.
        size: counts the whole response.
        pace: shared by all operations.
        waiting: futures of the same operation that wait for a turn.
    """

    __slots__ = ("_attempts", "_pace", "_share", "_size", "_waiting", "failed", "failures", "session")

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
        self._share = Share()
        self.failures = Failures()
        """The operation's errors."""
        self.failed = FailedFields()
        """What has failed in compiled execution."""

    def attempt(self) -> "Bounds":
        """Return bounds for a part that may be abandoned."""
        attempt = Bounds(self.session, self._size, self._pace, self._waiting)
        attempt.failures = self.failures
        self._attempts.append(attempt)
        return attempt

    def add(self, count: int) -> None:
        """Add bytes, before they exist if that is possible; raises as `ResponseSize.check`."""
        size = self._size
        self._share.bytes += count
        size.counted += count
        if size.counted + size.bound > size.limit:
            size.check()

    def add_later(self, bound: int, count: Count, values: Sequence[Any], weights: list[int] | None) -> None:
        """Add at most `bound` bytes, which `count` counts if necessary; raises as `ResponseSize.check`."""
        size = self._size
        size.parts.append((self._share, bound, count, values, weights))
        size.bound += bound
        if size.counted + size.bound > size.limit:
            size.check()

    def take_back(self) -> None:
        """Subtract the bytes of this part: it is executed again, or not at all."""
        self._size.take_back({bounds._share for bounds in self.family()})  # noqa: SLF001 - of the same class

    def family(self) -> "Iterator[Bounds]":
        """Iterate over these bounds and those of the attempts below."""
        yield self
        for attempt in self._attempts:
            yield from attempt.family()

    async def turn(self) -> None:
        """Let other tasks run.

        Raises:
            TimedOut: the operation's deadline has passed.
        """
        await self._pace.turn(self._waiting)
        self.session.check_deadline()
