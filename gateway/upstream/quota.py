"""What is known of one key's quota, from the `X-RateLimit-*` headers of its last answers. Pure.

`calls` asks it before each REST call and tells it each answer; it never waits and never calls. The
quota is the upstream's: 1,000 calls per hour and key, told as limit, remaining and reset (unix
seconds). It is never held longer than one window, so that a clock that is off cannot lock a key out.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

WINDOW = 3600
"""Seconds of the upstream's quota window (vendor's page)."""

UNSAID = 60
"""Seconds to wait after a 429 that does not say how long."""
MOST = 2**31 - 1
"""GraphQL's largest Int (specification, section 3.5.1)."""


class QuotaState(NamedTuple):
    """One key's quota: calls per hour, calls left, and the moment it is full again (unix seconds, ours)."""

    limit: int
    remaining: int
    reset: float

    @property
    def reset_at(self) -> str:
        """The reset as RFC 3339 in UTC, to the second."""
        return datetime.fromtimestamp(int(self.reset), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Quota:
    """The guard of one tenant's quota; calls under way count as spent until they are answered."""

    def __init__(self) -> None:
        self._state: QuotaState | None = None
        self._under_way = 0

    def state(self, now: float) -> QuotaState | None:
        """Return what is known, or None before the first answer and after the reset."""
        if self._state and now >= self._state.reset:
            self._state = None
        return self._state

    def refuse_for(self, now: float, reserve: int = 0) -> int | None:
        """Return for how many seconds a call must wait for the reset, or None where it may go now.

        `reserve` is how many calls must be left over after it.
        """
        state = self.state(now)
        if state is None or state.remaining - self._under_way > max(0, min(reserve, state.limit - 1)):
            return None
        return max(1, round(state.reset - now))

    def begin(self) -> None:
        """Count a call as under way."""
        self._under_way += 1

    def end(self) -> None:
        """Count it as ended, however it did."""
        self._under_way -= 1

    def learn(self, headers: Mapping[str, str], *, status: int, now: float) -> None:
        """Take in what an answer tells; a 429 is believed whatever its headers say."""
        told = _read(headers, now)
        if status == 429:
            known = told or self.state(now) or QuotaState(0, 0, now)
            wait = _retry_after(headers)  # says more than the reset: a 429 may come with quota left
            reset = now + wait if wait else told.reset if told else now + UNSAID
            told = QuotaState(known.limit, 0, reset)
        if told is not None:
            self.take(told, now)

    def take(self, told: QuotaState, now: float) -> None:
        """Take in a state that this or another replica was told."""
        known, remaining = self.state(now), told.remaining
        reset = min(told.reset, now + WINDOW)  # another replica's clock may be off
        if known and abs(known.reset - reset) < 2:
            # answers overtake each other: within one window the lowest count is the newest
            remaining = min(known.remaining, remaining)
        self._state = QuotaState(told.limit, remaining, reset)


def _read(headers: Mapping[str, str], now: float) -> QuotaState | None:
    try:
        limit, remaining = int(headers["x-ratelimit-limit"]), int(headers["x-ratelimit-remaining"])
        reset = float(headers["x-ratelimit-reset"])
    except (KeyError, ValueError):
        return None
    wait = reset - _upstream_now(headers, now)
    # whatever is told, NaN too, ends within a window and fits GraphQL's Int
    seconds = min(wait, WINDOW) if wait > 1 else 1
    return QuotaState(min(max(limit, 0), MOST), min(max(remaining, 0), MOST), now + seconds)


def _upstream_now(headers: Mapping[str, str], now: float) -> float:
    """Return the upstream's own clock where it tells it, because the reset is given in its time."""
    try:
        return _timestamp(headers["date"])
    except (KeyError, ValueError, OverflowError):
        return now


@lru_cache(maxsize=16)
def _timestamp(date: str) -> float:
    return parsedate_to_datetime(date).timestamp()


def _retry_after(headers: Mapping[str, str]) -> int | None:
    value = headers.get("retry-after", "")
    return min(max(int(value[:9]), 1), WINDOW) if value.isascii() and value.isdigit() else None
