"""REST calls: one `Client` for each process, one `Session` for each operation, one `Call` for each REST call.

A read is answered by the cache, or joins an identical call of its tenant that is in flight, or is admitted (key,
budget, quota), sent, tried again if its connection failed, and decoded. A write is sent once, to its end even if the
client leaves. Facts: the vendor's "Phone Numbers" page and its OpenAPI 1.0.0.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import httpx
import msgspec

from gateway.observability.logging import log
from gateway.settings import Settings
from gateway.upstream import errors
from gateway.upstream.attempt import HttpClient, Response, error_for, summary
from gateway.upstream.models import Listing
from gateway.upstream.quota import QuotaState
from gateway.upstream.redis_sync import Learned, Replicas, Wrote
from gateway.upstream.resources import LONG, Read, Size, Write
from gateway.upstream.tenants import Tenant, Tenants
from gateway.upstream.transport.base import Request

ATTEMPTS = 2
"""Attempts of one REST call at most."""

_GIVEN_UP = "The call to the upstream was given up; try again later."

_OTHER_UPDATE = {"PUT": "PATCH", "PATCH": "PUT"}
_SUCCESS, _DELETED = {200, 201, 203, 204}, {200, 204}
"""Statuses of a call that was carried out: 202 says that it is not yet, 206 that only a part came."""

T = TypeVar("T")

Result = Listing[Any] | Exception
"""A listing, or the exception; failures are returned, not raised."""


def may_retry(method: str, attempts: int, *, connection_failed: bool) -> bool:
    """Return whether a call may be sent again after so many attempts.

    A read whose connection failed is tried once more, because the connection may have been a stale one of the pool. A
    write is not, since it may have been carried out; nor is a call that was answered, because it counts.
    """
    return method == "GET" and connection_failed and attempts < ATTEMPTS


class Client:
    """The REST API of a gateway process: its connections and its tenants.

    Args:
        settings: the upstream's address, timeouts and caps.
        transport: replaces the network, in tests.
        clock: unix seconds.
        sent: called after each attempt that was sent.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
        sent: Callable[[], object] = lambda: None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.sent = sent
        self.tenants = Tenants(settings.cache_bytes)
        self.update_method = "PUT"
        self.http = HttpClient(settings, transport)
        self.remembers = bool(settings.cache_ttl or settings.stale_if_error)
        self.replicas: Replicas | None = None
        if settings.redis_url:
            lasts = max(settings.cache_ttl, settings.stale_if_error)
            self.replicas = Replicas(
                settings.redis_url,
                self.tenants,
                lasts=lasts,
                remember=self.remembers,
                timeout=settings.redis_timeout,
                clock=clock,
            )
        self._background: set[asyncio.Task[Any]] = set()
        self._judged = False

    async def start(self) -> None:
        """Connect to the other replicas, if there are any."""
        if self.replicas:
            await self.replicas.start()

    async def aclose(self) -> None:
        """Wait for writes in flight, then close every connection."""
        while self._background:
            await asyncio.wait(self._background)
        if self.replicas:
            await self.replicas.aclose()
        await self.http.aclose()

    def keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Keep a task that goes on even if nobody waits for it: a write, or a message to other replicas."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def warn_of_reserve(self, quota: QuotaState | None) -> None:
        """Warn, once, if the reserve leaves nothing of a key's quota for list scans."""
        reserve = self.settings.quota_reserve
        if quota and 0 < quota.limit <= reserve and not self._judged:
            self._judged = True
            log.warning("quota_reserve_above_limit", reserve=reserve, limit=quota.limit, effect="no list is scanned")

    async def session(self, api_key: str, request_id: str, *, fresh: bool = False) -> "Session":
        """Open the session of one operation; without a key its first call raises `errors.NoKey`.

        `fresh` bypasses the cache.
        """
        tenant = self.tenants[api_key]
        if self.replicas and api_key:
            synced = await self.replicas.sync(tenant)
        else:
            synced = self.settings.workers == 1
        headers = {"X-API-Key": api_key, "X-Request-Id": request_id}
        return Session(self, tenant, headers, fresh=fresh, synced=synced)


