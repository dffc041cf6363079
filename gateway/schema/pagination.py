"""Makes Relay connections of a list that has numbered pages.

A cursor is opaque to clients. It holds the row's offset and a hash of the list's name and filters, so a cursor of
another list is refused. Facts: GraphQL Cursor Connections Specification; `page` and `limit` of the vendor's page.
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from operator import attrgetter
from typing import Generic

import msgspec

from gateway.dataloaders.planner import window
from gateway.upstream.errors import InvalidInput
from gateway.upstream.models import Listing, Row
from gateway.upstream.resources import MAX_LIMIT, PageRequest

MAX_INT = 2**31 - 1
"""GraphQL's largest Int (specification, section 3.5.1)."""

_ID = attrgetter("id")

Fetch = Callable[[list[PageRequest], int | None], Awaitable[list[Listing[Row]]]]
"""Loads pages; the number is that of the rows in the window, None if it is not known."""


class Edge(msgspec.Struct, Generic[Row]):
    """A row and its offset in the list that `scope` identifies."""

    node: Row
    offset: int
    scope: str

    @property
    def cursor(self) -> str:
        """The opaque cursor."""
        return _cursor(self.offset, self.scope)


class WindowInfo(msgspec.Struct):
    """The position of a window in its list."""

    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


class Window(msgspec.Struct, Generic[Row]):
    """A window of a list: rows from offset `start`, of `total_count` in all."""

    nodes: list[Row]
    total_count: int
    start: int
    scope: str

    @property
    def edges(self) -> list[Edge[Row]]:
        """The rows with their cursors."""
        return [Edge(node, offset, self.scope) for offset, node in enumerate(self.nodes, self.start)]

    @property
    def page_info(self) -> WindowInfo:
        """The position of this window."""
        stop = self.start + len(self.nodes)
        ends = (_cursor(self.start, self.scope), _cursor(stop - 1, self.scope)) if self.nodes else (None, None)
        # an empty page has no cursor to continue from, whatever the total says
        more = bool(self.nodes) and stop < self.total_count
        return WindowInfo(more, min(self.start, self.total_count) > 0, *ends)


@lru_cache(maxsize=1024)
def _scope(filters: tuple[object, ...]) -> str:
    return hashlib.blake2s(repr(filters).encode(), digest_size=6).hexdigest()


def _cursor(offset: int, scope: str) -> str:
    return base64.urlsafe_b64encode(f"{offset}:{scope}".encode()).decode().rstrip("=")


async def connect(
    fetch: Fetch[Row], first: int, after: str | None, *, filters: tuple[object, ...], total: int | None
) -> Window[Row]:
    """Load the `first` rows after the cursor `after`, in one REST call if one page covers them.

    Args:
        fetch: loads the pages.
        first: rows wanted, 1 to 100.
        after: a cursor of this list with these filters, or None to start with the first row.
        filters: the list's name and the filters that are set.
        total: rows in the list if that is known; then two pages are requested together.

    Raises:
        InvalidInput: `first` or `after` is not valid.
    """
    if not 1 <= first <= MAX_LIMIT:
        raise InvalidInput(f"first must be 1 to {MAX_LIMIT}, not {first}; ask for more with after: pageInfo.endCursor.")
    scope = _scope(filters)
    start = 0 if after is None else _offset(after, scope) + 1
    rows: dict[int, Row] = {}
    least, limit, at = 1, MAX_LIMIT, start
    while True:
        requests = window(at, start + first - at, limit, least)
        # without a known total, the first page says whether there is a second one
        requests[1:] = [request for request in requests[1:] if total is not None and request.start < total]
        before = len(rows), least
        expected = None if total is None else max(0, min(first, total - start))
        for request, page in zip(requests, await fetch(requests, expected), strict=True):
            told, size = page.pagination, await _size(fetch, request, page)
            limit = min(limit, size) if size < request.limit else limit
            total = max(0, told.total) if told else len(page.rows)
            if told and told.has_more and page.rows:
                total = max(total, start + 1)  # the least there can be may end before the window
            if told and told.has_more and page.rows and {*map(_ID, page.rows)} <= {*map(_ID, rows.values())}:
                total = 0  # every page is the same one
                continue
            if told and request.page > 1 and request.limit < told.limit <= limit:
                least = told.limit  # larger pages than requested have other rows
                continue
            rows.update(enumerate(page.rows[:size], (request.page - 1) * size))
        total = max(
            total or 0, max(rows, default=-1) + 1
        )  # an empty page may have a total that other pages have disproved
        stop = min(start + first, total)
        at = next((at for at in range(start, stop) if at not in rows), stop)
        if at >= stop or (len(rows), least) == before:
            return Window([rows[i] for i in range(start, at)], min(total, MAX_INT), start, scope)


async def _size(fetch: Fetch[Row], request: PageRequest, page: Listing[Row]) -> int:
    """Return how many rows each page of the list has.

    If a page with fewer rows than requested is not known to be the last one, the upstream may have a limit of its own,
    which the first page shows.
    """
    told, limit = page.pagination, request.limit
    if told and 0 < told.limit < limit:
        limit = told.limit
    if told and told.has_more and 0 < len(page.rows) < limit:
        first = page if request.page == 1 else (await fetch([PageRequest(1, request.limit)], None))[0]
        return min(limit, len(first.rows)) or limit
    return limit


def _offset(cursor: str, scope: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        offset, _, given = text.partition(":")
        if given == scope and offset.isdigit() and len(offset) <= 9:
            return int(offset)
    except ValueError:
        pass
    raise InvalidInput("`after` is not a cursor of this list with these filters. Omit it to start from the first page.")
