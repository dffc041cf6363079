"""Pages of a list: what a request asks for, and what is known of the list's size. Pure."""

from typing import NamedTuple

MAX_LIMIT = 100
"""Largest `limit` of GET /agents (vendor's page); GET /numbers names none, so it is held to the same."""


class Size(NamedTuple):
    """What is known of a list: rows in all, rows on a page at the most, and whether that was seen or is assumed."""

    total: int
    limit: int
    sure: bool = True

    @classmethod
    def told(cls, request: "PageRequest", total: int, limit: int) -> "Size":
        """Return what a page of the list tells: a smaller limit than was asked for is the upstream's own."""
        if 0 < limit < request.limit:
            return cls(total, limit)
        return cls(total, MAX_LIMIT, sure=request.limit == MAX_LIMIT)

    @property
    def pages(self) -> int:
        """Pages that hold the whole list; an empty list still takes one call to see."""
        return max(1, -(-self.total // max(1, self.limit)))


class PageRequest(NamedTuple):
    """The `page` (from 1) and `limit` of one list call; it covers rows [start, stop)."""

    page: int
    limit: int

    @property
    def start(self) -> int:
        """Offset of the page's first row."""
        return (self.page - 1) * self.limit

    @property
    def stop(self) -> int:
        """Offset behind the page's last row."""
        return self.page * self.limit
