"""Loads keys in batches: who asks in the same turn of the event loop shares one fetch, and nothing is fetched twice.

`loaders` makes one `Loader` for each kind of key and operation. Single keys go through aiodataloader, with its hazards
closed: a waiter that is cancelled leaves the shared future to the others. Many keys at once share one task
and take no future each. A batch ends with its operation, which is the task that made the loader.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, Generic, TypeVar

from aiodataloader import DataLoader

from gateway.upstream import errors

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Fetch = Callable[[list[K]], Coroutine[Any, Any, Sequence[V | Exception]]]

TURNS = 3
"""Turns of the event loop for which a batch takes in keys: as many as aiodataloader takes to bring single ones."""


_GIVEN_UP = "The call to the upstream was given up; try again later."


class Loader(Generic[K, V]):
    """Values by key, for one operation.

    Args:
        fetch: brings the values of distinct keys, in order; one key's failure is its value.
        turns: of the event loop for which a batch takes in keys after the one in which it was opened.
        operation: the task that no batch outlives; the one that makes the loader where it is None.
    """

    def __init__(self, fetch: Fetch[K, V], *, turns: int = TURNS, operation: "asyncio.Task[Any] | None" = None) -> None:
        self._fetch: Fetch[K, V] | None = fetch
        self._turns = turns
        self._tasks: set[asyncio.Task[None]] = set()
        self._single: DataLoader[K, V] | None = None
        self.clear_all()
        (operation or asyncio.current_task()).add_done_callback(self._end)  # type: ignore[union-attr]

    def clear_all(self) -> None:
        """Forget every value; batches under way go on for those who wait."""
        self._known: dict[K, V | Exception] = {}
        self._under_way: dict[K, asyncio.Task[None]] = {}
        self._open: tuple[dict[K, None], asyncio.Task[None]] | None = None
        if self._single:
            self._single.clear_all()

    def asked(self, key: K) -> bool:
        """Tell whether a key's value is known or under way."""
        return key in self._known or key in self._under_way

    def known(self, key: K, default: V | None | Exception) -> V | None | Exception:
        """Return a key's value if it is known."""
        return self._known.get(key, default)

    def begin(self, keys: Sequence[K]) -> None:
        """Begin to fetch keys that nobody has asked for, for whoever does later."""
        for key in keys:
            if not self.asked(key):
                self._join(key, self._turns)

    def load(self, key: K) -> "asyncio.Future[V]":
        """Return a future of the key's value; cancelling it cancels nothing else."""
        if self._single is None:
            # most operations need none
            self._single = DataLoader(self._load_singles, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        value = self._single.load(key)
        shielded = asyncio.shield(value)
        for future in (value, shielded):
            future.add_done_callback(_retrieve)  # for when the operation has ended: asyncio would log local variables
        return shielded

    async def load_batch(self, keys: Sequence[K]) -> list[V | Exception]:
        """Return the keys' values in order, failures as values; batched and remembered together with `load`.

        Raises:
            Exception: the batch failed as a whole; it is not remembered.
        """
        return await self._load(keys, self._turns)

    async def _load_singles(self, keys: Sequence[K]) -> list[V | Exception]:
        try:
            return await self._load(keys, 0)  # as many turns as the others have gone by
        except asyncio.CancelledError:  # the operation has ended; aiodataloader would leave those who wait waiting
            return [errors.Unavailable(_GIVEN_UP)] * len(keys)

    async def _load(self, keys: Sequence[K], turns: int) -> list[V | Exception]:
        known, under_way = self._known, self._under_way
        batches = {under_way.get(key) or self._join(key, turns) for key in keys if key not in known}
        if batches:
            await asyncio.wait(batches)  # unlike await, it leaves the tasks alone when it is cancelled
        for batch in batches:
            batch.result()
        return [known[key] for key in keys]

    def _join(self, key: K, turns: int) -> "asyncio.Task[None]":
        if self._open is None:
            if self._fetch is None:
                raise asyncio.CancelledError
            keys: dict[K, None] = {}
            task = asyncio.ensure_future(self._run(self._fetch, keys, turns, self._known, self._under_way))
            self._tasks.add(task)  # the event loop holds no task itself
            task.add_done_callback(self._ended)
            self._open = keys, task
        keys, task = self._open
        keys[key] = None
        self._under_way[key] = task
        return task

    async def _run(
        self,
        fetch: Fetch[K, V],
        keys: dict[K, None],
        turns: int,
        known: dict[K, V | Exception],
        under_way: dict[K, "asyncio.Task[None]"],
    ) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if self._open and self._open[0] is keys:
            self._open = None
        values: Sequence[V | Exception]
        try:
            values = await fetch(list(keys))
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # a call that was cancelled from below would leave whoever waits for it waiting for ever
            values = [errors.Unavailable(_GIVEN_UP)] * len(keys)
        finally:
            for key in keys:
                del under_way[key]
        known.update(zip(keys, values, strict=True))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        _retrieve(task)

    def _end(self, _: object) -> None:
        """End with the operation, and let go of what would be a cycle that holds megabytes of answers."""
        for task in self._tasks:
            task.cancel()
        self._fetch = self._single = None


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Take note of a failure: whoever waited has it, and nobody may be left to wait."""
    if not future.cancelled():
        future.exception()
