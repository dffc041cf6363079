"""One kind of object as one operation has seen it, and the sweep that reads all of it.

`loaders` keeps one `Inventory` of agents and one of numbers; `planner` says how many pages a sweep may read. No sort
order is documented and rows may move while pages are read, so a list counts as complete only where the
unique ids are as many as the total that every page told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, Generic, Literal

from msgspec import UNSET

from gateway.dataloaders.planner import pages_to_read
from gateway.upstream import errors
from gateway.upstream.client import Answer, Session
from gateway.upstream.models import Agent, Listing, PhoneNumber, Row, Unreadable
from gateway.upstream.paging import MAX_LIMIT, PageRequest, Size

Pages = Callable[[Sequence[PageRequest]], Awaitable[list[Answer]]]
"""Reads pages of a list, unfiltered; failures are values."""

SAMPLES = 10
"""Numbers listed without an agent that stand for all others, at the most."""

_ID, _OWNER = attrgetter("id"), attrgetter("agent_id")


class Odds:
    """What an operation's sweeps have saved so far, less what they have lost.

    A page read on a guess may cost one call more than it saves. It is read only while nothing is lost, and in `turn`
    with other guesses, so that no operation ever spends more than one call above one for each key.
    """

    def __init__(self) -> None:
        self.balance = 0
        self.turn = asyncio.Lock()


class Inventory(Generic[Row]):
    """One kind of object as this operation has seen it: rows by id, and whether they are all.

    Args:
        name: of its list.
        session: knows the list's size and what may be spent.
        odds: of all sweeps of the operation.
    """

    def __init__(self, name: Literal["agents", "numbers"], session: Session, odds: Odds) -> None:
        self.rows: dict[str, Row] = {}
        self.complete = False
        """Whether every row was listed: as many unique ids as the total that each page told."""
        self.listed: dict[str, Row] = {}
        """The rows by id in the list's own order, where it is complete."""
        self.scanned = False
        """Whether pages were read to find rows by their keys."""
        self._name = name
        self._session = session
        self._odds = odds
        self._ahead: list[PageRequest] = []
        """What was read ahead for the next sweep."""

    @property
    def tried(self) -> bool:
        """Whether this tenant's list has told what is wanted of it, or not, before."""
        return True

    @property
    def size(self) -> Size | None:
        """The list's size as this tenant last saw it."""
        return self._session.tenant.size(self._name, self._session.clock())

    def see(self, rows: Sequence[Row]) -> dict[str, Row]:
        """Take in rows, and return them by id; those seen before stay, so that an operation sees one state of each."""
        seen = dict(zip(map(_ID, rows), rows, strict=True))  # there may be thousands
        for id_ in self.rows.keys() & seen.keys():
            seen[id_] = self.rows[id_]
        self.rows.update(seen)
        return seen

    def take(self, listings: Sequence[Listing[Row]]) -> dict[str, Row]:
        """Take in pages of the list, and return their rows by id."""
        return self.see(listings[0].rows if len(listings) == 1 else [row for page in listings for row in page.rows])

    def see_pages(self, listings: Sequence[Listing[Row]], *, whole: bool) -> None:
        """Take in pages of the list; one of the `whole`, unfiltered one may hold every row."""
        for listing in listings:
            rows = self.take([listing])
            if whole and not self.complete and listing.pagination and listing.pagination.total == len(rows):
                self.complete, self.listed = True, rows

    def ahead(self, keys: int, *, sure: bool) -> list[PageRequest]:
        """Return the page that a sweep may begin with before its keys are known, if any; the next one will be given it.

        There will be so many keys, or that many at the most where that is not `sure`. It is one page, so that one call
        is lost at the most where there turn out to be fewer, or none because their own list cannot be read.
        """
        pages = pages_to_read(keys, keys, self.size, 0)
        if not pages or (pages > 1 and not sure) or self._session.affordable < 2:
            return []
        if self.complete or self._ahead or self._odds.balance < 0 or self._odds.turn.locked():
            return []
        self._odds.balance -= 1
        self._ahead = self._requests(0, 1)
        return self._ahead

    async def sweep(
        self, pages: Pages, keys: int, missing: Callable[[], int], worth: Callable[[], bool] = lambda: True
    ) -> int:
        """Read `pages` of the list while that is cheaper than one call for each missing key; return how many.

        A page that cannot be read ends the sweep: single calls may still succeed. So does `worth`, once it says
        that this list will not tell what is wanted.

        Raises:
            errors.UpstreamError: no single call would succeed either.
        """
        if worth() and self._guesses(keys, missing()):
            async with self._odds.turn:
                return await self._sweep(pages, keys, missing, worth)
        return await self._sweep(pages, keys, missing, worth)

    def _guesses(self, keys: int, missing: int) -> bool:
        """Tell whether a sweep would begin without knowing how many pages it will have."""
        size = self.size
        known = self.complete or self._ahead or (size and size.sure)
        return not known and pages_to_read(keys, missing, size, 0) > 0

    async def _sweep(self, pages: Pages, keys: int, missing: Callable[[], int], worth: Callable[[], bool]) -> int:
        read, rows, totals, sizes = 0, dict[str, Row](), set[int](), list[int]()
        requests = self._next(keys, missing(), read) if worth() and not self.complete else []
        while requests:
            answers = await pages(requests)
            self.scanned = True
            read += len(requests)
            listings = [answer for answer in answers if isinstance(answer, Listing)]
            if len(listings) < len(answers):
                _raise_hopeless(answers)
                break
            rows |= self.take(listings)
            totals.update(listing.pagination.total if listing.pagination else -1 for listing in listings)
            sizes += [len(listing.rows) for listing in listings]
            self.complete, self.listed = totals == {len(rows)}, rows
            if self.complete or not worth():
                break
            ends = len(totals) == 1 and sum(sizes) == len(rows) and _end(sizes, _limit(listings[-1], requests[-1]))
            if ends == "proven":
                self.complete = True
                self._session.tenant.prove(self._name, totals.pop(), len(rows))
                break
            probe = ends == "likely" and missing() > 1 and self._session.affordable > 0
            requests = self._requests(read, 1) if probe else self._next(keys, missing(), read)
        self._odds.balance += max(-1, keys - read - (missing() if worth() else keys))
        return read

    def _next(self, keys: int, missing: int, read: int) -> list[PageRequest]:
        """Return what to read next: what was read ahead, or what is cheaper than single calls and can be afforded."""
        if self._ahead:
            requests, self._ahead = self._ahead, []
            self._odds.balance += 1
            return requests
        more = pages_to_read(keys, missing, self.size, read)
        if not read and not self.tried:
            more = min(more, 1)
        guess = not (read or (self.size and self.size.sure))
        if more > self._session.affordable or (guess and self._odds.balance < 0):
            return []
        return self._requests(read, more)

    def _requests(self, read: int, more: int) -> list[PageRequest]:
        limit = self.size.limit if self.size else MAX_LIMIT
        return [PageRequest(page, limit) for page in range(read + 1, read + more + 1)]


