"""Shares caches, quota and list sizes between all replicas of the gateway, through one Redis stream for each tenant.

A stream is the log of reads and writes. Each replica reads it when an operation starts and fills its own cache from it,
so that a response read by one is cached by all, and a write by one is seen by the next operation of another. Bodies are
stored beside the log for as long as they may be served. If a log has lost entries, or an empty Redis starts a new one,
a replica clears its cache. Redis is optional at any time: if it is slow, full or gone, the gateway goes on in memory,
with one warning. Values carry no API key and expire. Valkey speaks the same protocol.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.observability.logging import log
from gateway.upstream.errors import UpstreamError
from gateway.upstream.quota import WINDOW, QuotaState
from gateway.upstream.resources import RESOURCES, WRITTEN, Read, Size
from gateway.upstream.tenants import Tenant, Tenants, name_of

PAUSE = 5.0
"""Seconds for which Redis is not used after it failed."""
IDENTITY = "omnia:identity"
IDENTITY_LASTS = 30 * 24 * 3600
"""Seconds for which the secret that names tenants is kept after the last start of a replica."""

MAX_UNSENT = 1000
"""Writes of one tenant that are kept until Redis accepts them; after more, replicas are told that all is stale."""
DOCUMENT_LASTS = 24 * 3600
"""Seconds for which a persisted document is kept; a client that needs it later sends it once more."""
DOCUMENT_BYTES = 16 * 1024
"""Bytes of a persisted document; larger ones are not shared."""
HOLDER_BYTES = 1024 * 1024
"""Bytes of persisted documents that one tenant, or all callers of no tenant, may share within `DOCUMENT_LASTS`."""


class Learned(msgspec.Struct, tag=True):
    """A response: its read, the key of its body (or none), and what it told of size and quota.

    `base` is the last write that the reader knew of when it sent the request: the response is older than any later one.
    In the log, `at` and the quota's reset are seconds relative to the entry: replicas' clocks are never compared.
    """

    read: Read
    body: str
    at: float
    base: str
    size: Size | None
    quota: QuotaState | None


class Wrote(msgspec.Struct, tag=True):
    """A write to an object: see `cache.Cache.written`. With `everything`, more than can be told one by one is stale."""

    kind: str
    id: str | None
    owners: list[str | None]
    everything: bool = False


Event = Learned | Wrote
_ENCODE = msgspec.msgpack.Encoder().encode
_EVENT: "msgspec.msgpack.Decoder[Event]" = msgspec.msgpack.Decoder(Event)
_EVERYTHING = Wrote("", None, [], everything=True)


class Replicas:
    """This replica's connection to all others.

    Args:
        url: of Redis or Valkey; may hold a password, and is never shown.
        lasts: seconds for which a response may be served, at most.
        remember: whether responses are cached at all, or only quota and sizes shared.
        tenants: named by the secret that all replicas share, once it is known.
        timeout: seconds for one command.
        clock: unix seconds.
    """

    def __init__(
        self, url: str, tenants: Tenants, *, lasts: float, remember: bool, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.failures = 0
        """Commands that failed, for the metric."""
        once_more = Retry(NoBackoff(), 1)  # on a new connection, if Redis has closed the old one
        self._redis = Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once_more)
        self._timeout = timeout
        self._tenants = tenants
        self._body_lasts = int(lasts) + 1
        self._log_lasts = max(self._body_lasts, WINDOW)
        self._remember = remember
        self._clock = clock
        self._me = secrets.token_hex(8).encode()
        self._identity = b""
        self._owing: dict[Tenant, float] = {}
        """Tenants with writes that are not in the log yet, with the time of the last."""
        self._retelling: asyncio.Task[None] | None = None
        self._resume = float("-inf")
        self._warned = False

    async def start(self) -> None:
        """Read the secret that names tenants; warn if Redis cannot be reached."""
        await self._guarded(self._identify)

    async def aclose(self) -> None:
        """Add the writes that are missing in the log, if Redis accepts them now, and close the connections."""
        if self._retelling:
            self._retelling.cancel()
        await self._tell_all()
        await self._redis.aclose()

    async def sync(self, tenant: Tenant) -> bool:
        """Read what other replicas have read and written since the last time; return whether Redis told it."""
        arrived = asyncio.get_running_loop().time()
        synced = await self._guarded(lambda: self._take_in(tenant, arrived))
        if tenant.log.seen != "0":
            self._tenants.keep(tenant)
        return synced

    async def learned(self, tenant: Tenant, event: Learned, body: bytes) -> None:
        """Add a response to the log; it is lost if Redis does not accept it."""
        now = self._clock()
        quota = event.quota and event.quota._replace(reset=event.quota.reset - now)
        event = msgspec.structs.replace(event, at=event.at - now, quota=quota)

        def fill(pipe: Any, log: str) -> None:
            if self._remember and body:
                event.body = f"{log}:{secrets.token_hex(8)}"
                pipe.set(event.body, body, ex=self._body_lasts)
            self._append(pipe, log, tenant, event)

        await self._guarded(lambda: self._add(tenant, fill))

    async def wrote(self, tenant: Tenant, event: Wrote) -> None:
        """Add a write to the log, now or as soon as Redis accepts it."""
        self._owe(tenant, event)
        await self._guarded(lambda: self._tell(tenant))
        if tenant in self._owing and not self._retelling:
            self._retelling = asyncio.ensure_future(self._tell_later())

    async def document(self, hash_: str) -> str | None:
        """Return the text of a persisted document, or None."""
        found: list[Any] = []

        async def read() -> None:
            found.append(await self._redis.get(f"omnia:document:{hash_}"))

        await self._guarded(read)
        return found[0].decode() if found and found[0] else None

    async def keep_document(self, hash_: str, text: str, holder: str) -> None:
        """Share a persisted document, if it is not too large for one or for its holder."""
        content, count = text.encode(), f"omnia:{holder}:documents"

        async def keep() -> None:
            async with self._redis.pipeline() as pipe:
                pipe.set(count, 0, ex=DOCUMENT_LASTS, nx=True)
                pipe.incrby(count, len(content))
                _, total = await pipe.execute()
            if total <= HOLDER_BYTES:
                await self._redis.set(f"omnia:document:{hash_}", content, ex=DOCUMENT_LASTS)

        if len(content) <= DOCUMENT_BYTES:
            await self._guarded(keep)

    async def _guarded(self, command: Callable[[], Any]) -> bool:
        """Run a command unless Redis has just failed; a failure is logged once, not raised, and returned as False."""
        if 0 < self._resume - self._clock() <= PAUSE:
            return False
        try:
            async with asyncio.timeout(self._timeout):
                await command()
        except Exception as error:  # noqa: BLE001 - no operation fails because of Redis
            self.failures += 1
            self._resume = self._clock() + PAUSE
            if not self._warned:
                log.warning("redis_unavailable", error=type(error).__name__, effect="this replica goes on in memory")
            self._warned = True
            return False
        return True

    async def _identify(self) -> bytes:
        """Return the secret that names tenants; an empty Redis is given a new one."""
        known: Any = await self._redis.getex(IDENTITY, ex=IDENTITY_LASTS)
        while known is None:
            # never an old one: a new one tells every replica that the logs it has read are gone
            await self._redis.set(IDENTITY, secrets.token_bytes(32), nx=True, ex=IDENTITY_LASTS)
            known = await self._redis.get(IDENTITY)
        self._identity = known
        return self._identity

    async def _transact(self, tenant: Tenant, fill: Callable[[Any, str], object]) -> tuple[str, list[Any]]:
        """Run commands, all or none, on the log that a tenant has in Redis now; return its name and their results."""
        while True:
            identity = self._identity or await self._identify()
            name = name_of(tenant.digest, identity)
            async with self._redis.pipeline() as pipe:
                pipe.get(IDENTITY)
                fill(pipe, f"omnia:{name}:log")
                now, *results = await pipe.execute()
            if now == identity:
                return name, results
            self._identity = b""

    async def _take_in(self, tenant: Tenant, arrived: float) -> None:
        """Read the log, unless another operation that started after this one `arrived` has read it."""
        async with tenant.log.lock:
            if tenant.log.synced > arrived:
                return
            began = asyncio.get_running_loop().time()
            latest = self._apply(tenant, *await self._news(tenant))
            writes = tenant.writes
            bodies: Any = await self._redis.mget([event.body for event in latest]) if latest else []
            for event, body in zip(latest, bodies, strict=True):
                if body is not None and (event.read.kind not in WRITTEN or tenant.writes == writes):
                    self._hold(tenant, event, body)
            tenant.log.synced = began

    async def _news(self, tenant: Tenant) -> tuple[list[Any], float, bool]:
        """Return the entries since the last one read, Redis' time (unix seconds), and whether this replica wrote since.

        A log without the entry that was read or added last has lost others too: everything cached may be stale.
        """
        log = tenant.log
        while True:
            await self._flush(tenant)
            writes = tenant.writes
            name, ((seconds, micros), entries) = await self._transact(
                tenant, lambda pipe, key: pipe.time().xrange(key, min=log.seen)
            )
            wrote = tenant.writes != writes
            known = {log.seen, log.told} - {"0", ""}
            if name != log.name or not known <= {id_.decode() for id_, _ in entries}:
                if name == log.name and _seconds(log.seen) > seconds - self._log_lasts:
                    self._owe(tenant, _EVERYTHING)  # lost before it expired: others may not notice
                log.restart(name)
                tenant.name = name
                tenant.forget_everything()
                if known or log.unsent:
                    continue
            return entries, seconds + micros / 1e6, wrote

    def _apply(self, tenant: Tenant, entries: list[Any], now: float, wrote: bool) -> list[Learned]:  # noqa: FBT001
        """Apply entries of the log; return the responses among them whose bodies may be cached.

        If this replica `wrote` after it had requested the entries, responses may be older than its write.
        """
        latest: dict[Read, Learned] = {}
        for key, fields in entries:
            id_, event = key.decode(), _decoded(fields)
            if id_ == tenant.log.seen:
                continue
            tenant.log.seen = id_
            if isinstance(event, Wrote):
                self._apply_write(tenant, id_, event)
                latest = {read: learned for read, learned in latest.items() if read.kind not in WRITTEN}
            elif fields.get(b"by") != self._me:
                self._learn(tenant, event, self._clock() - max(0.0, now - _seconds(id_)))
                if event.body and (event.read.kind not in WRITTEN or (event.base == tenant.log.wrote and not wrote)):
                    latest[event.read] = event
        return list(latest.values())

    @staticmethod
    def _apply_write(tenant: Tenant, id_: str, event: Wrote) -> None:
        """Forget what a write made stale, an own one too: older responses may have been cached since."""
        tenant.log.wrote = id_
        if tenant.log.told == id_:
            tenant.log.told = ""
        if event.everything:
            tenant.forget_everything()
        else:
            tenant.forget(event.kind, event.id, event.owners)

    async def _tell(self, tenant: Tenant) -> None:
        async with tenant.log.lock:
            await self._flush(tenant)

    async def _tell_all(self) -> None:
        """Add the missing writes of every tenant; writes older than any cached response are dropped."""
        for tenant, last in list(self._owing.items()):
            await self._guarded(partial(self._tell, tenant))
            if tenant in self._owing and self._clock() - last > self._log_lasts:
                tenant.log.unsent.clear()
                del self._owing[tenant]

    async def _tell_later(self) -> None:
        while self._owing:
            await asyncio.sleep(PAUSE)
            await self._tell_all()
        self._retelling = None

    def _owe(self, tenant: Tenant, event: Wrote) -> None:
        """Keep a write until it is in the log; too many become one that makes everything stale."""
        tenant.log.unsent = _bounded([*tenant.log.unsent, event])
        self._owing[tenant] = self._clock()

    async def _flush(self, tenant: Tenant) -> None:
        """Add the missing writes to the log; the caller holds its lock."""
        log = tenant.log
        events, log.unsent = log.unsent, []
        if not events:
            return
        try:
            log.told = await self._add(tenant, lambda pipe, key: self._append(pipe, key, tenant, *events))
        except BaseException:  # also if the operation is cancelled
            log.unsent = _bounded([*events, *log.unsent])
            raise
        if not log.unsent:
            self._owing.pop(tenant, None)

    async def _add(self, tenant: Tenant, fill: Callable[[Any, str], object]) -> str:
        """Run commands that end with those of `_append`; return the id of the last entry."""
        _, (*_, id_, _) = await self._transact(tenant, fill)
        if self._warned:
            log.info("redis_back")
        self._warned = False  # only after a write: a full Redis still answers reads
        return str(id_.decode())

    def _append(self, pipe: Any, key: str, tenant: Tenant, *events: Event) -> None:
        oldest = max(0, _seconds(tenant.log.seen) - self._log_lasts) * 1000  # by Redis' own clock
        for event in events:
            fields = {"by": self._me, "event": _ENCODE(event)}
            pipe.xadd(key, fields, minid=int(oldest), approximate=True)
        pipe.expire(key, self._log_lasts)

    def _learn(self, tenant: Tenant, event: Learned, moment: float) -> None:
        """Take what a response told of size and quota; `moment` is the time of the entry by this replica's clock."""
        event.at += moment
        if event.quota:
            tenant.quota.take(event.quota._replace(reset=event.quota.reset + moment), self._clock())
        if event.size:
            tenant.sizes.learn(event.read.kind, event.size, event.at)

    def _hold(self, tenant: Tenant, event: Learned, body: bytes) -> None:
        with contextlib.suppress(UpstreamError):  # stored by another version of the gateway
            listing = event.read.decode(body)
            tenant.cache.add(event.read, listing, event.at, len(body))


def _decoded(fields: dict[bytes, bytes]) -> Event:
    with contextlib.suppress(msgspec.DecodeError):
        event = _EVENT.decode(fields.get(b"event", b""))
        if (event.read if isinstance(event, Learned) else event).kind in RESOURCES:
            return event
    return _EVERYTHING  # of another version of the gateway: it may be a write


def _bounded(events: list[Wrote]) -> list[Wrote]:
    return events if len(events) <= MAX_UNSENT else [_EVERYTHING]


def _seconds(id_: str) -> float:
    """Return when an entry was added (unix seconds by Redis' clock)."""
    return int(id_.partition("-")[0]) / 1000
