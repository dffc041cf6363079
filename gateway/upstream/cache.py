"""The responses that one tenant's operations remember, by what they mean.

A listed row answers a later GET of that object, pages answer every page they cover, and a complete list of rows with
an owner answers the rows of each owner. One `Cache` belongs to one tenant, so nothing can pass between two keys. All
caches share one bound in bytes; the least recently used response is removed first. The reader says how old an entry
may be.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from gateway.upstream.models import Listing, Pagination
from gateway.upstream.resources import RESOURCES, Read

STRUCT_COST = 3
"""Bytes of memory for a byte of body, decoded and indexed; measured 2.9 to 3.1 with pages of 100 numbers."""
ENTRY_COST = 1000
"""Bytes of memory for a response without rows; measured 600 to 1,000."""


class Cached(NamedTuple):
    """Rows of remembered responses, when the oldest was read (unix seconds), and at least as many bytes as they had."""

    listing: Listing[Any]
    at: float
    size: int


class _Entry(msgspec.Struct, eq=False):
    """One response as it was read; `forget` removes it from every index."""

    read: Read
    listing: Listing[Any]
    at: float
    size: int
    forget: Callable[["_Entry"], None]


class CacheSize:
    """The bytes that all tenants' caches may take together.

    Args:
        max_bytes: of the responses that are kept, with what their objects take in memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()

    def add(self, entry: _Entry) -> None:
        """Keep an entry, and drop the least recently used ones."""
        self._entries[id(entry)] = entry
        self.used += entry.size
        while self.used > self.max_bytes:
            self.drop(next(iter(self._entries.values())))

    def touch(self, entry: _Entry) -> None:
        """Mark an entry as just used."""
        self._entries.move_to_end(id(entry))

    def drop(self, entry: _Entry) -> None:
        """Remove an entry."""
        del self._entries[id(entry)]
        self.used -= entry.size
        entry.forget(entry)


