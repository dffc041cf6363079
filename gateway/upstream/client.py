"""The REST API of Omnia, one method per call.

`loaders` calls a `Session`, which belongs to one operation and one API key; all sessions share one
`Client` with its connections and its tenants. A call is admitted (key, budget, quota), shared with
whoever of the same tenant asks for the same meanwhile, sent, tried again where `retry` allows it, and
decoded into `models`. Facts: the vendor's "Phone Numbers" page and its OpenAPI 1.0.0.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
import msgspec

from gateway.observability.logging import log
from gateway.settings import Settings
from gateway.upstream import errors, models
from gateway.upstream.attempt import HttpClient
from gateway.upstream.calls import Call, Path
from gateway.upstream.inflight import Arrival, Flight
from gateway.upstream.paging import Size
from gateway.upstream.quota import QuotaState
from gateway.upstream.reads import LONG, Read, check_deleted, decode_written, number_path
from gateway.upstream.redis_sync import Learned, Replicas, Wrote
from gateway.upstream.tenants import Bill, Tenant, Tenants
from gateway.upstream.transport.base import Request

_ENCODE = msgspec.json.Encoder().encode

T = TypeVar("T")

Answer = models.Listing[Any] | Exception
"""What a read came to; one that failed is worth as much to the caller as one that did not."""


class Client:
    """The one REST API of a gateway process: its connections and what is kept for each tenant.

    Args:
        settings: the upstream's address, timeouts and caps.
        transport: stands in for the network, in tests.
        clock: unix seconds.
        sent: called for each REST call that was sent.
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
        self.tenants = Tenants(settings.cache_bytes)
        self.update_method = "PUT"
        self._judged = False
        http = HttpClient(
            settings.upstream_url,
            timeout=settings.upstream_timeout,
            connections=settings.upstream_connections,
            pool_timeout=settings.deadline,
            max_bytes=settings.max_upstream_bytes,
            transport=transport,
        )
        self.path = Path(http, clock, settings.max_rest_calls, self.tenants.keep, sent)
        self.remembers = bool(settings.cache_ttl or settings.stale_if_error)
        self.joins = settings.workers == 1 or bool(settings.redis_url)
        """Whether operations join each other's reads: a worker must know of the others' writes, or those are older."""
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
        self.background: set[asyncio.Task[Any]] = set()
        """What goes on without a caller: writes that he left, replicas being told of answers."""

    async def start(self) -> None:
        """Get to know the other replicas, if there are any."""
        if self.replicas:
            await self.replicas.start()

    async def aclose(self) -> None:
        """Let writes under way end, then close every connection."""
        while self.background:
            await asyncio.wait(self.background)
        if self.replicas:
            await self.replicas.aclose()
        await self.path.http.aclose()

    def watch(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Keep a task that nobody may be waiting for."""
        self.background.add(task)
        task.add_done_callback(self.background.discard)
        return task

    def judge_reserve(self, quota: QuotaState | None, reserve: int) -> None:
        """Warn, once, of a reserve that leaves nothing of a key's quota for anything but single reads and writes."""
        if quota and 0 < quota.limit <= reserve and not self._judged:
            self._judged = True
            log.warning("quota_reserve_above_limit", reserve=reserve, limit=quota.limit, effect="no list is swept")

    async def session(self, api_key: str, request_id: str, *, fresh: bool = False) -> "Session":
        """Open the session of one operation; without a key its first call raises `errors.NoKey`.

        `fresh` keeps remembered answers out of it.
        """
        tenant = self.tenants[api_key]
        if self.replicas and api_key:
            await self.replicas.sync(tenant)
        return Session(self, tenant, {"X-API-Key": api_key, "X-Request-Id": request_id}, fresh=fresh)


class Session:
    """The REST calls of one operation, all with one API key, and their bill.

    Writes raise `errors.UpstreamError`, reads return it. Ids are checked before they enter a path.
    """

    def __init__(self, client: Client, tenant: Tenant, headers: dict[str, str], *, fresh: bool) -> None:
        self.tenant = tenant
        self.bill = Bill()
        self.stale_age: float | None = None
        """Seconds of age of the oldest answer that was served only because the upstream could not; else None."""
        self.has_key = bool(headers["X-API-Key"])
        self._over = False
        self._client = client
        self._headers = {**headers, "Accept": "application/json", "Accept-Encoding": "gzip"}
        self._max_age = 0.0 if fresh else client.settings.cache_ttl
        self.remembers = self._max_age > 0
        """Whether answers may come from memory."""
        self._max_stale = 0.0 if fresh else client.settings.stale_if_error
        self.clock = client.clock
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + client.settings.deadline

    def finish(self, then: Callable[[], object]) -> None:
        """Begin no REST call any more, and call this once all have ended."""
        self._over = True
        self.bill.when_settled(then)

    @property
    def quota(self) -> QuotaState | None:
        """What is known of the key's quota."""
        return self.tenant.quota.state(self.clock())

    @property
    def affordable(self) -> int:
        """REST calls that the budget and the known quota still allow."""
        left, quota = self._client.settings.max_rest_calls - self.bill.charged, self.quota
        return left if quota is None else min(left, quota.remaining)

    @property
    def _left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - self._loop.time())

    def check_deadline(self) -> None:
        """Raise `errors.TimedOut` where the operation's deadline has passed."""
        if self._loop.time() > self._deadline:
            raise self._too_late()

    async def read(self, reads: Sequence[Read], failed: Exception | None = None) -> list[Answer]:
        """Answer GETs, all of them at once; failures are values, each in its place.

        With `failed`, which stopped other calls, only what is remembered answers in place of it.
        """
        if failed is not None:
            return [self._outdated(read, failed) for read in reads]
        return [arrival.look() for arrival in await self.fetch(reads)]

    async def fetch(self, reads: Sequence[Read]) -> list[Arrival]:
        """Bring answers to GETs, as `read`: from memory, from flights of this tenant under way, or by calls."""
        flights: list[Flight] = []
        arrivals = [self._arrival(read, flights) for read in reads]
        if flights and not await self.tenant.flights.join(flights, self._left):
            for arrival in arrivals:
                arrival.look()  # what is late now must not be there when it is asked for
        return arrivals

    async def create_number(self, body: models.Body) -> models.Listing[models.PhoneNumber]:
        """POST /numbers."""
        return await self._write("POST", None, body)

    async def update_number(self, id_: str, body: models.Body) -> models.Listing[models.PhoneNumber]:
        """PUT /numbers/{id}, or PATCH once the upstream has said that there is no PUT."""
        client, method = self._client, self._client.update_method
        try:
            return await self._write(method, id_, body)
        except errors.Rejected as error:
            # the vendor's page says PUT, its newer documents PATCH: the upstream's own word settles it
            if method == "PATCH" or error.answer is None or error.answer.status != 405:
                raise
        client.update_method = "PATCH"
        return await self._write("PATCH", id_, body)

    async def delete_number(self, id_: str) -> None:
        """DELETE /numbers/{id}; the answer has no content."""
        await self._write("DELETE", id_, None)

    def recall(self, read: Read) -> models.Listing[Any] | None:
        """Return an answer that is remembered and young enough, without a call."""
        held = self.tenant.memory.recall(read, self.clock() - self._max_age) if self.remembers else None
        if held is None:
            return None
        self.bill.saved.cached += 1
        return held.listing

    def _outdated(self, read: Read, error: Exception) -> Answer:
        """Answer from memory because the upstream did not, and note the answer's age; or return the error."""
        may = self._max_stale and isinstance(error, errors.Failed | errors.RateLimited | errors.QuotaSpent)
        stale = self.tenant.memory.recall(read, self.clock() - self._max_stale) if may else None
        if stale is None:
            return error
        self.bill.saved.cached += 1
        self.stale_age = max(self.stale_age or 0.0, self.clock() - stale.at)
        return stale.listing

    def _arrival(self, read: Read, flights: list[Flight]) -> Arrival:
        answer: Answer | None = self.recall(read)
        if answer is None:
            try:
                flight = self._board(read)
            except errors.UpstreamError as error:
                answer = self._outdated(read, error)
            else:
                flights.append(flight)
                return Arrival(partial(self._landed, read, flight))
        return Arrival(lambda: answer)

    def _board(self, read: Read) -> Flight:
        """Join the flight that a GET is on, or launch it."""
        target, flights = read.target, self.tenant.flights
        key = target if self._client.joins else (target, id(self.bill))
        if flight := flights.find(key):
            self.bill.saved.coalesced += flight.payer is not self.bill
            return flight
        call, at, wrote = self._admit("GET", target, None), self.clock(), (self.tenant.log.base, flights.writes)
        decoded: list[Any] = []
        task = call.launch(self._fly(read, call, at, wrote[0], decoded))
        return flights.launch(key, task, partial(self._land, read, call, at, wrote, decoded), self.bill)

    def _landed(self, read: Read, flight: Flight) -> Answer:
        answer: Answer = flight.outcome or self._too_late()
        return self._outdated(read, answer) if isinstance(answer, Exception) else answer

    async def _fly(self, read: Read, call: Call, at: float, base: str, decoded: list[Any]) -> bytes:
        """Send a GET; the rows of a long answer are `decoded` already when it ends."""
        try:
            body = await call.send()
        except errors.RateLimited:
            if replicas := self._client.replicas:
                learned = Learned(read, "", at, base, None, self.quota)
                self._client.watch(asyncio.ensure_future(replicas.learned(self.tenant, learned, b"")))
            raise
        if len(body) > LONG:
            decoded.append(await read.decode_slowly(body))
        return body

    def _land(
        self, read: Read, call: Call, at: float, wrote: tuple[str, int], decoded: list[Any], body: bytes
    ) -> models.Listing[Any]:
        """Decode an answer and remember it, unless a write has come between."""
        client, tenant = self._client, self.tenant
        listing = call.read(lambda body: read.decode(body, *decoded))
        size = None
        if read.whole and read.page and listing.pagination:
            listing.pagination.total = tenant.correct(read.kind, listing.pagination.total)
            size = Size.told(read.page, listing.pagination.total, listing.pagination.limit)
            tenant.learn(read.kind, size, at)
        base, writes = wrote
        if writes == tenant.flights.writes:
            if client.remembers:
                tenant.memory.hold(read, listing, at, len(body))
            if client.replicas:
                learned = Learned(read, "", at, base, size, self.quota)
                client.watch(asyncio.ensure_future(client.replicas.learned(tenant, learned, body)))
        return listing

    async def _write(
        self, method: str, id_: str | None, body: models.Body | None
    ) -> models.Listing[models.PhoneNumber]:
        """Send a write, once, to its end even if the caller leaves; reads asked for from now on see its outcome."""
        target = "/numbers" if id_ is None else number_path(id_)
        call = self._admit(method, target, None if body is None else _ENCODE(body))
        wrote = Wrote(id_, [body["agentId"]] if body and "agentId" in body else [])
        telling: list[asyncio.Task[None]] = []
        task = self._client.watch(call.launch(self._carry_out(call, wrote, body, telling)))
        try:
            done, _ = await asyncio.wait((task,), timeout=self._left)
            if not done:
                raise self._too_late()
            if telling:
                await asyncio.wait(telling, timeout=self._left)
            return task.result()
        except errors.Failed as error:
            raise errors.in_doubt(error) from error

    async def _carry_out(
        self, call: Call, wrote: Wrote, body: models.Body | None, telling: list[asyncio.Task[None]]
    ) -> models.Listing[models.PhoneNumber]:
        """Send a write and forget what it may have made stale; `telling` is when the other replicas do."""
        self.tenant.flights.forget()
        carried_out = True
        try:
            await call.send()
            if body is None:
                return call.read(lambda answer: check_deleted(answer, wrote.number_id))
            return call.read(lambda answer: decode_written(answer, body, wrote.number_id))
        except errors.Unauthenticated:
            carried_out = False  # whoever makes up keys leaves nothing behind
            raise
        finally:
            if carried_out:
                self.tenant.forget(wrote.number_id, wrote.agents)
            if carried_out and (replicas := self._client.replicas):
                telling.append(self._client.watch(asyncio.ensure_future(replicas.wrote(self.tenant, wrote))))

    def _admit(self, method: str, target: str, body: bytes | None) -> Call:
        """Put a call on the bill, or refuse it where it has no key, no budget or no quota."""
        if self._over:
            raise self._too_late()
        if not self.has_key:
            raise errors.NoKey("Send your Omnia API key in the X-API-Key header.")
        client = self._client
        reserve = client.settings.quota_reserve if method == "GET" and self.bill.charged > 0 else 0
        try:
            request = Request(method, target, self._headers, body, self.tenant.name)
            return client.path.admit(self.bill, self.tenant, reserve, request)
        except errors.QuotaSpent:
            client.judge_reserve(self.quota, reserve)
            raise

    def _too_late(self) -> errors.TimedOut:
        seconds = self._client.settings.deadline
        return errors.TimedOut(f"The operation took longer than {seconds:g} s; ask for less at once.")
