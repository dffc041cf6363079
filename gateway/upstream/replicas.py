"""One tenant's knowledge shared by all replicas of the gateway, through one Redis stream for each tenant.

`client` calls `sync` when an operation begins and `publish` when it has learned or written something. A stream is
the log of what replicas have read and written; each fills its own memory from it, so an answer read by one is
known to all and a write by one is seen at the next read of another. Redis is never needed: where it is
slow, full or gone the gateway goes on in memory, with one warning. Values carry no API key and expire. Chosen
for it: redis-py, kept by Redis itself, with an asyncio client; Valkey speaks the same protocol.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.planner import Size
from gateway.upstream.quota import WINDOW, QuotaState
from gateway.upstream.reads import Read
from gateway.upstream.tenants import Tenant, Tenants

TIMEOUT = 0.1
"""Seconds that Redis may take for one command; a REST call takes longer."""
PAUSE = 5.0
"""Seconds without Redis after it failed."""
IDENTITY_LASTS = 30 * 24 * 3600
"""Seconds for which the secret that names tenants outlives the last replica."""

DOCUMENT_LASTS = 7 * 24 * 3600
"""Seconds for which a persisted document is kept; a client that needs it later sends it once more."""

log = structlog.get_logger("gateway")


class Learned(msgspec.Struct, tag=True):
    """An answer: what was asked, its body (empty where answers are not remembered), and what it told of size and quota.

    `base` is the write that its reader knew of when it asked: the answer is older than any later one.
    """

    read: Read
    body: bytes
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
        clock: unix seconds.
    """

    def __init__(self, url: str, tenants: Tenants, *, lasts: float, remember: bool, clock: Callable[[], float]) -> None:
        self.failures = 0
        """Commands that failed, for the metric."""
        self._redis = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
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

    async def sync(self, tenant: Tenant) -> None:
        """Take in what other replicas have learned and written since the last time."""

        async def read() -> None:
            await self._identify()
            await self._flush(tenant)
            entries: Any = await self._redis.xrange(_stream(tenant), min=f"({tenant.log.seen}")
            for id_, fields in entries:
                tenant.log.seen = id_.decode()
                self._apply(tenant, fields.get(b"event", b""), own=fields.get(b"by") == self._me)

        async with tenant.log.lock:
            await self._guarded(read)

    async def learned(self, tenant: Tenant, event: Learned) -> None:
        """Tell the others of an answer; it is lost where Redis does not take it."""
        if not self._remember:
            event.body = b""
        await self._guarded(lambda: self._add(tenant, event))

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
        loop = asyncio.get_running_loop()
        if loop.time() < self._resume:
            return
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                await command()
        except (RedisError, OSError, TimeoutError) as error:
            self.failures += 1
            self._resume = loop.time() + PAUSE
            if not self._warned:
                log.warning("redis_unavailable", error=type(error).__name__, effect="this replica goes on in memory")
            self._warned = True
        else:
            if self._warned:
                log.info("redis_back")
            self._warned = False

    async def _identify(self) -> None:
        """Take on the secret that all replicas name their tenants by, or be the first to give one."""
        known = await self._redis.get("omnia:identity")
        if known is None:
            await self._redis.set("omnia:identity", self._tenants.secret, nx=True, ex=IDENTITY_LASTS)
            known = await self._redis.get("omnia:identity")
        if isinstance(known, bytes):
            self._tenants.adopt(known)

    async def _flush(self, tenant: Tenant) -> None:
        while tenant.log.unsent:
            await self._add(tenant, tenant.log.unsent[0])
            tenant.log.unsent.popleft()

    async def _add(self, tenant: Tenant, event: Event) -> None:
        oldest = int((self._clock() - max(self._lasts, WINDOW)) * 1000)
        name = _stream(tenant)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(name, {"by": self._me, "event": _ENCODE(event)}, minid=max(0, oldest), approximate=True)
            pipe.expire(name, max(self._lasts, WINDOW))
            id_, _ = await pipe.execute()
        if isinstance(event, Wrote):
            tenant.log.wrote = id_.decode()

    def _apply(self, tenant: Tenant, encoded: bytes, *, own: bool) -> None:
        try:
            event = _EVENT.decode(encoded)
        except msgspec.DecodeError:
            return  # of another version of the gateway
        if isinstance(event, Wrote):
            tenant.log.wrote = tenant.log.seen
            if not own:
                tenant.forget(event.number_id, event.agents)
        elif not own:
            self._learn(tenant, event)

    def _learn(self, tenant: Tenant, event: Learned) -> None:
        if event.quota:
            tenant.quota.take(event.quota, self._clock())
        if event.size:
            tenant.learn(event.read.kind, event.size, event.at)
        outdated = event.read.kind not in {"agent", "agents"} and event.base != tenant.log.wrote
        if not event.body or outdated:
            return
        tenant.memory.hold(event.read, event.read.decode(event.body), event.at, len(event.body))


def _stream(tenant: Tenant) -> str:
    return f"omnia:{tenant.name}:log"
