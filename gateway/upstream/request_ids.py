"""The request id of each attempt, and whether a response with an id can belong to it. Pure.

The vendor says that every response carries an `X-Request-Id`, but not whether it is the request's. If an upstream
repeats the request's id in several responses in a row, every later response must repeat it too. Ids are unique: a
response with the id of another attempt, of this gateway or another, is always the response to that one.
"""

import itertools
import os
import re

ENOUGH = 10
"""Responses in a row that must repeat their ids before all have to."""
MISSES = 3
"""Responses without the id after which they need not repeat it, unless ENOUGH in a row between them do."""
LESS_SURE = 10
"""Factor by which more responses in a row are needed after each such mistake."""

_SUFFIX = re.compile(r"gw[0-9a-f]{16}")


class RequestIds:
    """Makes the ids of attempts at one upstream, and learns whether the upstream repeats them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(int.from_bytes(os.urandom(7)))
        self._row = 0
        self._enough = ENOUGH
        self._misses = 0
        self._required = False

    def next(self) -> str:
        """Return the unique suffix of the next attempt's id; the operation's id goes before it."""
        return f"gw{next(self._numbers):016x}"

    def fits(self, suffix: str, status: int, id_: str | None) -> bool:
        """Return whether a response with this id, or with None, can belong to the attempt of this suffix.

        A proxy's error page (a 4xx without an id, or a 5xx) fits any attempt and changes nothing.
        """
        if id_ and suffix in id_:
            self._row += 1
            if self._row >= self._enough:
                self._required, self._misses = True, 0
            return True
        if id_ and _SUFFIX.search(id_):
            return False
        if status >= 500 or (status >= 400 and not id_):
            return True
        self._row = 0
        if self._required:
            self._misses += 1
            if self._misses < MISSES:
                return False
            self._required, self._misses = False, 0
            self._enough *= LESS_SURE
            return False
        return True
