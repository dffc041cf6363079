"""The request id of each attempt, and whether an answer that bears one belongs to it. Pure.

The vendor says that every response carries an `X-Request-Id`, not that it is the request's. So it is found out: an
upstream that repeats the id in one answer after the other is expected to go on. Ids are unique, so one that is repeated
is never there by chance, and the id of another attempt, of this gateway or another, tells whose answer it is.
"""

import itertools
import os
import re

ENOUGH = 10
"""Answers in a row that must repeat their ids before it is insisted on."""
MISSES = 3
"""Answers without the id that end the insisting, unless ENOUGH in a row between them repeat it."""
LESS_SURE = 10
"""Factor by which more answers in a row are needed each time that it was wrong to insist."""

_MARK = re.compile(r"gw[0-9a-f]{16}")


class RequestIds:
    """Makes the ids of one upstream's attempts, and knows whether it repeats them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(int.from_bytes(os.urandom(7)))
        self._row = 0
        self._enough = ENOUGH
        self._misses = 0
        self._insists = False

    def next(self) -> str:
        """Return what makes the next attempt's id unique; its operation's id goes before it."""
        return f"gw{next(self._numbers):016x}"

    def fits(self, suffix: str, status: int, told: str | None) -> bool:
        """Return whether an answer that tells this request id, or none, may belong to the attempt of the mark.

        A proxy's own page, of an error without an id or of a 5xx, fits any attempt and proves nothing.
        """
        if told and suffix in told:
            self._row += 1
            if self._row >= self._enough:
                self._insists, self._misses = True, 0
            return True
        if told and _MARK.search(told):
            return False
        if status >= 500 or (status >= 400 and not told):
            return True
        self._row = 0
        if self._insists:
            self._misses += 1
            if self._misses < MISSES:
                return False
            self._insists, self._misses = False, 0
            self._enough *= LESS_SURE
            return False
        return True
