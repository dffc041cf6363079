"""The loaders of one operation: every object is asked for at most once, in the fewest REST calls.

Resolvers call `load` on one of three loaders (agent by id, number by id, numbers of an agent) or
`agents`/`numbers` for one page of a list. A batch first takes what the operation has seen, then does
what `planner` says: sweep the list's pages, or one call per key. Everything an answer carries is
seen, a write forgets what it made stale. Errors are values here: one key's failure is that key's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from typing import Any, Literal, TypeVar

from aiodataloader import DataLoader
from msgspec import UNSET

from gateway.inventory import Inventory, Odds
from gateway.planner import PageRequest, Size
from gateway.upstream import errors
from gateway.upstream.client import Session
from gateway.upstream.models import Agent, AgentRef, AgentStatus, Body, Listing, PhoneNumber, PhoneNumberStatus, Row
from gateway.upstream.reads import Read

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
ById = Literal["agent", "number", "agent_numbers"]


class Loader(DataLoader[K, V]):
    """aiodataloader's loader with its hazards closed.

    A waiter that is cancelled leaves the shared future to the others, a batch that runs is held by a
    strong reference, and it ends with the operation, which is the task that made the loader.
    """

    def __init__(
        self, fetch: Callable[[list[K]], Coroutine[Any, Any, Sequence[V | Exception]]], *, batch: bool = True
    ) -> None:
        async def run(keys: list[K]) -> list[V | Exception]:
            task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
            if operation.done():
                raise asyncio.CancelledError
            self._running.add(task)
            try:
                return list(await fetch(keys))
            except asyncio.CancelledError:
                if task.cancelling():
                    raise
                # a call that was cancelled from below would leave whoever waits for it waiting for ever
                return [errors.Unavailable("The call to the upstream was given up; try again later.")] * len(keys)
            finally:
                self._running.discard(task)

        super().__init__(run, batch=batch, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self._running: set[asyncio.Task[Any]] = set()
        operation: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        operation.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        for task in self._running:
            task.cancel()

    def load(self, key: K) -> "asyncio.Future[V]":
        """Return a future of the key's value; cancelling it cancels nothing else."""
        return asyncio.shield(super().load(key))

    async def load_batch(self, keys: Sequence[K]) -> list[V | Exception]:
        """Return the keys' values in order, failures as values; batched and remembered together with `load`."""
        futures = [*map(super().load, keys)]
        try:
            for future in futures:
                if not future.done():
                    await asyncio.wait((future,))  # unlike await, it leaves the future alone when it is cancelled
        except asyncio.CancelledError:
            for future in futures:
                future.add_done_callback(asyncio.Future.exception)  # nobody may be left to hear of it
            raise
        return [future.exception() or future.result() for future in futures]  # type: ignore[misc]


