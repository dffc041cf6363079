"""The quota of one API key, from the `X-RateLimit-*` headers of its last responses. Pure.

The upstream allows 1,000 calls per hour and key, and tells limit, remaining calls and reset (unix seconds). A state is
kept for one window at most, so that a wrong clock cannot lock a key out. While the quota is said to be spent, one call
may be sent after a short, growing pause, and its response is believed, so that a wrong header cannot lock a key out
either. Headers may hold decimals, dates, milliseconds or seconds from now.
"""

import contextlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

WINDOW = 3600
"""Seconds of the upstream's quota window (vendor's page)."""

UNSAID = 60
"""Seconds to wait after a 429 without `Retry-After`."""
LIMIT = 1000
"""Calls per window if a response tells only how many remain (vendor's page)."""
FIRST_PAUSE, LONGEST_PAUSE = 10, 300
"""Seconds after which a spent quota is probed by one call; each probe that is refused doubles them."""
DELTA = 10**8
"""A smaller reset is seconds from now, not a time."""
SAME_WINDOW = 60
"""Seconds by which resets of one window may differ: a Date is as old as its response, and has no fractions."""
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
    """One tenant's quota; calls in flight count as spent until they are answered."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls that have not ended."""
        self.responses = 0
        """Responses so far, learned from or not."""
        self.learned = 0
        """Responses that were learned from."""
        self._counted = 0
        """Responses that the state counts: of those learned from, the latest by their order."""
        self._state: QuotaState | None = None
        self._pause = 0.0
        self._probe = 0.0
        """When the next probe may be sent, while the quota is said to be spent."""

    def state(self, now: float) -> QuotaState | None:
        """Return what is known, or None before the first response and after the reset."""
        if self._state and now >= self._state.reset:
            self._state = None
        return self._state

    def refuse_for(self, now: float, reserve: int = 0) -> int | None:
        """Return for how many seconds a call must wait for the reset, or None if it may be sent now.

        `reserve` calls must remain after it. A probe may be sent if nothing else is in flight.
        """
        state = self.state(now)
        spent = self.in_flight + self.responses - self._counted
        if state is None or state.remaining - spent > max(0, min(reserve, state.limit - 1)):
            return None
        if state.remaining == self.in_flight == 0 and self._probe <= now < state.reset - self._pause:
            return None
        return max(1, math.ceil(state.reset - now))

    def learn(
        self, headers: Mapping[str, str], *, status: int, now: float, since: int | None = None, place: int = 0
    ) -> None:
        """Learn from a response; after a 429 the quota is spent, whatever the headers say.

        `since` is `learned` when its call began: if that is the same now, no response is newer. `place` is its place
        among the responses: its headers count those before it.
        """
        newest = since == self.learned
        self.learned += 1
        self._counted = max(self._counted, place)
        told, wait = _read(headers, self.state(now), now), None
        if status == 429:
            told, wait = self._refused(told, headers, now)
        if told is not None:
            self.take(told, now, newest=newest)
            self._probe = max(self._probe, now + (wait or 0))
        elif newest and status < 500 and self._state and not self._state.remaining:
            self._state = None  # a probe was answered, without these headers

    def take(self, told: QuotaState, now: float, *, newest: bool = False) -> None:
        """Take a state from a response or another replica; unless it is the `newest`, it may have been overtaken."""
        known, remaining = self.state(now), told.remaining
        reset = min(told.reset, now + WINDOW)  # another replica's clock may be off
        if known and not newest and known.limit == told.limit and abs(known.reset - reset) < SAME_WINDOW:
            # responses overtake each other: within one window the lowest count is the newest, and delay only adds
            remaining, reset = min(known.remaining, remaining), min(known.reset, reset)
        self._state = QuotaState(told.limit, remaining, reset)
        if remaining:
            self._pause = 0.0
        elif newest or not self._pause:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            self._probe = now + self._pause

    def _refused(
        self, told: QuotaState | None, headers: Mapping[str, str], now: float
    ) -> tuple[QuotaState, float | None]:
        """Return the state after a 429, and the seconds of its Retry-After.

        If it says that calls remain, it is a short throttle, and the reset has little to do with it.
        """
        known = told or self.state(now) or QuotaState(LIMIT, 0, now + UNSAID)
        longest = LONGEST_PAUSE if told and told.remaining else WINDOW
        wait = _retry_after(headers, now)
        reset = now + wait if wait else told.reset if told else now + UNSAID
        return QuotaState(known.limit, 0, min(reset, now + longest)), wait and min(wait, longest)


def _read(headers: Mapping[str, str], known: QuotaState | None, now: float) -> QuotaState | None:
    """Return what the headers tell, None without `remaining`; limit and reset default to known or documented values."""
    limit, remaining, reset = (
        _number(headers.get(f"x-ratelimit-{name}", "")) for name in ("limit", "remaining", "reset")
    )
    if reset is None:
        reset = _timestamp(headers.get("x-ratelimit-reset", ""))
    if remaining is None:
        return None
    if limit is None:
        limit = known.limit if known else max(LIMIT, remaining)
    if reset is None:
        until = known.reset if known else now + (WINDOW if remaining >= 1 else UNSAID)
    else:
        until = now + min(max(_wait(reset, headers, now), 1), WINDOW)
    return QuotaState(int(min(max(limit, 0), MOST)), int(min(max(remaining, 0), MOST)), until)


def _wait(reset: float, headers: Mapping[str, str], now: float) -> float:
    """Return the seconds from now to a reset that is a time in seconds, milliseconds or less, or a delta."""
    if reset < DELTA:
        return reset
    while DELTA * 1000 < reset < math.inf:  # milliseconds, or even smaller
        reset /= 1000
    return reset - _upstream_now(headers, now)


def _number(value: str) -> float | None:
    """Return the value of a header that may have been sent twice (the last one counts) and may have parameters."""
    try:
        found = float(value.rpartition(", ")[2].partition(";")[0])
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _upstream_now(headers: Mapping[str, str], now: float) -> float:
    """Return the upstream's clock if it tells it, because the reset is given in its time."""
    return _timestamp(headers.get("date", "")) or now


@lru_cache(maxsize=16)
def _timestamp(date: str) -> float | None:
    """Return the unix seconds of an HTTP date or an ISO 8601 one, in UTC if it names no zone."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with contextlib.suppress(ValueError, OverflowError):
            moment = parse(date.strip())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of a Retry-After, a number or a date, if there is one."""
    value = headers.get("retry-after", "")
    seconds = _number(value)
    if seconds is None and (moment := _timestamp(value)):
        seconds = max(0.0, moment - _upstream_now(headers, now))
    return None if seconds is None or seconds < 0 else max(1, math.ceil(min(seconds, WINDOW)))
