"""The loaders of one operation: every object is asked for at most once, in the fewest REST calls.

Resolvers call `load` on one of three loaders (agent by id, number by id, numbers of an agent) or
`agents`/`numbers` for one page of a list. A batch first takes what the operation has seen, then does
what `planner` says: sweep the list's pages, or one call per key. Everything an answer carries is
seen, a write forgets what it made stale. Errors are values here: one key's failure is that key's.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from msgspec import UNSET

from gateway.dataloaders.dataloader import Loader
from gateway.dataloaders.entities import SAMPLES, Inventory, Numbers, Odds
from gateway.upstream import errors
from gateway.upstream.client import Answer, Session
from gateway.upstream.inflight import Arrival
from gateway.upstream.models import (
    Agent,
    AgentRef,
    AgentStatus,
    Body,
    Listing,
    PhoneNumber,
    PhoneNumberStatus,
    Row,
    Unreadable,
)
from gateway.upstream.paging import MAX_LIMIT, PageRequest, Size
from gateway.upstream.reads import Read

ById = Literal["agent", "number", "agent_numbers"]


class Owners(NamedTuple):
    """How many agents' numbers an operation will want at the most, and whether it will be just as many."""

    at_most: int
    sure: bool


class Loaders:
    """Everything one operation may ask the upstream for."""

    def __init__(self, session: Session, operation: "asyncio.Task[Any]") -> None:
        self.session = session
        self._operation = operation
        odds = Odds()
        self._agents: Inventory[Agent] = Inventory("agents", session, odds)
        self._numbers = Numbers(session, odds, self._agents)
        self._refs: set[str] = set()
        self._written: set[str] = set()
        """Numbers that were written, of which the answer may not say whose they are."""

    @cached_property
    def agent(self) -> Loader[str, Agent | None]:
        """Agents by id."""
        return Loader(self._load_agents, operation=self._operation)

    @cached_property
    def number(self) -> Loader[str, PhoneNumber | None]:
        """Numbers by id."""
        return Loader(self._load_numbers, operation=self._operation)

    @cached_property
    def agent_numbers(self) -> Loader[str, list[PhoneNumber] | None]:
        """All numbers of an agent, by its id."""
        return Loader(self._load_agent_numbers, operation=self._operation)

    @cached_property
    def owner(self) -> Loader[str, str | None]:
        """Ids of the agents of numbers whose rows do not say, by the numbers' ids."""
        return Loader(self._load_owners, operation=self._operation)

    @cached_property
    def _listed_agents(self) -> Loader[Read, Arrival]:
        return Loader(self.session.fetch, turns=0, operation=self._operation)

    @cached_property
    def _listed_numbers(self) -> Loader[Read, Arrival]:
        return Loader(self.session.fetch, turns=0, operation=self._operation)

    def size(self, listing: Literal["agents", "numbers"]) -> Size | None:
        """Return how large an unfiltered list is known to be."""
        return self._agents.size if listing == "agents" else self._numbers.size

    async def agents(
        self,
        requests: Sequence[PageRequest],
        status: AgentStatus | None = None,
        search: str | None = None,
        owners: Owners | None = None,
    ) -> list[Listing[Agent]]:
        """Load pages of agents; those on them are known from then on.

        Where their numbers will be wanted, of `owners`, the list of numbers is begun together with them.
        """
        reads = [Read("agents", page=page, status=status and status.value, search=search) for page in requests]
        self._listed_agents.begin(reads)  # before the numbers, where only one of them can be afforded
        if owners and self._numbers.tell_owners and not self.session.remembers:
            ahead = self._numbers.ahead(owners.at_most, sure=owners.sure)
            self._listed_numbers.begin([Read("numbers", page=page) for page in ahead])
        listings = _whole(_answers(await self._listed_agents.load_batch(reads)))
        self._agents.see_pages(listings, whole=reads[0].whole)
        return listings

    async def numbers(
        self, requests: Sequence[PageRequest], status: PhoneNumberStatus | None = None
    ) -> list[Listing[PhoneNumber]]:
        """Load pages of numbers; those on them, and whole agents embedded in them, are known from then on."""
        reads = [Read("numbers", page=page, status=status and status.value) for page in requests]
        listings = _whole(_answers(await self._listed_numbers.load_batch(reads)))
        self._numbers.see_pages(listings, whole=reads[0].whole)
        return listings

    async def _agent_pages(self, requests: Sequence[PageRequest]) -> list[Answer]:
        return _answers(await self._listed_agents.load_batch([Read("agents", page=page) for page in requests]))

    async def _number_pages(self, requests: Sequence[PageRequest]) -> list[Answer]:
        return _answers(await self._listed_numbers.load_batch([Read("numbers", page=page) for page in requests]))

    async def owners(self, numbers: Sequence[PhoneNumber]) -> Sequence[str | Exception | None]:
        """Return the ids of numbers' agents; those that a row leaves out are found as `_load_owners` says."""
        ids: list[Any] = [number.agent_id for number in numbers]
        if UNSET not in ids:
            return ids
        silent = [number.id for number in numbers if number.agent_id is UNSET]
        found = dict(zip(silent, await self.owner.load_batch(silent), strict=True))
        return [found[number.id] if id_ is UNSET else id_ for number, id_ in zip(numbers, ids, strict=True)]

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
        self._numbers.see_listing(written)
        self._written.add(written.rows[0].id)
        return written.rows[0]

    def _forget(self, number_id: str | None) -> None:
        if number_id is not None:
            self._numbers.rows.pop(number_id, None)
        self._numbers.complete = False
        for loader in [held for held in vars(self).values() if isinstance(held, Loader)]:
            loader.clear_all()

    async def _load_agents(self, ids: list[str]) -> list[Agent | None | Exception]:
        there = [id_ for id_ in ids if self.agent_numbers.known(id_, []) is not None]
        found = dict(zip(there, await self._by_id("agent", self._agents, there), strict=True))
        return [found.get(id_) for id_ in ids]

    async def _load_numbers(self, ids: list[str]) -> list[PhoneNumber | None | Exception]:
        return await self._by_id("number", self._numbers, ids)

    async def _load_owners(self, ids: list[str]) -> list[str | None | Exception]:
        """Find whose the numbers are that were listed, or answered to a write, without an agent.

        The list may leave out null, or leave out the key whatever it is: reading a number tells. Where other rows of
        the list do say, a few numbers stand for all, and what they tell is remembered; else each is read.
        """
        found: dict[str, Any] = {id_: _no_id() for id_ in ids if isinstance(id_, Unreadable)}
        found |= await self._read_owners([id_ for id_ in ids if id_ in self._written])
        asked = [id_ for id_ in ids if id_ not in found]
        tenant = self.session.tenant
        few = self._numbers.samples if tenant.told and tenant.silence_means_none is None else len(asked)
        for part in (asked[:few], asked[few:]):
            if not tenant.silence_means_none:
                found |= (read := await self._find_owners(part))
                self._numbers.learn_silence(read.values())
        return [found.get(id_) for id_ in ids]

    async def _find_owners(self, ids: Sequence[str]) -> dict[str, Any]:
        """Find whose numbers are from all agents' numbers where those cost less, else read each number."""
        owned, calls = await self._owned_by_all(len(ids))
        missing = [id_ for id_ in ids if id_ not in owned]
        if not owned:
            return await self._read_owners(missing)
        rows = await self._doubted("number", missing, max(1, len(ids) - calls), None)
        return {id_: owned[id_] if id_ in owned else getattr(rows[id_], "agent_id", rows[id_]) for id_ in ids}

    async def _owned_by_all(self, keys: int) -> tuple[dict[str, str], int]:
        """Read all agents' numbers where that costs less than so many calls; return their owners, and the calls."""
        agents, session, calls = self._agents, self.session, 0
        if keys > SAMPLES and not agents.complete and (agents.size is None or agents.size.total < keys - 1):
            calls = 1
            with contextlib.suppress(errors.UpstreamError):
                await self.agents([PageRequest(1, MAX_LIMIT)])
        ids = list(agents.listed) if agents.complete else []
        if not ids or calls + len(ids) >= min(keys, session.affordable):
            return {}, calls
        listed = zip(ids, await self.agent_numbers.load_batch(ids), strict=True)
        return {row.id: id_ for id_, rows in listed if isinstance(rows, list) for row in rows}, calls + len(ids)

    async def _read_owners(self, ids: Sequence[str]) -> dict[str, Any]:
        rows = await self._each("number", ids, None)
        return {id_: getattr(row, "agent_id", row) for id_, row in rows.items()}

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
            read = self._agent_pages if kind == "agent" else self._number_pages
            pages = await inventory.sweep(read, len(unseen), lambda: sum(id_ not in rows for id_ in unseen))
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
        room, failed = len(ids), None
        asked = [id_ for id_ in ids if id_ not in self._agents.rows and self.agent.asked(id_)]
        there = await self.agent.load_batch(asked)  # who is not there has no numbers to be asked for
        found: dict[str, Any] = {id_: None for id_, agent in zip(asked, there, strict=True) if agent is None}
        found |= {id_: _no_id() for id_ in ids if isinstance(id_, Unreadable)}
        found |= await self._owned([id_ for id_ in ids if id_ not in found], len(ids))
        self.session.bill.saved.primed += len(found)
        for id_ in ids:
            if id_ not in found and (listing := self.session.recall(Read("agent_numbers", id_))):
                self._numbers.see_listing(listing)
                found[id_] = listing.rows
        try:
            swept, room = await self._sweep_owners([id_ for id_ in ids if id_ not in found])
            found |= swept
        except errors.UpstreamError as error:
            failed = error
        missing = [id_ for id_ in ids if id_ not in found]
        known = [id_ for id_ in missing if id_ in self._agents.rows]
        strangers = [id_ for id_ in missing if id_ not in self._agents.rows]
        for single in await asyncio.gather(
            self._each("agent_numbers", known, failed), self._doubted("agent_numbers", strangers, room, failed)
        ):
            found |= single
        return [found[id_] for id_ in ids]

    async def _sweep_owners(self, ids: list[str]) -> tuple[dict[str, list[PhoneNumber]], int]:
        """Find agents' numbers on the whole list of numbers, where that is worth its pages.

        A number may name an agent that is gone, so agents that nobody has seen are looked for on their own list first;
        either list may cost half of the single calls. Also return how many single calls are left for those not found.
        """

        def strangers() -> int:
            return sum(id_ not in self._agents.rows for id_ in ids)

        before = strangers()
        half = before // 2
        agent_pages = await self._agents.sweep(self._agent_pages, half, lambda: min(half, strangers()))
        seen = len(ids) - strangers()
        number_pages = await self._numbers.sweep(
            self._number_pages, seen, lambda: 0 if self._numbers.complete else seen, lambda: self._numbers.tell_owners
        )
        swept = await self._owned(ids, max(1, seen - number_pages))
        self.session.bill.saved.swept += max(0, len(swept) - agent_pages - number_pages)
        return swept, max(1, before - agent_pages) if self._agents.complete else before

    async def _owned(self, ids: Sequence[str], room: int) -> dict[str, list[PhoneNumber]]:
        """Return the numbers of agents as `Numbers.owned` does, once it is known what numbers without an agent mean.

        Up to `room` calls may go out for that.
        """
        owned, tenant = self._numbers.owned(ids), self.session.tenant
        if not self._numbers.silent or not tenant.told or tenant.silence_means_none is not None:
            return owned
        await self.owner.load_batch(self._numbers.silent[: min(room, SAMPLES)])
        return self._numbers.owned(ids)

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
        if not ids:
            return {}
        found: dict[str, Any] = {}
        answers = await self.session.read([Read(kind, id_) for id_ in ids], failed)
        for id_, answer in zip(ids, answers, strict=True):
            if isinstance(answer, Exception):
                found[id_] = None if isinstance(answer, errors.NotFound) else answer
            else:
                self._see(kind, answer)
                found[id_] = answer.rows if kind == "agent_numbers" else answer.rows[0]
        return found

    def _see(self, kind: ById, listing: Listing[Any]) -> None:
        if kind == "agent":
            self._agents.see(listing.rows)
        else:
            self._numbers.see_listing(listing)


def _no_id() -> errors.BadAnswer:
    return errors.BadAnswer("The upstream's answer left out the id that this is asked for with; try again later.")


def _answers(arrivals: Sequence[Arrival | Exception]) -> list[Answer]:
    return [arrival.look() if isinstance(arrival, Arrival) else arrival for arrival in arrivals]


def _whole(answers: Sequence[Answer]) -> list[Listing[Any]]:
    """Return answers of which none may have failed.

    Raises:
        Exception: the first failure.
    """
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers  # type: ignore[return-value]  # as was just seen
