"""One kind of object as one operation has seen it, and the sweep that reads all of it.

`loaders` keeps one `Inventory` of agents and one of numbers; `planner` says how many pages a sweep may read. No sort
order is documented and rows may move while pages are read, so a list counts as complete only where the
unique ids are as many as the total that every page told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic

from gateway.planner import MAX_LIMIT, PageRequest, Size, pages_to_read
from gateway.upstream import errors
from gateway.upstream.client import Session
from gateway.upstream.models import Listing, Row


class Odds:
    """What an operation's sweeps have saved so far, less what they have lost.

    A page read on a guess may cost one call more than it saves. It is read only while nothing is lost, so that no
    operation ever spends more than one call above one for each key.
    """

    balance = 0


class Inventory(Generic[Row]):
    """One kind of object as this operation has seen it: rows by id, and whether they are all."""

    def __init__(
        self, name: str, session: Session, odds: Odds, page: Callable[[PageRequest], Awaitable[Listing[Row]]]
    ) -> None:
        self.rows: dict[str, Row] = {}
        self.complete = False
        """Whether every row was listed: as many unique ids as the total that each page told."""
        self.order: list[str] = []
        """The ids in the list's own order, where it is complete."""
        self._name = name
        self._session = session
        self._odds = odds
        self._page: Callable[[PageRequest], Awaitable[Listing[Row]]] = page

    @property
    def size(self) -> Size | None:
        """The list's size as this tenant last saw it."""
        return self._session.tenant.size(self._name, self._session.now)

    def see(self, rows: Iterable[Row]) -> None:
        """Take in rows; those seen before stay, so that an operation sees one state of each."""
        for row in rows:
            self.rows.setdefault(row.id, row)

    def see_page(self, listing: Listing[Row]) -> None:
        """Take in a page of the whole, unfiltered list: it may hold every row."""
        ids = dict.fromkeys(row.id for row in listing.rows)
        if not self.complete and listing.pagination and listing.pagination.total == len(ids):
            self.complete, self.order = True, list(ids)

    async def sweep(self, keys: int, missing: Callable[[], int], worth: Callable[[], bool] = lambda: True) -> int:
        """Read pages while that is cheaper than one call for each missing key; return how many were read.

        A page that cannot be read ends the sweep: single calls may still succeed. So does `worth`, once it says
        that this list will not tell what is wanted.

        Raises:
            errors.UpstreamError: no single call would succeed either.
        """
        read, ids, totals = 0, dict[str, None](), set[int]()
        while worth() and not self.complete and (more := pages_to_read(keys, missing(), self.size, read)):
            guess = not (read or (self.size and self.size.sure))
            if more > self._session.affordable or (guess and self._odds.balance < 0):
                break
            limit = self.size.limit if self.size else MAX_LIMIT
            requests = [PageRequest(page, limit) for page in range(read + 1, read + more + 1)]
            self._odds.balance -= guess
            answers = await asyncio.gather(*map(self._page, requests), return_exceptions=True)
            self._odds.balance += guess
            read += more
            pages = [answer for answer in answers if isinstance(answer, Listing)]
            if len(pages) < len(answers):
                _raise_hopeless(answers)
                break
            for page in pages:
                ids.update(dict.fromkeys(row.id for row in page.rows))
                totals.add(page.pagination.total if page.pagination else -1)
            self.complete, self.order = totals == {len(ids)}, list(ids)
        self._odds.balance += max(-1, keys - read - (missing() if worth() else keys))
        return read


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
