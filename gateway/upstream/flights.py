"""The reads of one tenant that are under way, so that identical ones are sent once.

`client` keeps one `Flights` for each tenant, so nothing can pass between two keys. The first who asks
pays; whoever asks for the same while it is under way waits along. A caller who gives up leaves the
flight to the others, and the last one to leave ends it. A write makes later reads start anew.
"""

import asyncio
from typing import Any


class _Flight:
    """One read under way, and how many wait for it."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.task = task
        self.waiters = 0


class Flights:
    """The reads under way, by target (path and query)."""

    def __init__(self) -> None:
        self.writes = 0
        """Writes so far: what was read before one must not be remembered after it."""
        self._flights: dict[str, _Flight] = {}

    def __contains__(self, target: str) -> bool:
        return target in self._flights

    def launch(self, target: str, task: "asyncio.Task[Any]") -> None:
        """Let others join a read that has just begun."""
        flight = self._flights[target] = _Flight(task)
        task.add_done_callback(lambda _: self._land(target, flight))

    async def join(self, target: str) -> Any:
        """Wait for a read under way."""
        flight = self._flights[target]
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._land(target, flight)
                flight.task.cancel()

    def forget(self) -> None:
        """Let whoever asks from now on start anew; flights go on for those who wait."""
        self.writes += 1
        self._flights.clear()

    def _land(self, target: str, flight: _Flight) -> None:
        if self._flights.get(target) is flight:
            del self._flights[target]
