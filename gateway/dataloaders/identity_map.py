"""Rows of one resource that an operation has seen, and the list scan that reads all of them.

`planner` says how many pages a scan may read. No sort order is documented and rows may move while pages are read, so a
list counts as complete only if its unique ids are as many as the total that every page told.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, Literal

from msgspec import UNSET

from gateway.dataloaders.planner import pages_to_read
from gateway.upstream import errors
from gateway.upstream.client import LazyResult, Result, Session
from gateway.upstream.models import Listing, Unreadable
from gateway.upstream.resources import MAX_LIMIT, PageRequest, Read, Resource, Size

SAMPLES = 10
"""Rows listed without an owner that are read, at most, to learn what that means."""

_ID, _OWNER = attrgetter("id"), attrgetter("owner_id")


class SpeculationGuard:
    """Bounds what an operation's list scans may lose.

    A speculative page may cost one call more than it saves. It is read only while `balance`, the calls saved minus the
    calls lost, is not negative, and one at a time (`turn`), so that no operation spends more than one call above one
    for each key.
    """

    def __init__(self) -> None:
        self.balance = 0
        self.turn = asyncio.Lock()


class IdentityMap:
    """Rows of one resource by id, and whether they are all.

    Args:
        resource: of the rows.
        session: knows the list's size and what may be spent.
        guard: of all scans of the operation.
        owners: take in the whole owners that rows embed; None if the resource has no owner.
    """

    def __init__(
        self, resource: Resource[Any], session: Session, guard: SpeculationGuard, owners: "IdentityMap | None"
    ) -> None:
        self.rows: dict[str, Any] = {}
        self.complete = False
        """Whether every row was listed: as many unique ids as the total that each page told."""
        self.listed: dict[str, Any] = {}
        """The rows by id in the list's own order, if it is complete."""
        self.silent: list[str] = []
        """Ids of the rows that the complete list has without an owner, when `owned` last went through it."""
        self.owner_facts = session.tenant.owners[resource.name]
        if self.owner_facts.silence_means_none is not None:
            self.owner_facts.forget_old(session.clock())
        self._told: bool | None = None if owners else True
        """Whether listed rows have an owner id or null; None if unknown, True if there are no owners."""
        self._owners = owners
        self._resource = resource
        self._session = session
        self._guard = guard
        self._pages: dict[Read, LazyResult] = {}
        self._ahead: list[PageRequest] = []
        """Pages that were read ahead for the next scan."""

    @property
    def size(self) -> Size | None:
        """The list's size as this tenant last saw it."""
        return self._session.tenant.sizes.get(self._resource.name, self._session.clock())

    @property
    def tells_owners(self) -> bool:
        """Whether listed rows say whose they are, as far as this tenant knows."""
        return self.owner_facts.told is not False and self.owner_facts.silence_means_none is not False

    def learn_silence(self, owners: Collection[object]) -> None:
        """Learn what a row without an owner means from the owners of rows that were listed without one.

        One that has an owner tells it, or SAMPLES that have none.
        """
        told, facts = set(map(type, owners)), self.owner_facts
        if str in told:
            facts.silence_means_none = False
        elif told == {type(None)} and facts.told and len(owners) >= SAMPLES:
            facts.silence_means_none = True
        else:
            return
        facts.learned_at = self._session.clock()

    def see(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Take in rows, and return them by id; those seen before stay, so that an operation sees one state of each."""
        seen = dict(zip(map(_ID, rows), rows, strict=True))  # there may be thousands
        for id_ in self.rows.keys() & seen.keys():
            seen[id_] = self.rows[id_]
        self.rows.update(seen)
        return seen

    def see_listing(self, listing: Listing[Any]) -> None:
        """Take in the rows of a response, and the owners in them."""
        self.see(listing.rows)
        if self._owners:
            self._owners.see(listing.owners)

    def see_pages(self, listings: Sequence[Listing[Any]], *, whole: bool) -> None:
        """Take in pages of the list; one of the `whole`, unfiltered one may hold every row."""
        for listing in listings:
            rows = self._take([listing])
            told = listing.pagination
            if whole and not self.complete and told and not told.has_more and told.total == len(rows):
                self.complete, self.listed = True, rows

    def forget_pages(self) -> None:
        """Forget the pages that were read; their rows stay."""
        self.release()
        self._pages.clear()

    def forget(self, ids: Iterable[str | None]) -> None:
        """Forget rows that a write made stale."""
        self.complete = False
        for id_ in ids:
            self.rows.pop(id_, None)  # type: ignore[arg-type]  # no row has None

    def release(self) -> None:
        """Let go of the pages that were read ahead and that nobody waits for."""
        for page in self._pages.values():
            page.release()

    async def pages(self, requests: Sequence[PageRequest], filters: Mapping[str, str | None] = {}) -> list[Result]:
        """Read pages of the list, each once."""
        pages = self.start(requests, filters)
        await self._session.wait(pages)
        return list(map(LazyResult.result, pages))

    def start(self, requests: Sequence[PageRequest], filters: Mapping[str, str | None] = {}) -> list[LazyResult]:
        """Start to read pages of the list, each once."""
        started: list[LazyResult] = []
        for request in requests:
            read = self._resource.page(request, filters)
            page = self._pages.get(read)
            if page is None:
                page = self._pages[read] = self._session.start(read)
            started.append(page)
        return started

    def owned(self, ids: Sequence[str]) -> dict[str, list[Any]]:
        """Return the rows of the owners that were seen, from a complete list that says whose its rows are."""
        self.silent = []
        if not self._owners or self._told is False:
            return {}
        owned: dict[Any, list[Any]] = {id_: [] for id_ in ids if id_ in self._owners.rows}
        owned[UNSET] = []
        rows = self.listed.values()
        # a workspace may have thousands of which few are wanted
        for row in compress(rows, map(owned.__contains__, map(_OWNER, rows))):
            owned[row.owner_id].append(row)
        self.silent = [row.id for row in owned.pop(UNSET) if not isinstance(row.id, Unreadable)]
        return owned

    def _take(self, listings: Sequence[Listing[Any]]) -> dict[str, Any]:
        """Take in pages, and return their rows by id; rows that do not say whose they are, are not all there is."""
        for listing in listings if self._owners else ():
            if listing.rows and not self._told:
                facts = self.owner_facts
                self._told = facts.told = facts.told or any(row.owner_id is not UNSET for row in listing.rows)
            if listing.owners and self._owners:
                self._owners.see(listing.owners)
        rows = listings[0].rows if len(listings) == 1 else [row for page in listings for row in page.rows]
        return self.see(rows) if self._told else {row.id: row for row in rows}

    def look_ahead(self, keys: int, *, sure: bool) -> list[PageRequest]:
        """Return the page that the next scan may start with before its keys are known, if that is worth it.

        There will be so many keys, or at most that many if that is not `sure`. It is one page, so that at most one
        call is lost if there turn out to be fewer, or none because their own list cannot be read.
        """
        size = self.size
        pages = pages_to_read(keys, keys, size, 0)
        if not pages or (pages > 1 and not sure) or self._session.affordable < 2:
            return []
        if self.complete or self._ahead or self._guard.balance < 0 or self._guard.turn.locked():
            return []
        self._guard.balance -= 1
        self._ahead = self._requests(0, 1, size)
        return self._ahead

    async def scan(self, keys: int, ids: Collection[str] | None = None) -> int:
        """Read pages of the list while that costs less than one call for each missing key; return how many.

        Keys are `ids` of rows (`keys` of them at most), or else ids of owners whose rows are wanted. A page that
        cannot be read ends the scan: point reads may still succeed. So does a list that does not say whose its rows
        are, if owners are wanted.

        Raises:
            errors.UpstreamError: no point read would succeed either.
        """
        if not (keys or self._ahead):
            return 0
        wanted = None if ids is None else frozenset(ids)
        size = self.size
        certain = self.complete or self._ahead or (size and size.sure)
        if not certain and self._worth(wanted) and pages_to_read(keys, self._missing(keys, wanted), size, 0):
            async with self._guard.turn:
                return await self._scan(keys, wanted)
        return await self._scan(keys, wanted)

    def _missing(self, keys: int, wanted: frozenset[str] | None) -> int:
        """Return how many of so many keys the list has not answered yet."""
        if wanted is None:
            return 0 if self.complete else keys
        return min(keys, len(wanted - self.rows.keys()))

    def _worth(self, wanted: frozenset[str] | None) -> bool:
        """Tell whether the list can tell what is wanted of it."""
        return wanted is not None or self.tells_owners

    async def _scan(self, keys: int, wanted: frozenset[str] | None) -> int:
        read, rows, totals, least, sizes = 0, dict[str, Any](), set[int](), 0, list[int]()
        known_sizes, name = self._session.tenant.sizes, self._resource.name
        worth = self._worth(wanted) and not self.complete
        requests = self._next(keys, self._missing(keys, wanted), read) if worth else []
        while requests:
            results = await self.pages(requests)
            read += len(requests)
            listings = [result for result in results if isinstance(result, Listing)]
            if len(listings) < len(results):
                _raise_hopeless(results)
                break
            rows |= self._take(listings)
            told = [listing.pagination for listing in listings if listing.pagination]
            totals.update(page.total for page in told if not page.has_more)
            least = max(least, *(page.total for page in told if page.has_more), 0)
            sizes += [len(listing.rows) for listing in listings]
            if len(totals) > 1 and (wrong := known_sizes.disproved(name, self._session.clock())) is not None:
                totals.discard(wrong)
            self.complete, self.listed = totals == {len(rows)} and least <= len(rows), rows
            if self.complete or not self._worth(wanted):
                break
            ends = len(totals) <= 1 and sum(sizes) == len(rows) and _end(sizes, _limit(listings[-1], requests[-1]))
            if told[-1].has_more and told[-1].total > len(rows) and not sizes[-1]:
                ends = None  # an empty page that says of more
            missing = self._missing(keys, wanted)
            if ends == "proven":
                self.complete = True
                if totals:
                    known_sizes.prove(name, totals.pop(), len(rows), self._session.clock())
                break
            probe = ends == "likely" and missing > 1 and self._session.affordable > 0
            requests = self._requests(read, 1, self.size) if probe else self._next(keys, missing, read)
        missing = self._missing(keys, wanted) if self._worth(wanted) else keys
        self._guard.balance += max(-1, keys - read - missing)
        return read

    def _next(self, keys: int, missing: int, read: int) -> list[PageRequest]:
        """Return what to read next: what was read ahead, or what costs less than point reads and can be afforded."""
        if self._ahead:
            requests, self._ahead = self._ahead, []
            self._guard.balance += 1
            return requests
        size = self.size
        more = pages_to_read(keys, missing, size, read)
        if not read and self._owners and self.owner_facts.told is None:
            more = min(more, 1)
        speculative = not (read or (size and size.sure))
        if not more or more > self._session.affordable or (speculative and self._guard.balance < 0):
            return []
        return self._requests(read, more, size)

    @staticmethod
    def _requests(read: int, more: int, size: Size | None) -> list[PageRequest]:
        limit = size.limit if size else MAX_LIMIT
        return [PageRequest(page, limit) for page in range(read + 1, read + more + 1)]


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


def _raise_hopeless(results: Iterable[object]) -> None:
    """Raise the first failure that a point read would meet as well."""
    for result in results:
        if isinstance(result, BaseException) and (
            isinstance(result, _HOPELESS) or not isinstance(result, errors.UpstreamError)
        ):
            raise result


_HOPELESS = (
    errors.Refused,
    errors.Unauthenticated,
    errors.PaymentRequired,
    errors.RateLimited,
    errors.TimedOut,
    errors.Unavailable,
)
