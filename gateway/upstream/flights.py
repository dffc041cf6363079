"""The reads of one tenant that are under way, so that identical ones are sent once.

`client` keeps one `Flights` for each tenant, so nothing can pass between two keys. The first who asks
pays; whoever asks for the same while it is under way waits along. A caller who gives up leaves the
flight to the others, and the last one to leave ends it. A write makes later reads start anew.
"""

import asyncio
from collections.abc import Collection
from typing import Any

from gateway.upstream.errors import Unavailable


class Flight:
    """One read under way: its task, whose bill it is on, and how many wait for it."""

    __slots__ = ("payer", "target", "task", "waiters")

    def __init__(self, target: str, task: "asyncio.Task[Any]", payer: object) -> None:
        self.target = target
        self.task = task
        self.payer = payer
        self.waiters = 0

    @property
    def outcome(self) -> Any:
        """What it brought, or the exception it failed with; None while it is under way."""
        if self.task.cancelled():
            return Unavailable("The call to the upstream was given up; try again later.")
        return (self.task.exception() or self.task.result()) if self.task.done() else None


class Flights:
    """The reads under way, by target (path and query)."""

    def __init__(self) -> None:
        self.writes = 0
        """Writes so far: what was read before one must not be remembered after it."""
        self._flights: dict[str, Flight] = {}

    def find(self, target: str) -> Flight | None:
        """Return the read of a target that is under way, if there is one."""
        return self._flights.get(target)

    def launch(self, target: str, task: "asyncio.Task[Any]", payer: object) -> Flight:
        """Let others join a read that has just begun."""
        flight = self._flights[target] = Flight(target, task, payer)
        task.add_done_callback(lambda _: self._land(flight))
        return flight

    async def join(self, flights: Collection[Flight], seconds: float) -> None:
        """Wait for reads under way until all have ended, or for so many seconds."""
        for flight in flights:
            flight.waiters += 1
        try:
            # unlike gather it leaves them to others when it is cancelled, and takes no task for each
            await asyncio.wait([flight.task for flight in flights], timeout=seconds)
        finally:
            for flight in flights:
                flight.waiters -= 1
                if not flight.waiters and not flight.task.done():
                    self._land(flight)
                    flight.task.cancel()

    def forget(self) -> None:
        """Let whoever asks from now on start anew; flights go on for those who wait."""
        self.writes += 1
        self._flights.clear()

    def _land(self, flight: Flight) -> None:
        if self._flights.get(flight.target) is flight:
            del self._flights[flight.target]