class Numbers(Inventory[PhoneNumber]):
    """The numbers, and whose they are.

    Args:
        agents: take in the whole agents that numbers bring along.
    """

    def __init__(self, session: Session, odds: Odds, agents: Inventory[Agent]) -> None:
        super().__init__("numbers", session, odds)
        self._agents = agents
        self._told: bool | None = None
        self.silent: list[str] = []
        """Ids of the numbers that the whole list named without an agent, when `owned` last went through it."""

    @property
    def tried(self) -> bool:
        """Whether it is known if listed numbers say whose they are; another replica may have told the size alone."""
        return self._session.tenant.told is not None

    @property
    def tell_owners(self) -> bool:
        """Whether listed numbers say whose they are, as far as this tenant knows."""
        tenant = self._session.tenant
        return tenant.told is not False and tenant.silence_means_none is not False

    @property
    def samples(self) -> int:
        """How many numbers that were listed without an agent are read, to learn what that means; at least one."""
        return min(SAMPLES, max(1, 1 + self._odds.balance)) if self.scanned else SAMPLES

    def learn_silence(self, owners: Iterable[object]) -> None:
        """Learn from whose numbers are that were listed without an agent what such a row means."""
        told, tenant = set(map(type, owners)), self._session.tenant
        if str in told:
            tenant.silence_means_none = False
        elif told == {type(None)} and tenant.told:
            tenant.silence_means_none = True

    def see_listing(self, listing: Listing[PhoneNumber]) -> None:
        """Take in what an answer holds, agents included."""
        self.see(listing.rows)
        self._agents.see(listing.agents)

    def take(self, listings: Sequence[Listing[PhoneNumber]]) -> dict[str, PhoneNumber]:
        """Take in pages, unless they do not say whose the numbers are: then they are not all that is to be known."""
        for listing in listings:
            if listing.rows and not self._told:
                tenant = self._session.tenant
                self._told = tenant.told = tenant.told or any(row.agent_id is not UNSET for row in listing.rows)
            if listing.agents:
                self._agents.see(listing.agents)
        return super().take(listings) if self._told else {row.id: row for page in listings for row in page.rows}

    def owned(self, ids: Sequence[str]) -> dict[str, list[PhoneNumber]]:
        """Return the numbers of those agents of whom all are known: seen ones, from a whole list that says whose."""
        self.silent = []
        if not self.complete or self._told is False:
            return {}
        owned: dict[Any, list[PhoneNumber]] = {id_: [] for id_ in ids if id_ in self._agents.rows}
        owned[UNSET] = []
        numbers = self.listed.values()
        # a workspace may have thousands of which few are wanted
        for number in compress(numbers, map(owned.__contains__, map(_OWNER, numbers))):
            owned[number.agent_id].append(number)
        self.silent = [row.id for row in owned.pop(UNSET) if not isinstance(row.id, Unreadable)]
        return {} if self.silent and not self._session.tenant.silence_means_none else owned


def _end(sizes: Sequence[int], limit: int) -> Literal["likely", "proven"] | None:
    """Tell whether pages that were read from the first on end their list, whatever its total is said to be.

    A page with less than `limit` rows is likely to be the last one. An empty page behind it proves it: an upstream with
    a smaller limit than it tells would have more rows there.
    """
    filled = sum(map(bool, sizes))
    if any(size < limit for size in sizes[: filled - 1]):
        return None
    if filled < len(sizes):
        return "proven"
    return "likely" if sizes[-1] < limit else None


def _limit(listing: Listing[Any], asked: PageRequest) -> int:
    """Return how many rows a page could have held."""
    told = listing.pagination.limit if listing.pagination else 0
    return min(told, asked.limit) if told > 0 else asked.limit


def _raise_hopeless(answers: Iterable[object]) -> None:
    """Raise the first failure that a single call would meet as well."""
    for answer in answers:
        if isinstance(answer, BaseException) and (
            isinstance(answer, _HOPELESS) or not isinstance(answer, errors.UpstreamError)
        ):
            raise answer


_HOPELESS = (
    errors.Refused,
    errors.Unauthenticated,
    errors.PaymentRequired,
    errors.RateLimited,
    errors.TimedOut,
    errors.Unavailable,
)