class Saved(msgspec.Struct):
    """REST calls that an operation avoided, by reason."""

    swept: int = 0
    """Objects found by list scans, minus the pages read for them."""
    primed: int = 0
    """Objects that another response of the same operation held."""
    coalesced: int = 0
    """Responses shared with a request of another operation in flight."""
    cached: int = 0
    """Responses from the cache."""


class Usage(msgspec.Struct):
    """REST calls of one operation: sent and avoided."""

    spent: int = 0
    """Calls that were sent."""
    reserved: int = 0
    """Calls that are admitted and not sent yet."""
    unsettled: int = 0
    """Calls that have not ended; they may outlast the operation, and be sent after it."""
    saved: Saved = msgspec.field(default_factory=Saved)
    then: Callable[[], object] | None = None
    """Called once every call has ended, so that `spent` is final."""

    @property
    def touched(self) -> bool:
        """Whether a call was sent or avoided."""
        return bool(self.spent or any(msgspec.structs.astuple(self.saved)))


class Session:
    """The REST calls of one operation, all with one API key, and their usage.

    Writes raise `errors.UpstreamError`, reads return it. One that is not `synced` may not know of writes of other
    workers, and joins no reads but its own.
    """

    def __init__(
        self, client: Client, tenant: Tenant, headers: dict[str, str], *, fresh: bool, synced: bool = True
    ) -> None:
        self.client = client
        self._synced = synced
        self.tenant = tenant
        self.clock = client.clock
        self.usage = Usage()
        self.stale_age: float | None = None
        """Age in seconds of the oldest response that was used because the upstream failed; None without one."""
        self.received = 0
        """Upper bound of the bytes of JSON that the operation's rows were decoded from."""
        self.has_key = bool(headers["X-API-Key"])
        self.loop = asyncio.get_running_loop()
        self._deadline = self.loop.time() + client.settings.deadline
        self._over = False
        self.headers = {**headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
        self._max_age = 0.0 if fresh else client.settings.cache_ttl
        self._max_stale = 0.0 if fresh else client.settings.stale_if_error
        self.remembers = self._max_age > 0
        """Whether the cache may answer."""

    def finish(self, then: Callable[[], object]) -> None:
        """Admit no more REST calls, and call `then` once all have ended."""
        self._over = True
        if self.usage.unsettled:
            self.usage.then = then
        else:
            then()

    @property
    def quota(self) -> QuotaState | None:
        """What is known of the key's quota."""
        return self.tenant.quota.state(self.clock())

    @property
    def affordable(self) -> int:
        """REST calls that the budget and the known quota still allow."""
        left = self.client.settings.max_rest_calls - self.usage.spent - self.usage.reserved
        quota = self.quota
        return left if quota is None else min(left, quota.remaining)

    def check_deadline(self) -> None:
        """Raise `errors.TimedOut` if the operation's deadline has passed."""
        if self.loop.time() > self._deadline:
            raise self.too_late()

    def too_late(self) -> errors.TimedOut:
        """Return the error of an operation whose deadline has passed."""
        seconds = self.client.settings.deadline
        return errors.TimedOut(f"The operation took longer than {seconds:g} s; ask for less at once.")

    async def read(self, reads: Sequence[Read], failed: Exception | None = None) -> list[Result]:
        """Answer GETs, all at once. With `failed`, the error of earlier calls, only the cache answers."""
        if failed is not None:
            return [self.stale(read, failed) for read in reads]
        pending = [self.start(read) for read in reads]
        try:
            await self.wait(pending)
            return [one.result() for one in pending]
        finally:
            for one in pending:
                one.release()

    def start(self, read: Read) -> "LazyResult":
        """Answer a GET from the cache, join an identical call of this tenant in flight, or start a call."""
        if self.remembers and (listing := self.recall(read)):
            return LazyResult(self, read, listing)
        try:
            target = read.target
            key = target if self._synced else (target, id(self.usage))
            call = self.tenant.in_flight.get(key)
            if call is None:
                call = self.tenant.in_flight[key] = Call(self, "GET", read, target, key)
                call.launch(call.get(read), self.loop)
            else:
                self.usage.saved.coalesced += call.usage is not self.usage
        except errors.UpstreamError as error:
            return LazyResult(self, read, self.stale(read, error))
        return LazyResult(self, read, call)

    async def wait(self, pending: Sequence["LazyResult"]) -> None:
        """Wait for calls until all have ended, or until the deadline."""
        tasks = [one.call.task for one in pending if one.call]
        if tasks:
            # unlike gather it leaves the calls to others if it is cancelled, and needs no task for each
            _, late = await asyncio.wait(tasks, timeout=max(0.0, self._deadline - self.loop.time()))
            if late:
                for one in pending:
                    one.result()  # a response that arrives after the deadline is not used

    def recall(self, read: Read) -> Listing[Any] | None:
        """Return a cached response that is young enough, without a call."""
        cached = self.tenant.cache.get(read, self.clock() - self._max_age) if self.remembers else None
        if cached is None:
            return None
        self.usage.saved.cached += 1
        self.received += cached.size
        return cached.listing

    def stale(self, read: Read, error: Exception) -> Result:
        """Return a cached response because the upstream failed, and note its age; or return the error."""
        may = self._max_stale and isinstance(error, errors.Failed | errors.RateLimited | errors.QuotaSpent)
        cached = self.tenant.cache.get(read, self.clock() - self._max_stale) if may else None
        if cached is None:
            return error
        self.usage.saved.cached += 1
        self.received += cached.size
        self.stale_age = max(self.stale_age or 0.0, self.clock() - cached.at)
        return cached.listing

    async def write(self, write: Write) -> Listing[Any]:
        """Create, update or delete an object; return the row that the response holds, if any.

        An update is a PUT, or a PATCH once one has succeeded where the other was answered 405.
        """
        method = "POST" if write.id is None else "DELETE" if write.body is None else self.client.update_method
        try:
            return await self._write(method, write)
        except errors.Rejected as error:
            # the vendor's page says PUT, its newer documents PATCH: the upstream's response settles it
            if method not in _OTHER_UPDATE or error.response is None or error.response.status != 405:
                raise
        other = _OTHER_UPDATE[method]
        written = await self._write(other, write)
        self.client.update_method = other
        return written

    async def _write(self, method: str, write: Write) -> Listing[Any]:
        """Send a write, to its end even if the client leaves; reads that start from now on see its outcome."""
        call = Call(self, method, write, write.target)
        telling: list[asyncio.Task[None]] = []
        task = self.client.keep(call.launch(call.write(write, telling), self.loop))
        try:
            done, _ = await asyncio.wait((task,), timeout=max(0.0, self._deadline - self.loop.time()))
            if not done:
                raise self.too_late()
            if telling:
                await asyncio.wait(telling, timeout=max(0.0, self._deadline - self.loop.time()))
            self.received += call.received
            return task.result()
        except errors.Failed as error:
            raise errors.in_doubt(error) from error

    def admit(self, *, write: bool) -> None:
        """Count a REST call as reserved.

        Raises:
            errors.NoKey: the client sent no API key.
            errors.BudgetExceeded: the operation may spend no more.
            errors.QuotaSpent: the quota has no call left for this.
        """
        if self._over:
            raise self.too_late()
        if not self.has_key:
            raise errors.NoKey("Send your Omnia API key in the X-API-Key header.")
        settings, usage = self.client.settings, self.usage
        charged = usage.spent + usage.reserved
        if charged >= settings.max_rest_calls:
            raise errors.BudgetExceeded(
                f"This operation may spend {settings.max_rest_calls} REST calls; ask for less at once."
            )
        reserve = 0 if write or not charged else settings.quota_reserve
        wait = self.tenant.quota.refuse_for(self.clock(), reserve)
        if wait is not None:
            self.client.warn_of_reserve(self.quota if reserve else None)
            spent = f"down to the last {reserve}, kept for single reads and writes" if reserve else "spent"
            refusal = errors.QuotaSpent(f"Your key's quota of REST calls is {spent}; try again in {wait} s.")
            refusal.retry_after = wait
            raise refusal
        usage.reserved += 1
        usage.unsettled += 1


class LazyResult:
    """The result of one read in one operation, decoded when it is first asked for.

    Responses stay bytes until the operation has all that it waits for, so that what it works on is still in the
    processor's cache: 100 agents with 20 pages of numbers take 3.1 ms of CPU for 4 clients at once, and 5.6 if each
    response is decoded when it arrives. A call that no result waits for any more is cancelled.
    """

    __slots__ = ("_read", "_result", "_session", "call")

    def __init__(self, session: Session, read: Read, found: "Result | Call") -> None:
        self.call: Call | None = None
        self._session = session
        self._read = read
        self._result: Result | None = None
        if isinstance(found, Call):
            found.waiters += 1
            self.call = found
        else:
            self._result = found

    def result(self) -> Result:
        """Return the listing, or the exception that the read failed with; a call in flight is too late."""
        if self._result is None:
            found = (self.call and self.call.result()) or self._session.too_late()
            if isinstance(found, Exception):
                found = self._session.stale(self._read, found)
            else:
                self._session.received += self.call.received if self.call else 0
            self._result = found
            self.release()
        return self._result

    def release(self) -> None:
        """Stop waiting for the call."""
        if self.call:
            self.call.leave()
            self.call = None


class Call:
    """One REST call: counted, sent, tried again, decoded. Operations of a tenant may share a GET."""

    def __init__(self, session: Session, method: str, asked: Read | Write, target: str, key: object = None) -> None:
        session.admit(write=isinstance(asked, Write))
        client, tenant = session.client, session.tenant
        body = asked.content if isinstance(asked, Write) else None
        self.usage = session.usage
        self.received = 0
        """Bytes of the body of a success."""
        self.waiters = 0
        self.task: asyncio.Task[Any]
        self._client = client
        self._tenant = tenant
        self._asked = asked
        self._request = Request(method, target, session.headers, body, tenant.name)
        self._key = key
        self._at, self._base, self._writes = client.clock(), tenant.log.told or tenant.log.wrote, tenant.writes
        self._since = tenant.quota.learned
        tenant.quota.in_flight += 1
        self._place = 0
        """Of its response among those of the tenant."""
        self._reserved = True
        """Whether an attempt is counted that was not sent."""
        self._response: Response | None = None
        self._rows: Any = None
        self._result: Result | None = None

    def launch(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        """Run the call in a task of its own."""
        self.task = loop.create_task(work)
        self.task.add_done_callback(self._ended)
        return self.task

    def leave(self) -> None:
        """Stop waiting; the last one to leave cancels the call."""
        self.waiters -= 1
        if not self.waiters and not self.task.done():
            self._remove()
            self.task.cancel()

    def result(self) -> Result | None:
        """Return what a GET came to, decoded once for all who share it; None while it is in flight."""
        if self._result is None and self.task.done():
            failed = errors.Unavailable(_GIVEN_UP) if self.task.cancelled() else self.task.exception()
            self._result = failed or self._remember()  # type: ignore[assignment]  # a task ends with an Exception
        return self._result

    async def get(self, read: Read) -> None:
        """Send a GET; the rows of a long response are decoded in slices."""
        try:
            body = await self._send()
        except errors.RateLimited:
            self._tell(read, b"", None)
            raise
        if len(body) > LONG:
            self._rows = await read.decode_slowly(body)

    async def write(self, write: Write, telling: list[asyncio.Task[None]]) -> Listing[Any]:
        """Send a write and forget what it may have made stale; `telling` are the messages to other replicas."""
        client, tenant = self._client, self._tenant
        tenant.forget_reads()
        carried_out = True
        try:
            await self._send()
            return self._decoded()
        except errors.Unauthenticated:
            carried_out = False  # a made-up key leaves nothing behind
            raise
        finally:
            if carried_out:
                tenant.forget(write.kind, write.id, write.owners)
            if carried_out and client.replicas:
                wrote = Wrote(write.kind, write.id, write.owners)
                telling.append(client.keep(asyncio.ensure_future(client.replicas.wrote(tenant, wrote))))

    async def _send(self) -> bytes:
        """Send attempt after attempt as `may_retry` allows, and return the body of a success."""
        attempts = 0
        while True:
            attempts += 1
            try:
                response = await self._attempt()
                break
            except errors.Failed as failure:
                failed = isinstance(failure, errors.Unavailable)
                if not may_retry(self._request.method, attempts, connection_failed=failed) or not self._reserve():
                    raise
        now, quota = self._client.clock(), self._tenant.quota
        self._response = response
        quota.responses += 1
        self._place = quota.responses
        success = response.status in (_DELETED if self._request.method == "DELETE" else _SUCCESS)
        if response.verified or not success:
            self._learn(response, now)
        if success:
            self.received = len(response.body)
            return response.body
        error = error_for(response, self._request.headers["X-API-Key"])
        if isinstance(error, errors.RateLimited):
            error.retry_after = quota.refuse_for(now)
        raise error

    async def _attempt(self) -> Response:
        try:
            return await self._client.http.attempt(self._request, self._sending)
        except errors.Failed as failure:
            if not failure.reached and not self._reserved:
                self.usage.spent -= 1
                self.usage.reserved += 1
                self._reserved = True
            raise
        finally:
            if not self._reserved:
                self._client.sent()

    def _sending(self) -> None:
        """Count the attempt as spent; called just before it is written."""
        self._reserved = False
        self.usage.reserved -= 1
        self.usage.spent += 1

    def _reserve(self) -> bool:
        """Reserve another attempt if the last one was sent; tell whether the budget allows it."""
        if not self._reserved:
            if self.usage.spent + self.usage.reserved >= self._client.settings.max_rest_calls:
                return False
            self.usage.reserved += 1
            self._reserved = True
        return True

    def _remember(self) -> Result:
        """Decode a GET's response and put it into the cache, unless a write has come between."""
        client, tenant, read, size = self._client, self._tenant, self._asked, None
        assert isinstance(read, Read)  # noqa: S101 - the result of a write is its task's
        try:
            listing = self._decoded()
        except errors.UpstreamError as error:
            return error
        told = listing.pagination
        if read.page and not read.filters and told and (listing.rows or not told.has_more):
            total = tenant.sizes.correct(read.kind, told, len(listing.rows), self._at)
            size = Size.told(read.page, total, told.limit)
            tenant.sizes.learn(read.kind, size, self._at)
        if self._writes == tenant.writes and self._response:
            if client.remembers:
                tenant.cache.add(read, listing, self._at, len(self._response.body))
            self._tell(read, self._response.body, size)
        return listing

    def _tell(self, read: Read, body: bytes, size: Size | None) -> None:
        """Tell the other replicas of a response."""
        if replicas := self._client.replicas:
            tenant = self._tenant
            learned = Learned(read, "", self._at, self._base, size, tenant.quota.state(self._client.clock()))
            self._client.keep(asyncio.ensure_future(replicas.learned(tenant, learned, body)))

    def _decoded(self) -> Listing[Any]:
        """Decode the response of a success. Only then are its headers believed, unless it repeats the request's id.

        Raises:
            errors.Mismatch: it is the response to another call.
            errors.BadResponse: it cannot be decoded.
        """
        response = self._response
        assert response  # noqa: S101 - it was sent
        try:
            listing = self._asked.decode(response.body, self._rows)
            self._tenant.workspace.check(listing, verified=response.verified)
        except errors.Mismatch as error:
            self._client.http.report_mismatch(response.generation, error)
            raise
        except errors.BadResponse as error:
            error.response = summary(response, self._request.headers["X-API-Key"])
            raise
        if not response.verified:
            self._learn(response, self._client.clock())
        return listing

    def _learn(self, response: Response, now: float) -> None:
        """Take in what a response tells of the tenant."""
        self._tenant.quota.learn(
            response.headers, status=response.status, now=now, since=self._since, place=self._place
        )
        if response.status != 401 and not self._tenant.answered:
            self._client.tenants.keep(self._tenant)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.usage.reserved -= self._reserved
        self._remove()
        self._tenant.quota.in_flight -= 1
        self.usage.unsettled -= 1
        if self.usage.then and not self.usage.unsettled:
            self.usage.then()
        if not task.cancelled():
            task.exception()  # whoever waited has it, and nobody may be left to wait

    def _remove(self) -> None:
        if self._tenant.in_flight.get(self._key) is self:
            del self._tenant.in_flight[self._key]
