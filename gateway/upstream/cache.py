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
"""Bytes of memory for a byte of body, decoded and indexed; measured 2.9 to 3.1 with pages of 100 numbers."""
ENTRY_COST = 1000
"""Bytes of memory for an answer without a row in it; measured 600 to 1,000."""


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
        self._entries.move_to_end(id(entry))

    def drop(self, entry: _Entry) -> None:
        """Let go of an entry."""
        del self._entries[id(entry)]
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
        entry = _Entry(read, listing, at, ENTRY_COST + size * STRUCT_COST, self._forget)
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

    def clear(self) -> None:
        """Forget everything."""
        entries = [entry for index in (self._agents, self._numbers) for _, entry in index.values()]
        entries += [*self._owned.values(), *(entry for pages in self._pages.values() for entry in pages.values())]
        for entry in {id(entry): entry for entry in entries}.values():
            self._budget.drop(entry)

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
        agent = self._object(self._agents.get(agent_id), since)  # a number may name one that is gone
        return Held(Listing(owners.get(agent_id, [])), min(at, agent.at)) if agent and at >= since else None

    def _whole(self) -> tuple[float, dict[str, list[PhoneNumber]]]:
        """Group the whole list of numbers by agent, in its order; age minus infinity where it is not whole."""
        pages = self._agreeing(self._pages.get(Read("numbers"), {}).values())
        numbers: dict[str, tuple[int, PhoneNumber]] = {}
        read_at = float("-inf")
        for entry, told in pages:
            for place, row in enumerate(entry.listing.rows, (told.page - 1) * told.limit):
                numbers.setdefault(row.id, (place, row))
            if len(numbers) == told.total:
                read_at = entry.at
                break
        owners: dict[str, list[PhoneNumber]] = {}
        for _, number in sorted(numbers.values(), key=lambda placed: placed[0]):
            if isinstance(number.agent_id, str):
                owners.setdefault(number.agent_id, []).append(number)
        told_whose = all(number.agent_id is not UNSET for _, number in numbers.values())
        return read_at if told_whose else float("-inf"), owners

    @staticmethod
    def _agreeing(entries: Iterable[_Entry]) -> list[tuple[_Entry, Pagination]]:
        """Return the pages that agree with the newest one on the total, newest first."""
        pages = [(entry, told) for entry in entries if (told := entry.listing.pagination)]
        pages.sort(key=lambda page: -page[0].at)
        return [page for page in pages if page[1].total == pages[0][1].total]

    def _window(self, read: Read, since: float) -> Held | None:
        """Put a page together from pages of any size that were read lately and agree on the total."""
        page = read.page
        assert page  # noqa: S101 - a list is read page by page
        pages = self._agreeing(e for e in self._pages.get(_list_of(read), {}).values() if e.at >= since)
        if not pages:
            return None
        rows: dict[int, tuple[Any, _Entry]] = {}
        for entry, told in reversed(pages):
            offset = (told.page - 1) * told.limit
            rows.update((at, (row, entry)) for at, row in enumerate(entry.listing.rows[: told.limit], offset))
        total = pages[0][1].total
        wanted = range(page.start, min(page.stop, total))
        found = [rows[at] for at in wanted if at in rows]
        if len({row.id for row, _ in found}) < len(wanted):  # not all there, or moved from one page to another
            return None
        for _, entry in found:
            self._budget.touch(entry)
        at = min((entry.at for _, entry in found), default=pages[0][0].at)
        return Held(Listing([row for row, _ in found], Pagination(page.page, page.limit, total)), at)

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
    # a row that does not say whose it is does not answer for the number
    return list(entry.listing.agents), [row for row in entry.listing.rows if row.agent_id is not UNSET]
