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

from gateway.inventory import Inventory
from gateway.planner import PageRequest, Size
from gateway.upstream import errors
from gateway.upstream.client import Session
from gateway.upstream.models import Agent, AgentRef, AgentStatus, Body, Listing, PhoneNumber, PhoneNumberStatus, Row
from gateway.upstream.reads import Read

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Loader(DataLoader[K, V]):
    """aiodataloader's loader with its hazards closed.

    A waiter that is cancelled leaves the shared future to the others, and a batch that runs is held
    by a strong reference.
    """

    def __init__(
        self, fetch: Callable[[list[K]], Coroutine[Any, Any, Sequence[V | Exception]]], *, batch: bool = True
    ) -> None:
        async def run(keys: list[K]) -> list[V | Exception]:
            task = asyncio.current_task()
            self._running.add(task)
            try:
                return list(await fetch(keys))
            finally:
                self._running.discard(task)

        super().__init__(run, batch=batch, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self._running: set[asyncio.Task[Any] | None] = set()

    def load(self, key: K) -> "asyncio.Future[V]":
        """Return a future of the key's value; cancelling it cancels nothing else."""
        return asyncio.shield(super().load(key))


class Loaders:
    """Everything one operation may ask the upstream for."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._agents = Inventory("agents", session, self.agents)
        self._numbers = Inventory("numbers", session, self.numbers)
        self._told: bool | None = None
        """Whether listed numbers say whose they are; None until one was listed."""
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
        async def fetch(id_: str) -> Agent:
            listing = await self.session.agent(id_)
            self._agents.see(listing.rows)
            return listing.rows[0]

        return await self._by_id(self._agents, ids, fetch)

    async def _load_numbers(self, ids: list[str]) -> list[PhoneNumber | None | Exception]:
        async def fetch(id_: str) -> PhoneNumber:
            listing = await self.session.number(id_)
            self._see_numbers(listing)
            return listing.rows[0]

        return await self._by_id(self._numbers, ids, fetch)

    async def _by_id(
        self, inventory: Inventory[Row], ids: list[str], fetch: Callable[[str], Awaitable[Row]]
    ) -> list[Row | None | Exception]:
        """Answer a batch of ids from what was seen, by a sweep, or singly, whichever costs least."""
        rows, saved = inventory.rows, self.session.bill.saved
        unseen = [id_ for id_ in ids if id_ not in rows]
        saved.primed += len(ids) - len(unseen)
        for id_ in unseen:
            if listing := self.session.recall(Read("agent" if inventory is self._agents else "number", id_)):
                inventory.see(listing.rows)
        unseen = [id_ for id_ in unseen if id_ not in rows]
        failed: Exception | None = None
        if unseen and not inventory.complete:
            try:
                pages = await inventory.sweep(len(unseen), lambda: sum(id_ not in rows for id_ in unseen))
            except errors.UpstreamError as error:
                failed, pages = error, len(unseen)
            saved.swept += max(0, sum(id_ in rows for id_ in unseen) - pages)
        missing = [id_ for id_ in unseen if id_ not in rows]
        single = await self._each(missing, fetch) if failed is None else dict.fromkeys(missing, failed)
        return [single[id_] if id_ in single else rows[id_] for id_ in ids]

    async def _load_agent_numbers(self, ids: list[str]) -> list[list[PhoneNumber] | None | Exception]:
        """Answer a batch of agents' numbers from the whole list of numbers, or singly."""
        saved, failed = self.session.bill.saved, None
        found = self._owned(ids)
        saved.primed += len(found)
        asked = [id_ for id_ in ids if id_ not in found]
        for id_ in asked:
            if listing := self.session.recall(Read("agent_numbers", id_)):
                self._see_numbers(listing)
                found[id_] = listing.rows
        asked = [id_ for id_ in asked if id_ not in found]
        if asked and not self._numbers.complete:
            try:
                # a list that leaves out whose its numbers are is of no use here
                pages = await self._numbers.sweep(
                    len(asked), lambda: 0 if self._told is False or self._numbers.complete else len(asked)
                )
                swept = self._owned(asked)
                saved.swept += max(0, len(swept) - pages)
                found |= swept
            except errors.UpstreamError as error:
                failed = error
        missing = [id_ for id_ in asked if id_ not in found]

        async def fetch(id_: str) -> list[PhoneNumber]:
            listing = await self.session.agent_numbers(id_)
            self._see_numbers(listing)
            return listing.rows

        single = await self._each(missing, fetch) if failed is None else dict.fromkeys(missing, failed)
        return [found[id_] if id_ in found else single[id_] for id_ in ids]

    def _owned(self, ids: list[str]) -> dict[str, list[PhoneNumber]]:
        """Return the numbers of those agents of whom all are known: from the whole list, which says whose they are.

        An agent that was seen and has none has an empty list; one that nobody has seen may not be there at all.
        """
        if not self._numbers.complete or self._told is False:
            return {}
        owned: dict[str, list[PhoneNumber]] = {id_: [] for id_ in ids if id_ in self._agents.rows}
        wanted = set(ids)
        for number in self._numbers.rows.values():
            if number.agent_id in wanted:
                owned.setdefault(str(number.agent_id), []).append(number)
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
        self._see_numbers(listing)
        if listing.rows and not self._told:
            self._told = any(row.agent_id is not UNSET for row in listing.rows)
        if status is None:
            self._numbers.see_page(listing)
        return [listing]

    def _see_numbers(self, listing: Listing[PhoneNumber]) -> None:
        self._numbers.see(listing.rows)
        self._agents.see(listing.agents)

    @staticmethod
    async def _each(ids: Sequence[str], fetch: Callable[[str], Awaitable[V]]) -> dict[str, V | Exception | None]:
        """Fetch ids one call each; one that is not there, or not for this key to see, is None."""

        async def one(id_: str) -> V | Exception | None:
            try:
                return await fetch(id_)
            except errors.NotFound:
                return None
            except Exception as error:  # noqa: BLE001 - one key's failure is that key's value
                return error

        return dict(zip(ids, await asyncio.gather(*map(one, ids)), strict=True))


_AgentsKey = tuple[PageRequest, AgentStatus | None, str | None]
_NumbersKey = tuple[PageRequest, PhoneNumberStatus | None]