class Cache:
    """One tenant's remembered responses."""

    def __init__(self, size: CacheSize) -> None:
        self._size = size
        self._objects: dict[tuple[str, Any], tuple[Any, _Entry]] = {}
        """Rows by resource and id."""
        self._owned: dict[Read, _Entry] = {}
        self._pages: dict[Read, dict[Read, _Entry]] = {}
        """Pages by their list: the same read without its page."""
        self._by_owner: dict[str, tuple[float, dict[str, list[Any]]]] = {}
        """Complete lists grouped by owner, with the age of the oldest page; made when needed."""

    def get(self, read: Read, since: float) -> Cached | None:
        """Return what was read at `since` or later and answers this, or None."""
        if read.page:
            return self._page(read, since)
        return self._object(read.kind, read.id, since) if read.owner is None else self._rows_of(read, since)

    def add(self, read: Read, listing: Listing[Any], at: float, size: int) -> None:
        """Remember a response of `size` bytes that was read at `at`."""
        entry = _Entry(read, listing, at, ENTRY_COST + size * STRUCT_COST, self._forget)
        if read.page:
            if before := self._pages.get(_list_of(read), {}).get(read):
                self._size.drop(before)
            self._pages.setdefault(_list_of(read), {})[read] = entry
            self._by_owner.pop(read.kind, None)
        elif read.owner is not None:
            if read in self._owned:
                self._size.drop(self._owned[read])
            self._owned[read] = entry
        self._objects.update((key, (row, entry)) for key, row in _objects(entry))
        self._size.add(entry)

    def written(self, kind: str, id_: str | None, owners: Iterable[str | None]) -> None:
        """Forget what a write made stale: the object, all lists of its resource, its owners' rows, and `stales`.

        Args:
            kind: name of the resource that was written.
            id_: of the object; None if it is not known yet.
            owners: those that the write names; those the object was seen with are found here.
        """
        for key in [key for key in self._pages if key.kind == kind]:
            del self._pages[key]  # their rows stay known one by one
        self._by_owner.pop(kind, None)
        named = set(owners)
        for read, entry in [*self._owned.items()]:
            if read.kind == kind and (read.owner in named or any(row.id == id_ for row in entry.listing.rows)):
                del self._owned[read]
        if id_ is not None:
            self._objects.pop((kind, id_), None)
        self.clear(RESOURCES[kind].stales)

    def clear(self, kinds: Collection[str] = RESOURCES) -> None:
        """Forget every response that holds rows of these resources."""
        if not kinds:
            return
        entries = [entry for (kind, _), (_, entry) in self._objects.items() if kind in kinds]
        entries += [entry for read, entry in self._owned.items() if read.kind in kinds]
        entries += [entry for read, pages in self._pages.items() if read.kind in kinds for entry in pages.values()]
        for entry in {id(entry): entry for entry in entries}.values():
            self._size.drop(entry)

    def _object(self, kind: str, id_: Any, since: float) -> Cached | None:
        row, entry = self._objects.get((kind, id_), (None, None))
        if entry is None or entry.at < since:
            return None
        self._size.touch(entry)
        return Cached(Listing([row]), entry.at, entry.size)

    def _rows_of(self, read: Read, since: float) -> Cached | None:
        entry = self._owned.get(read)
        if entry and entry.at >= since:
            self._size.touch(entry)
            return Cached(entry.listing, entry.at, entry.size)
        resource, id_ = RESOURCES[read.kind], read.owner or ""
        if read.kind not in self._by_owner:
            self._by_owner[read.kind] = self._group(read.kind)
        at, owners = self._by_owner[read.kind]
        owner = resource.owner and self._object(resource.owner.name, id_, since)  # a row may name one that is gone
        if not owner or at < since:
            return None
        size = sum(entry.size for entry in self._pages.get(Read(read.kind), {}).values())
        return Cached(Listing(owners.get(id_, [])), min(at, owner.at), size)

    def _group(self, kind: str) -> tuple[float, dict[str, list[Any]]]:
        """Group a complete list by owner, in its order; the age is minus infinity if it is not complete."""
        pages = self._agreeing(self._pages.get(Read(kind), {}).values())
        rows: dict[str, tuple[int, Any]] = {}
        read_at = float("-inf")
        for entry, told in pages:
            for place, row in enumerate(entry.listing.rows, (told.page - 1) * told.limit):
                rows.setdefault(row.id, (place, row))
            if len(rows) == told.total:
                read_at = entry.at
                break
        owners: dict[str, list[Any]] = {}
        for _, row in sorted(rows.values(), key=lambda placed: placed[0]):
            if isinstance(row.owner_id, str):
                owners.setdefault(row.owner_id, []).append(row)
        told_whose = all(row.owner_id is not UNSET for _, row in rows.values())
        return read_at if told_whose else float("-inf"), owners

    @staticmethod
    def _agreeing(entries: Iterable[_Entry]) -> list[tuple[_Entry, Pagination]]:
        """Return the pages that tell a total and agree with the newest one on it, newest first."""
        pages = [(entry, told) for entry in entries if (told := entry.listing.pagination) and not told.has_more]
        pages.sort(key=lambda page: -page[0].at)
        return [page for page in pages if page[1].total == pages[0][1].total]

    def _page(self, read: Read, since: float) -> Cached | None:
        """Put a page together from pages of any size that were read lately and agree on the total."""
        page = read.page
        assert page  # noqa: S101 - lists are read page by page
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
        if len({row.id for row, _ in found}) < len(wanted):  # incomplete, or moved from one page to another
            return None
        entries = {id(entry): entry for _, entry in found}.values()
        for entry in entries:
            self._size.touch(entry)
        at = min((entry.at for entry in entries), default=pages[0][0].at)
        listing = Listing([row for row, _ in found], Pagination(page.page, page.limit, total))
        return Cached(listing, at, sum(entry.size for entry in entries))

    def _forget(self, entry: _Entry) -> None:
        """Remove an entry from every index that still refers to it."""
        list_ = _list_of(entry.read)
        pages = self._pages.get(list_, {})
        if pages.get(entry.read) is entry:
            del pages[entry.read]
            self._by_owner.pop(entry.read.kind, None)
            if not pages:
                del self._pages[list_]
        if self._owned.get(entry.read) is entry:
            del self._owned[entry.read]
        for key, _ in _objects(entry):
            if (known := self._objects.get(key)) and known[1] is entry:
                del self._objects[key]


def _list_of(read: Read) -> Read:
    """Return what all pages of one list with one set of filters have in common."""
    return Read(read.kind, filters=read.filters)


def _objects(entry: _Entry) -> Iterable[tuple[tuple[str, Any], Any]]:
    """Return the rows of a response and the whole owners in them, each with its key."""
    kind, owner = entry.read.kind, RESOURCES[entry.read.kind].owner
    for row in entry.listing.rows:
        if owner is None or row.owner_id is not UNSET:  # else the row does not answer for the object
            yield (kind, row.id), row
    if owner:
        for row in entry.listing.owners:
            yield (owner.name, row.id), row
