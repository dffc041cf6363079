"""One tenant's knowledge shared by all replicas of the gateway, through one Redis stream for each tenant.

`client` calls `sync` when an operation begins and `publish` when it has learned or written something. A stream is
the log of what replicas have read and written; each fills its own memory from it, so an answer read by one is
known to all and a write by one is seen at the next read of another. Bodies lie beside the log, for as long as they may
be served. Redis is never needed: where it is slow, full or gone the gateway goes on in memory, with one warning.
Values carry no API key and expire. Chosen for it: redis-py, kept by Redis itself; Valkey speaks the same protocol.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.upstream.errors import UpstreamError
from gateway.upstream.paging import Size
from gateway.upstream.quota import WINDOW, QuotaState
from gateway.upstream.reads import Read
from gateway.upstream.tenants import Tenant, Tenants

PAUSE = 5.0
"""Seconds without Redis after it failed."""
IDENTITY_LASTS = 30 * 24 * 3600
"""Seconds for which the secret that names tenants outlives the last replica."""

DOCUMENT_LASTS = 7 * 24 * 3600
"""Seconds for which a persisted document is kept; a client that needs it later sends it once more."""

log = structlog.get_logger("gateway")


class Learned(msgspec.Struct, tag=True):
    """An answer: what was asked, the key of its body (or none), and what it told of size and quota.

    `base` is the write that its reader knew of when it asked: the answer is older than any later one.
    """

    read: Read
    body: str
    at: float
    base: str
    size: Size | None
    quota: QuotaState | None


class Wrote(msgspec.Struct, tag=True):
    """A write to a number: see `cache.Memory.wrote`."""

    number_id: str | None
    agents: list[str | None]


Event = Learned | Wrote
_ENCODE = msgspec.msgpack.Encoder().encode
_EVENT: "msgspec.msgpack.Decoder[Event]" = msgspec.msgpack.Decoder(Event)


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
        self._lasts = int(lasts) + 1
        self._remember = remember
        self._clock = clock
        self._me = secrets.token_hex(8).encode()
        self._resume = float("-inf")
        self._warned = False

    async def start(self) -> None:
        """Learn the name-giving secret; warn where Redis is out of reach."""
        await self._guarded(self._identify)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def sync(self, api_key: str) -> Tenant:
        """Return a key's tenant, with what other replicas have learned and written since the last time."""
        before = self._tenants[api_key]
        await self._guarded(self._identify)
        tenant = self._tenants[api_key]
        if tenant is not before:
            tenant.log.unsent.extend(before.log.unsent)

        async def read() -> None:
            await self._flush(tenant)
            entries: Any = await self._redis.xrange(_stream(tenant), min=f"({tenant.log.seen}")
            events = [(id_.decode(), fields.get(b"by") == self._me, _decoded(fields)) for id_, fields in entries]
            wanted = [event.body for _, own, event in events if isinstance(event, Learned) and event.body and not own]
            bodies: dict[str, Any] = dict(zip(wanted, await self._redis.mget(wanted), strict=True)) if wanted else {}
            for id_, own, event in events:
                tenant.log.seen = id_
                if isinstance(event, Wrote):
                    tenant.log.wrote = id_
                    tenant.forget(event.number_id, event.agents)  # an own one too: what came before it was read since
                elif event and not own:
                    self._learn(tenant, event, bodies.get(event.body))

        async with tenant.log.lock:
            await self._guarded(read)
        if tenant.log.seen != "0" or tenant.log.unsent:
            self._tenants.keep(tenant)
        return tenant

    async def learned(self, tenant: Tenant, event: Learned, body: bytes) -> None:
        """Tell the others of an answer; it is lost where Redis does not take it."""
        if self._remember and body:
            event.body = f"{_stream(tenant)}:{secrets.token_hex(8)}"
        await self._guarded(lambda: self._add(tenant, event, body))

    async def wrote(self, tenant: Tenant, event: Wrote) -> None:
        """Tell the others of a write; where Redis does not take it now, it is told as soon as it does."""
        tenant.log.unsent.append(event)
        await self._guarded(lambda: self._flush(tenant))

    async def document(self, hash_: str) -> str | None:
        """Return the text of a persisted document that a replica was sent, or None."""
        found: list[Any] = []

        async def read() -> None:
            found.append(await self._redis.get(f"omnia:document:{hash_}"))

        await self._guarded(read)
        return found[0].decode() if found and found[0] else None

    async def keep_document(self, hash_: str, text: str) -> None:
        """Keep a persisted document for the other replicas."""
        await self._guarded(lambda: self._redis.set(f"omnia:document:{hash_}", text, ex=DOCUMENT_LASTS))

    async def _guarded(self, command: Callable[[], Any]) -> None:
        """Run a command where Redis is well; else go on without."""
        if 0 < self._resume - self._clock() <= PAUSE:
            return
        try:
            async with asyncio.timeout(2 * self._timeout):
                await command()
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            self._resume = self._clock() + PAUSE
            if not self._warned:
                log.warning("redis_unavailable", error=type(error).__name__, effect="this replica goes on in memory")
            self._warned = True

    async def _identify(self) -> None:
        """Take on the secret that all replicas name their tenants by, or be the first to give one."""
        known: Any = await self._redis.get("omnia:identity")
        if known is None:
            await self._redis.set("omnia:identity", self._tenants.secret, nx=True, ex=IDENTITY_LASTS)
            known = await self._redis.get("omnia:identity")
        self._tenants.adopt(known or self._tenants.secret)  # a full Redis may have let it go again

    async def _flush(self, tenant: Tenant) -> None:
        while tenant.log.unsent:
            await self._add(tenant, tenant.log.unsent[0])
            tenant.log.unsent.popleft()

    async def _add(self, tenant: Tenant, event: Event, body: bytes = b"") -> None:
        name, lasts = _stream(tenant), max(self._lasts, WINDOW)
        oldest = int(tenant.log.seen.partition("-")[0]) - lasts * 1000  # milliseconds by Redis's own clock
        async with self._redis.pipeline() as pipe:
            if isinstance(event, Learned) and event.body:
                pipe.set(event.body, body, ex=self._lasts)
            pipe.xadd(name, {"by": self._me, "event": _ENCODE(event)}, minid=max(0, oldest), approximate=True)
            pipe.expire(name, lasts)
            *_, id_, _ = await pipe.execute()
        if isinstance(event, Wrote):
            tenant.log.wrote = id_.decode()
        if self._warned:
            log.info("redis_back")
        self._warned = False  # now that it takes values again: a full one still answers reads

    def _learn(self, tenant: Tenant, event: Learned, body: bytes | None) -> None:
        if event.quota:
            tenant.quota.take(event.quota, self._clock())
        if event.size:
            tenant.learn(event.read.kind, event.size, event.at)
        outdated = event.read.kind not in {"agent", "agents"} and event.base != tenant.log.wrote
        if body is None or outdated:
            return
        with contextlib.suppress(UpstreamError):  # read by another version of the gateway
            listing = event.read.decode(body)
            tenant.memory.hold(event.read, listing, min(event.at, self._clock()), len(body))


def _decoded(fields: dict[bytes, bytes]) -> Event | None:
    try:
        return _EVENT.decode(fields.get(b"event", b""))
    except msgspec.DecodeError:
        return None  # of another version of the gateway


def _stream(tenant: Tenant) -> str:
    return f"omnia:{tenant.name}:log"
