"""What one tenant's operations remember of each other's answers, by what the answers mean.

`client` asks `Memory.recall` before a call and tells `Memory.hold` after it. A list that was seen makes its
members known, pages answer every window they cover, and the whole list of numbers answers whose they are. One
`Memory` belongs to one tenant, so nothing can pass between two keys; all share one bound in bytes, the least
recently used answer goes first. Ages are judged by the caller: an answer is kept, not promised.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from gateway.upstream.models import Agent, Listing, Pagination, PhoneNumber
from gateway.upstream.reads import Read

STRUCT_COST = 3
"""Bytes of memory for a byte of body, decoded and indexed; measured 2.6 with pages of 100 numbers."""


class Held(NamedTuple):
    """A remembered answer and when its oldest part was read (unix seconds)."""

    listing: Listing[Any]
    at: float


class _Entry(msgspec.Struct, eq=False):
    """One answer as it was read; `forget` takes it out of every index."""

    read: Read
    listing: Listing[Any]
    at: float
    size: int
    forget: Callable[["_Entry"], None]


class Budget:
    """The bytes that all tenants' memories may take together.

    Args:
        max_bytes: of answers kept, with what their objects take in memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()

    def add(self, entry: _Entry) -> None:
        """Keep an entry, and let go of the least recently used ones."""
        self._entries[id(entry)] = entry
        self.used += entry.size
        while self.used > self.max_bytes:
            self.drop(next(iter(self._entries.values())))

    def touch(self, entry: _Entry) -> None:
        """Mark an entry as used just now."""
        if id(entry) in self._entries:
            self._entries.move_to_end(id(entry))

    def drop(self, entry: _Entry) -> None:
        """Let go of an entry."""
        if self._entries.pop(id(entry), None):
            self.used -= entry.size
            entry.forget(entry)


