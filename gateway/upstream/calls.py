"""One REST call from its admission to its last attempt: charged, sent, tried again, settled.

`client` makes a `Call` once it is allowed, launches it in a task of its own and waits; several operations may
wait for one. It is on its operation's bill from the start, and taken off where it never reached the upstream.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from gateway.upstream import errors
from gateway.upstream.quota import Quota
from gateway.upstream.retry import may_retry
from gateway.upstream.tenants import Bill
from gateway.upstream.wire import Wire, rejection

T = TypeVar("T")

Request = tuple[str, str, Mapping[str, str], bytes | None]
"""Method, target, headers and body."""


class Path(NamedTuple):
    """What every call takes: a place among the connections, the wire, the clock; and calls an operation may spend."""

    places: asyncio.Semaphore
    wire: Wire
    clock: Callable[[], float]
    budget: int


class Call:
    """One admitted REST call; on its session's bill from the start, taken off again where it was never sent."""

    def __init__(self, path: Path, bill: Bill, quota: Quota, request: Request) -> None:
        self._path = path
        self._bill = bill
        self._quota = quota
        self._request = request
        self._sent = 0
        self._charged = 1
        self._bill.spent += 1
        self._quota.begin()

    def launch(self, send: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run the call in a task of its own, and settle the bill when it ends."""
        task = asyncio.ensure_future(send)
        task.add_done_callback(self._settle)
        return task

    async def send(self) -> bytes:
        """Send attempt after attempt as `retry` allows, and return the body of a success."""
        path = self._path
        async with path.places:
            attempts = 0
            while True:
                attempts += 1
                self._sent += 1
                try:
                    reply = await path.wire.attempt(*self._request)
                    break
                except errors.Failed as failure:
                    self._sent -= not failure.reached
                    failed = isinstance(failure, errors.Unavailable)
                    if not may_retry(self._request[0], attempts, connection_failed=failed) or not self._afford():
                        raise
        self._quota.learn(reply.headers, status=reply.status, now=path.clock())
        if 200 <= reply.status < 300:
            return reply.body
        error = rejection(reply)
        if isinstance(error, errors.RateLimited):
            error.retry_after = self._quota.refuse_for(path.clock())
        raise error

    def _afford(self) -> bool:
        """Charge another attempt where the last one counts; tell whether the budget has it."""
        if self._sent < self._charged:
            return True
        if self._bill.spent >= self._path.budget:
            return False
        self._charged += 1
        self._bill.spent += 1
        return True

    def _settle(self, task: "asyncio.Task[Any]") -> None:
        self._bill.spent += self._sent - self._charged
        self._quota.end()
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may be left to wait
