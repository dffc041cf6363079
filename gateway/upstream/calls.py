"""One REST call from its admission to its last attempt: charged, sent, tried again, settled.

`client` makes a `Call` once it is allowed, launches it in a task of its own and waits; several operations may
wait for one. It is reserved on its operation's bill from the start, and spent when it is sent.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from gateway.upstream import errors
from gateway.upstream.attempt import HttpClient, Response, error_for, summary
from gateway.upstream.retry import may_retry
from gateway.upstream.tenants import Bill, Tenant
from gateway.upstream.transport.base import Request

T = TypeVar("T")


class Path(NamedTuple):
    """What each call takes: client, clock, the calls an operation may spend, who remembers tenants, and who counts."""

    http: HttpClient
    clock: Callable[[], float]
    budget: int
    keep: Callable[[Tenant], None]
    sent: Callable[[], object]
    """Called for each attempt that was sent, once it has ended."""

    def admit(self, bill: Bill, tenant: Tenant, reserve: int, request: Request) -> "Call":
        """Put a call on an operation's bill; `reserve` calls of the key's quota must be left over after it.

        Raises:
            errors.BudgetExceeded: the operation may spend no more.
            errors.QuotaSpent: the quota has no call left for this.
        """
        if bill.charged >= self.budget:
            raise errors.BudgetExceeded(f"This operation may spend {self.budget} REST calls; ask for less at once.")
        wait = tenant.quota.refuse_for(self.clock(), reserve)
        if wait is not None:
            spent = f"down to the last {reserve}, kept for single reads and writes" if reserve else "spent"
            refusal = errors.QuotaSpent(f"Your key's quota of REST calls is {spent}; try again in {wait} s.")
            refusal.retry_after = wait
            raise refusal
        return Call(self, bill, tenant, request)


class Call:
    """One admitted REST call."""

    def __init__(self, path: Path, bill: Bill, tenant: Tenant, request: Request) -> None:
        self._path = path
        self._bill = bill
        self._tenant = tenant
        self._quota = tenant.quota
        self._request = request
        self._reply: Response | None = None
        self._answered = 0
        self._reserved = True
        """Whether an attempt is on the bill that was not sent."""
        self._bill.reserved += 1
        self._bill.unsettled += 1
        self._since = self._quota.begin()

    def launch(self, send: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run the call in a task of its own, and settle the bill when it ends."""
        task = asyncio.ensure_future(send)
        task.add_done_callback(self._settle)
        return task

    async def send(self) -> bytes:
        """Send attempt after attempt as `retry` allows, and return the body of a success."""
        path = self._path
        attempts = 0
        while True:
            attempts += 1
            try:
                reply = await self._attempt()
                break
            except errors.Failed as failure:
                failed = isinstance(failure, errors.Unavailable)
                if not may_retry(self._request.method, attempts, connection_failed=failed) or not self._afford():
                    raise
        now = path.clock()
        self._reply = reply
        self._answered = self._quota.answered()
        success = 200 <= reply.status < 300
        if reply.verified or not success:
            self._believe(reply, now)
        if success:
            return reply.body
        error = error_for(reply, self._key)
        if isinstance(error, errors.RateLimited):
            error.retry_after = self._quota.refuse_for(now)
        raise error

    def read(self, decode: Callable[[bytes], T]) -> T:
        """Decode the answer of a success; only then are its headers believed.

        Raises:
            errors.Mismatch: it belongs to another call.
            errors.BadAnswer: it cannot be decoded; tells what the upstream said of it.
        """
        reply = self._reply
        assert reply  # noqa: S101 - it was sent
        try:
            decoded = decode(reply.body)
        except errors.Mismatch as error:
            self._path.http.report_mismatch(reply.generation, error)
            raise
        except errors.BadAnswer as error:
            error.answer = summary(reply, self._key)
            raise
        if not reply.verified:
            self._believe(reply, self._path.clock())
        return decoded

    @property
    def _key(self) -> str:
        return self._request.headers["X-API-Key"]

    def _believe(self, reply: Response, now: float) -> None:
        """Take in what an answer tells of the tenant."""
        self._quota.learned(self._answered)
        self._quota.learn(reply.headers, status=reply.status, now=now, since=self._since)
        if reply.status != 401:
            self._path.keep(self._tenant)

    async def _attempt(self) -> Response:
        try:
            return await self._path.http.attempt(self._request, self._sending)
        except errors.Failed as failure:
            if not failure.reached and not self._reserved:
                self._bill.spent -= 1
                self._reserve()
            raise
        finally:
            if not self._reserved:
                self._path.sent()

    def _sending(self) -> None:
        self._reserved = False
        self._bill.reserved -= 1
        self._bill.spent += 1

    def _reserve(self) -> None:
        self._reserved = True
        self._bill.reserved += 1

    def _afford(self) -> bool:
        """Reserve another attempt where the last one was sent; tell whether the budget has it."""
        if not self._reserved:
            if self._bill.charged >= self._path.budget:
                return False
            self._reserve()
        return True

    def _settle(self, task: "asyncio.Task[Any]") -> None:
        self._bill.reserved -= self._reserved
        self._bill.end()
        self._quota.end()
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may be left to wait