class Memory:
    """One tenant's remembered answers."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._agents: dict[str, tuple[Agent, _Entry]] = {}
        self._numbers: dict[str, tuple[PhoneNumber, _Entry]] = {}
        self._owned: dict[str, _Entry] = {}
        self._pages: dict[Read, dict[Read, _Entry]] = {}
        self._owners: tuple[float, dict[str, list[PhoneNumber]]] | None = None
        """The whole list of numbers by agent, and the age of its oldest page; None where it is to be made anew."""

    def recall(self, read: Read, since: float) -> Held | None:
        """Return what was read at `since` or later and answers this, or None."""
        match read.kind:
            case "agent":
                return self._object(self._agents.get(read.id), since)
            case "number":
                return self._object(self._numbers.get(read.id), since)
            case "agent_numbers":
                return self._numbers_of(read.id, since)
        return self._window(read, since)

    def hold(self, read: Read, listing: Listing[Any], at: float, size: int) -> None:
        """Remember an answer of `size` bytes that was read at `at`."""
        entry = _Entry(read, listing, at, size * STRUCT_COST, self._forget)
        if read.page:
            if before := self._pages.get(_list_of(read), {}).get(read):
                self._budget.drop(before)
            self._pages.setdefault(_list_of(read), {})[read] = entry
            self._owners = None
        elif read.kind == "agent_numbers":
            if read.id in self._owned:
                self._budget.drop(self._owned[read.id])
            self._owned[read.id] = entry
        agents, numbers = _objects(entry)
        self._agents.update((agent.id, (agent, entry)) for agent in agents)
        self._numbers.update((number.id, (number, entry)) for number in numbers)
        self._budget.add(entry)

    def wrote(self, number_id: str | None, agents: Iterable[str | None]) -> None:
        """Forget what a write to a number made stale: itself, every list of numbers, and its agents' numbers.

        Args:
            number_id: the number, or None where it is not known yet.
            agents: those that the write names; those the number was seen with are found here.
        """
        for key in [key for key in self._pages if key.kind == "numbers"]:
            del self._pages[key]  # their rows stay known one by one
        self._owners = None
        stale = set(agents)
        stale |= {id_ for id_, entry in self._owned.items() if any(row.id == number_id for row in entry.listing.rows)}
        for agent_id in [id_ for id_ in self._owned if id_ in stale]:
            del self._owned[agent_id]
        if number_id is not None:
            self._numbers.pop(number_id, None)

    def _object(self, known: tuple[Any, _Entry] | None, since: float) -> Held | None:
        if known is None or known[1].at < since:
            return None
        self._budget.touch(known[1])
        return Held(Listing([known[0]]), known[1].at)

    def _numbers_of(self, agent_id: str, since: float) -> Held | None:
        entry = self._owned.get(agent_id)
        if entry and entry.at >= since:
            self._budget.touch(entry)
            return Held(entry.listing, entry.at)
        at, owners = self._owners = self._owners or self._whole()
        if at < since:
            return None
        if agent_id in owners:
            return Held(Listing(owners[agent_id]), at)
        agent = self._object(self._agents.get(agent_id), since)  # it has none, where it is there at all
        return agent and Held(Listing([]), min(at, agent.at))

    def _whole(self) -> tuple[float, dict[str, list[PhoneNumber]]]:
        """Group the whole list of numbers by agent; age minus infinity where it is not whole."""
        pages = self._pages.get(Read("numbers"), {}).values()
        numbers = {row.id: row for entry in pages for row in entry.listing.rows}
        totals = {entry.listing.pagination.total for entry in pages if entry.listing.pagination}
        told = not numbers or any(number.agent_id is not UNSET for number in numbers.values())
        if totals != {len(numbers)} or not told:
            return float("-inf"), {}
        owners: dict[str, list[PhoneNumber]] = {}
        for number in numbers.values():
            if isinstance(number.agent_id, str):
                owners.setdefault(number.agent_id, []).append(number)
        return min(entry.at for entry in pages), owners

    def _window(self, read: Read, since: float) -> Held | None:
        """Put a page together from pages of any size that were read lately and agree on the total."""
        page = read.page
        assert page  # noqa: S101 - a list is read page by page
        entries = [entry for entry in self._pages.get(_list_of(read), {}).values() if entry.at >= since]
        if not entries:
            return None
        newest = max(entries, key=lambda entry: entry.at).listing.pagination
        if newest is None:
            return None
        rows: dict[int, tuple[Any, _Entry]] = {}
        for entry in sorted(entries, key=lambda entry: entry.at):
            told = entry.listing.pagination
            if told and told.total == newest.total:
                offset = (told.page - 1) * told.limit
                rows.update((at, (row, entry)) for at, row in enumerate(entry.listing.rows[: told.limit], offset))
        wanted = range(page.start, min(page.stop, newest.total))
        if not all(at in rows for at in wanted):
            return None
        used = {id(rows[at][1]): rows[at][1] for at in wanted}
        for entry in used.values():
            self._budget.touch(entry)
        at = min((entry.at for entry in used.values()), default=max(entry.at for entry in entries))
        return Held(Listing([rows[i][0] for i in wanted], Pagination(page.page, page.limit, newest.total)), at)

    def _forget(self, entry: _Entry) -> None:
        """Take an entry out of every index that still leads to it."""
        pages = self._pages.get(_list_of(entry.read), {})
        if pages.get(entry.read) is entry:
            del pages[entry.read]
            self._owners = None
            if not pages:
                del self._pages[_list_of(entry.read)]
        if self._owned.get(entry.read.id) is entry:
            del self._owned[entry.read.id]
        agents, numbers = _objects(entry)
        for index, rows in ((self._agents, agents), (self._numbers, numbers)):
            for row in rows:
                known: Any = index.get(row.id)
                if known and known[1] is entry:
                    del index[row.id]


def _list_of(read: Read) -> Read:
    """Return what all pages of one list with one set of filters have in common."""
    return Read(read.kind, status=read.status, search=read.search)


def _objects(entry: _Entry) -> tuple[list[Agent], list[PhoneNumber]]:
    """Return the whole agents and the numbers in an answer."""
    if entry.read.kind in {"agent", "agents"}:
        return entry.listing.rows, []
    return list(entry.listing.agents), entry.listing.rows
