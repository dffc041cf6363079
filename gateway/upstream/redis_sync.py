"""One tenant's knowledge shared by all replicas of the gateway, through one Redis stream for each tenant.

A stream is the log of what replicas have read and written. Each replica reads it when an operation begins and fills
its own memory from it, so an answer read by one is known to all and a write by one is seen by the next operation of
another. Bodies lie beside the log, for as long as they may be served. A log that has lost entries, or that an empty
Redis begins anew, makes a replica forget what it remembers. Redis is never needed: where it is slow, full or gone the
gateway goes on in memory, with one warning. Values carry no API key and expire. Redis-py is kept by Redis itself;
Valkey speaks the same protocol.
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
"""Seconds without Redis after it failed."""
IDENTITY = "omnia:identity"
IDENTITY_LASTS = 30 * 24 * 3600
"""Seconds for which the secret that names tenants outlives the last start of a replica."""

MAX_UNSENT = 1000
"""Writes of one tenant that are kept until Redis takes them; after more, replicas are told that all is stale."""
DOCUMENT_LASTS = 24 * 3600
"""Seconds for which a persisted document is kept; a client that needs it later sends it once more."""
DOCUMENT_BYTES = 16 * 1024
"""Bytes of a persisted document; larger ones are not shared."""
HOLDER_BYTES = 1024 * 1024
"""Bytes of persisted documents that one tenant, or all callers of no tenant, may share within `DOCUMENT_LASTS`."""


class Learned(msgspec.Struct, tag=True):
    """An answer: what was asked, the key of its body (or none), and what it told of size and quota.

    `base` is the write that its reader knew of when it asked: the answer is older than any later one. In the log, `at`
    and the quota's reset are seconds from the moment of telling, so that replicas' clocks are never compared.
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
    """This replica's part in what all replicas know.

    Args:
        url: of Redis or Valkey; may hold a password, and is never shown.
        lasts: seconds for which an answer may be served, at the most.
        remember: whether answers are remembered at all, or only quota and sizes shared.
        tenants: named by the secret that all replicas share, once Redis has told it.
        timeout: seconds that Redis may take for one command; a REST call takes longer.
        clock: unix seconds.
    """

    def __init__(
        self, url: str, tenants: Tenants, *, lasts: float, remember: bool, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.failures = 0
        """Commands that failed, for the metric."""
        once_more = Retry(NoBackoff(), 1)  # on a new connection, where Redis has closed the old one
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
        """Tenants with writes that are not told yet, by the time of the last."""
        self._retelling: asyncio.Task[None] | None = None
        self._resume = float("-inf")
        self._warned = False

    async def start(self) -> None:
        """Learn the secret that names tenants; warn where Redis is out of reach."""
        await self._guarded(self._identify)

    async def aclose(self) -> None:
        """Tell what is still to be told, if Redis takes it now, and close the connections."""
        if self._retelling:
            self._retelling.cancel()
        await self._tell_all()
        await self._redis.aclose()

    async def sync(self, tenant: Tenant) -> None:
        """Take in what other replicas have learned and written since the last time."""
        arrived = asyncio.get_running_loop().time()
        await self._guarded(lambda: self._take_in(tenant, arrived))
        if tenant.log.seen != "0":
            self._tenants.keep(tenant)

    async def learned(self, tenant: Tenant, event: Learned, body: bytes) -> None:
        """Tell the others of an answer; it is lost where Redis does not take it."""
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
        """Tell the others of a write; where Redis does not take it now, it is told as soon as it does."""
        self._owe(tenant, event)
        await self._guarded(lambda: self._tell(tenant))
        if tenant in self._owing and not self._retelling:
            self._retelling = asyncio.ensure_future(self._tell_later())

    async def document(self, hash_: str) -> str | None:
        """Return the text of a persisted document that a replica was sent, or None."""
        found: list[Any] = []

        async def read() -> None:
            found.append(await self._redis.get(f"omnia:document:{hash_}"))

        await self._guarded(read)
        return found[0].decode() if found and found[0] else None

    async def keep_document(self, hash_: str, text: str, holder: str) -> None:
        """Keep a persisted document for the other replicas, if it is not too large for one or for its holder."""
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

    async def _guarded(self, command: Callable[[], Any]) -> None:
        """Run a command where Redis is well, for as long as it may take; else go on without."""
        if 0 < self._resume - self._clock() <= PAUSE:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await command()
        except Exception as error:  # noqa: BLE001 - no operation fails by what Redis does or holds
            self.failures += 1
            self._resume = self._clock() + PAUSE
            if not self._warned:
                log.warning("redis_unavailable", error=type(error).__name__, effect="this replica goes on in memory")
            self._warned = True

    async def _identify(self) -> bytes:
        """Learn the secret that all replicas name tenants by; a Redis that has none is given a new one."""
        known: Any = await self._redis.getex(IDENTITY, ex=IDENTITY_LASTS)
        while known is None:
            # never one that was in use: by a new one every replica finds that the logs it has read are gone
            await self._redis.set(IDENTITY, secrets.token_bytes(32), nx=True, ex=IDENTITY_LASTS)
            known = await self._redis.get(IDENTITY)
        self._identity = known
        return self._identity

    async def _transact(self, tenant: Tenant, fill: Callable[[Any, str], object]) -> tuple[str, list[Any]]:
        """Run commands, all or none, on the log that a tenant has in Redis now; return its name and their answers."""
        while True:
            identity = self._identity or await self._identify()
            name = name_of(tenant.digest, identity)
            async with self._redis.pipeline() as pipe:
                pipe.get(IDENTITY)
                fill(pipe, f"omnia:{name}:log")
                now, *answers = await pipe.execute()
            if now == identity:
                return name, answers
            self._identity = b""

    async def _take_in(self, tenant: Tenant, arrived: float) -> None:
        """Read the log, unless another operation has begun to do so after this one `arrived`, and has done it."""
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

        A log without the entry that was read last, or told last, has lost others too: all that is known may be stale.
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
                    self._owe(tenant, _EVERYTHING)  # lost before its time: others may not find that
                log.restart(name)
                tenant.name = name
                tenant.forget_everything()
                if known or log.unsent:
                    continue
            return entries, seconds + micros / 1e6, wrote

    def _apply(self, tenant: Tenant, entries: list[Any], now: float, wrote: bool) -> list[Learned]:  # noqa: FBT001
        """Take in entries of the log; return the answers among them whose bodies may be remembered.

        Where this replica `wrote` after it had asked for the entries, answers of numbers may be older than its write.
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
        """Forget what a write made stale; after an own one too, since what came before it may have been read since."""
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
        """Tell the writes of every tenant that are to be told; those older than any answer may be need it no more."""
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
        """Keep a write until it is told; of too many, only that there were some."""
        tenant.log.unsent = _bounded([*tenant.log.unsent, event])
        self._owing[tenant] = self._clock()

    async def _flush(self, tenant: Tenant) -> None:
        """Tell the writes that are not told yet; with the log's lock."""
        log = tenant.log
        events, log.unsent = log.unsent, []
        if not events:
            return
        try:
            log.told = await self._add(tenant, lambda pipe, key: self._append(pipe, key, tenant, *events))
        except BaseException:  # an operation that is cancelled tells nothing either
            log.unsent = _bounded([*events, *log.unsent])
            raise
        if not log.unsent:
            self._owing.pop(tenant, None)

    async def _add(self, tenant: Tenant, fill: Callable[[Any, str], object]) -> str:
        """Run commands that end with those of `_append`; return the id of the last entry."""
        _, (*_, id_, _) = await self._transact(tenant, fill)
        if self._warned:
            log.info("redis_back")
        self._warned = False  # now that it takes values again: a full one still answers reads
        return str(id_.decode())

    def _append(self, pipe: Any, key: str, tenant: Tenant, *events: Event) -> None:
        oldest = max(0, _seconds(tenant.log.seen) - self._log_lasts) * 1000  # by Redis' own clock
        for event in events:
            fields = {"by": self._me, "event": _ENCODE(event)}
            pipe.xadd(key, fields, minid=int(oldest), approximate=True)
        pipe.expire(key, self._log_lasts)

    def _learn(self, tenant: Tenant, event: Learned, moment: float) -> None:
        """Take in what an answer told of size and quota; `moment` is when it was told, by the clock here."""
        event.at += moment
        if event.quota:
            tenant.quota.take(event.quota._replace(reset=event.quota.reset + moment), self._clock())
        if event.size:
            tenant.sizes.learn(event.read.kind, event.size, event.at)

    def _hold(self, tenant: Tenant, event: Learned, body: bytes) -> None:
        with contextlib.suppress(UpstreamError):  # read by another version of the gateway
            listing = event.read.decode(body)
            tenant.cache.add(event.read, listing, event.at, len(body))


def _decoded(fields: dict[bytes, bytes]) -> Event:
    with contextlib.suppress(msgspec.DecodeError):
        event = _EVENT.decode(fields.get(b"event", b""))
        if (event.read if isinstance(event, Learned) else event).kind in RESOURCES:
            return event
    return _EVERYTHING  # of another version of the gateway: it may tell of a write


def _bounded(events: list[Wrote]) -> list[Wrote]:
    return events if len(events) <= MAX_UNSENT else [_EVERYTHING]


def _seconds(id_: str) -> float:
    """Return when an entry was added (unix seconds, by Redis' clock)."""
    return int(id_.partition("-")[0]) / 1000