class Loaders:
    """Everything one operation may ask the upstream for."""

    def __init__(self, session: Session) -> None:
        self.session = session
        odds = Odds()
        self._agents = Inventory("agents", session, odds, self.agents)
        self._numbers = Inventory("numbers", session, odds, self.numbers)
        self._told: bool | None = None
        """Whether listed numbers say whose they are, else they are not all that is to be known; None until one was."""
        self.agent: Loader[str, Agent | None] = Loader(self._load_agents)
        self.number: Loader[str, PhoneNumber | None] = Loader(self._load_numbers)
        self.agent_numbers: Loader[str, list[PhoneNumber] | None] = Loader(self._load_agent_numbers)
        self._agent_pages: Loader[_AgentsKey, Listing[Agent]] = Loader(self._load_agent_page, batch=False)
        self._number_pages: Loader[_NumbersKey, Listing[PhoneNumber]] = Loader(self._load_number_page, batch=False)
        self._refs: set[str] = set()

    def size(self, listing: Literal["agents", "numbers"]) -> Size | None:
        """Return how large an unfiltered list is known to be."""
        return self._agents.size if listing == "agents" else self._numbers.size

    async def agents(
        self, request: PageRequest, status: AgentStatus | None = None, search: str | None = None
    ) -> Listing[Agent]:
        """Load one page of agents; those on it are known from then on."""
        return await self._agent_pages.load((request, status, search))

    async def numbers(self, request: PageRequest, status: PhoneNumberStatus | None = None) -> Listing[PhoneNumber]:
        """Load one page of numbers; those on it, and whole agents embedded in them, are known from then on."""
        return await self._number_pages.load((request, status))

    def ref(self, agent_id: str) -> AgentRef:
        """Return an agent of which only the id is wanted, without a call."""
        if agent_id not in self._agents.rows and agent_id not in self._refs:
            self._refs.add(agent_id)
            self.session.bill.saved.primed += 1
        return AgentRef(agent_id)

    async def create_number(self, body: Body) -> PhoneNumber:
        """Add a number; see `_write`."""
        return await self._write(self.session.create_number(body))

    async def update_number(self, id_: str, body: Body) -> PhoneNumber:
        """Change a number; see `_write`."""
        return await self._write(self.session.update_number(id_, body), id_)

    async def delete_number(self, id_: str) -> None:
        """Remove a number; what it may have made stale is forgotten, as in `_write`."""
        try:
            await self.session.delete_number(id_)
        finally:
            self._forget(id_)

    async def _write(self, call: Awaitable[Listing[PhoneNumber]], id_: str | None = None) -> PhoneNumber:
        """Carry out a write: what it answers is known, what it may have made stale, errors too, is not."""
        try:
            written = await call
        finally:
            self._forget(id_)
        self._see_numbers(written)
        return written.rows[0]

    def _forget(self, number_id: str | None) -> None:
        if number_id is not None:
            self._numbers.rows.pop(number_id, None)
        self._numbers.complete = False
        for loader in (self.agent, self.number, self.agent_numbers, self._agent_pages, self._number_pages):
            loader.clear_all()

    async def _load_agents(self, ids: list[str]) -> list[Agent | None | Exception]:
        return await self._by_id("agent", self._agents, ids)

    async def _load_numbers(self, ids: list[str]) -> list[PhoneNumber | None | Exception]:
        return await self._by_id("number", self._numbers, ids)

    async def _by_id(self, kind: ById, inventory: Inventory[Row], ids: list[str]) -> list[Row | None | Exception]:
        """Answer a batch of ids from what was seen, by a sweep, or singly, whichever costs least."""
        rows, saved = inventory.rows, self.session.bill.saved
        unseen = [id_ for id_ in ids if id_ not in rows]
        saved.primed += len(ids) - len(unseen)
        for id_ in unseen:
            if listing := self.session.recall(Read(kind, id_)):
                inventory.see(listing.rows)
        unseen = [id_ for id_ in unseen if id_ not in rows]
        pages, failed = 0, None
        try:
            pages = await inventory.sweep(len(unseen), lambda: sum(id_ not in rows for id_ in unseen))
        except errors.UpstreamError as error:
            failed = error
        missing = [id_ for id_ in unseen if id_ not in rows]
        if failed is None:
            saved.swept += max(0, len(unseen) - len(missing) - pages)
        room = max(1, len(unseen) - pages) if pages and inventory.complete else len(missing)
        single = await self._doubted(kind, missing, room, failed)
        return [rows.get(id_) or single.get(id_) for id_ in ids]

    async def _load_agent_numbers(self, ids: list[str]) -> list[list[PhoneNumber] | None | Exception]:
        """Answer a batch of agents' numbers from the whole list of numbers, or singly."""
        found, room, failed = self._owned(ids), len(ids), None
        self.session.bill.saved.primed += len(found)
        for id_ in ids:
            if id_ not in found and (listing := self.session.recall(Read("agent_numbers", id_))):
                self._see_numbers(listing)
                found[id_] = listing.rows
        try:
            swept, room = await self._sweep_owners([id_ for id_ in ids if id_ not in found])
            found |= swept
        except errors.UpstreamError as error:
            failed = error
        missing = [id_ for id_ in ids if id_ not in found]
        known = [id_ for id_ in missing if id_ in self._agents.rows]
        strangers = [id_ for id_ in missing if id_ not in self._agents.rows]
        single, doubted = await asyncio.gather(
            self._each("agent_numbers", known, failed), self._doubted("agent_numbers", strangers, room, failed)
        )
        return [found[id_] if id_ in found else (single | doubted)[id_] for id_ in ids]

    async def _sweep_owners(self, ids: list[str]) -> tuple[dict[str, list[PhoneNumber]], int]:
        """Find agents' numbers on the whole list of numbers, where that is worth its pages.

        A number may name an agent that is gone, so agents that nobody has seen are looked for on their own list first;
        either list may cost half of the single calls. Also return how many single calls are left for those not found.
        """

        def strangers() -> int:
            return sum(id_ not in self._agents.rows for id_ in ids)

        before = strangers()
        half = before // 2
        agent_pages = await self._agents.sweep(half, lambda: min(half, strangers()))
        seen = len(ids) - strangers()
        number_pages = await self._numbers.sweep(
            seen, lambda: 0 if self._numbers.complete else seen, lambda: self.session.tenant.told is not False
        )
        swept = self._owned(ids)
        self.session.bill.saved.swept += max(0, len(swept) - agent_pages - number_pages)
        return swept, max(1, before - agent_pages) if self._agents.complete else before

    def _owned(self, ids: list[str]) -> dict[str, list[PhoneNumber]]:
        """Return the numbers of those agents of whom all are known: seen ones, from a whole list that says whose."""
        if not self._numbers.complete or self._told is False:
            return {}
        owned: dict[str, list[PhoneNumber]] = {id_: [] for id_ in ids if id_ in self._agents.rows}
        for number in map(self._numbers.rows.get, self._numbers.order):
            if number and number.agent_id in owned:
                owned[number.agent_id].append(number)
        return owned

    async def _load_agent_page(self, keys: "list[_AgentsKey]") -> list[Listing[Agent] | Exception]:
        request, status, search = keys[0]
        try:
            listing = await self.session.agents(request, status, search)
        except errors.UpstreamError as error:
            return [error]
        self._agents.see(listing.rows)
        if status is None and search is None:
            self._agents.see_page(listing)
        return [listing]

    async def _load_number_page(self, keys: "list[_NumbersKey]") -> list[Listing[PhoneNumber] | Exception]:
        request, status = keys[0]
        try:
            listing = await self.session.numbers(request, status)
        except errors.UpstreamError as error:
            return [error]
        if listing.rows and not self._told:
            self._told = self.session.tenant.told = any(row.agent_id is not UNSET for row in listing.rows)
        if self._told:
            self._see_numbers(listing)
        if status is None:
            self._numbers.see_page(listing)
        return [listing]

    def _see_numbers(self, listing: Listing[PhoneNumber]) -> None:
        self._numbers.see(listing.rows)
        self._agents.see(listing.agents)

    async def _doubted(self, kind: ById, ids: Sequence[str], room: int, failed: Exception | None) -> dict[str, Any]:
        """Fetch ids that a list did not have one call each, while there is `room`.

        Where a whole list is right about as many as that, it is believed about the rest: they are not there.
        """
        single = await self._each(kind, ids[:room], failed)
        if any(value is not None for value in single.values()):
            return single | await self._each(kind, ids[room:], failed)
        return dict.fromkeys(ids) | single

    async def _each(self, kind: ById, ids: Sequence[str], failed: Exception | None) -> dict[str, Any]:
        """Fetch ids one call each, or none where all `failed`; one that is not there, or not for this key, is None."""

        async def one(id_: str) -> Any:
            try:
                listing: Listing[Any] = await self.session.single(Read(kind, id_), failed)
            except errors.NotFound:
                return None
            except Exception as error:  # noqa: BLE001 - one key's failure is that key's value
                return error
            if kind == "agent":
                self._agents.see(listing.rows)
            else:
                self._see_numbers(listing)
            return listing.rows if kind == "agent_numbers" else listing.rows[0]

        return dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))


_AgentsKey = tuple[PageRequest, AgentStatus | None, str | None]
_NumbersKey = tuple[PageRequest, PhoneNumberStatus | None]
