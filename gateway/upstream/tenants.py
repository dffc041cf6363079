"""What the operations of one API key share: cache, requests in flight, quota, and what is known of its lists.

A tenant is named by a keyed hash of its API key, never by the key. Nothing of one tenant can be reached through
another.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from gateway.upstream import errors
from gateway.upstream.cache import Cache, CacheSize
from gateway.upstream.models import Listing
from gateway.upstream.quota import Quota
from gateway.upstream.resources import SIZES_LAST, ListSizes

MAX_TENANTS = 10_000
"""Tenants remembered at once; the least recently used one is forgotten."""

REFUSALS = 3
"""Responses in a row with another workspace, after which it is believed."""


class ReplicaLog:
    """Position of this replica in the log that all replicas of a tenant share (`redis_sync`)."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held while the log is read, or writes are added to it."""
        self.synced = float("-inf")
        """When the last complete reading started, in the event loop's time."""
        self.unsent: list[Any] = []
        """Writes that are not in the log yet, oldest first."""
        self.restart("")

    def restart(self, name: str) -> None:
        """Start at the beginning of a new log."""
        self.name = name
        self.seen = "0"
        """Id of the last entry read."""
        self.wrote = ""
        """Id of the last write read."""
        self.told = ""
        """Id of the last write that this replica added, until it is read."""


class OwnersTold:
    """What is known of the owner ids in one list."""

    def __init__(self) -> None:
        self.told: bool | None = None
        """Whether rows that were listed lately had an owner id or null; None if unknown."""
        self.silence_means_none: bool | None = None
        """Whether rows listed without an owner id have no owner; False if one had one, None if unknown."""
        self.learned_at = 0.0
        """When `silence_means_none` was learned (unix seconds)."""

    def forget_old(self, now: float) -> None:
        """Forget what silence means if that was learned too long ago."""
        if not 0 <= now - self.learned_at < SIZES_LAST:
            self.silence_means_none = None


class KnownWorkspace:
    """The workspace that responses to one API key name; the vendor binds a key to one.

    Responses to two tenants' requests for the same page differ in nothing else, if the upstream does not repeat request
    ids.
    """

    def __init__(self) -> None:
        self._id: str | None = None
        self._refused = 0

    def check(self, listing: Listing[Any], *, verified: bool) -> None:
        """Compare a response's workspace with the known one; a `verified` response, with its own request id, tells it.

        Only the first row is read, unless it names another workspace. After REFUSALS in a row the new one is believed,
        since the first response may have been the wrong one.

        Raises:
            errors.Mismatch: it is the response to another tenant's call.
        """
        rows = listing.owners or listing.rows
        found = getattr(rows[0], "workspace_id", None) if rows else None
        if found is None:
            return
        known = self._id
        if known is None or found == known or verified:
            self._id, self._refused = found, 0
        elif all(row.workspace_id != known for row in rows):  # else one response names several
            self._refused += 1
            if self._refused == REFUSALS:
                self._id, self._refused = found, 0
            raise errors.Mismatch(field="workspaceId")


class Tenant:
    """Requests in flight, cache, quota and list sizes of one API key.

    Args:
        digest: hash of the key; stays in this process.
        name: a keyed hash, for the log and for Redis.
        cache_size: of all tenants' caches.
    """

    def __init__(self, digest: bytes, name: str, cache_size: CacheSize) -> None:
        self.digest = digest
        self.name = name
        self.in_flight: dict[object, Any] = {}
        """Reads in flight that other operations may join, by target (`client.Call`)."""
        self.writes = 0
        """Writes so far: a response that was requested before one must not be remembered after it."""
        self.cache = Cache(cache_size)
        self.log = ReplicaLog()
        self.quota = Quota()
        self.answered = False
        """Whether the upstream has accepted the key."""
        self.owners: defaultdict[str, OwnersTold] = defaultdict(OwnersTold)
        """By resource."""
        self.sizes = ListSizes()
        self.workspace = KnownWorkspace()

    def forget_reads(self) -> None:
        """Let reads that start from now on join none that is in flight, because a write has begun."""
        self.writes += 1
        self.in_flight.clear()

    def forget(self, kind: str, id_: str | None, owners: Sequence[str | None]) -> None:
        """Forget what a write made stale, here or at another replica; see `cache.Cache.written`."""
        self.forget_reads()
        self.cache.written(kind, id_, owners)

    def forget_everything(self) -> None:
        """Forget every cached response, because writes may have been missed."""
        self.forget_reads()
        self.cache.clear()


class Tenants:
    """The current and recent tenants, by a hash of their API keys.

    Concurrent operations of one key share one tenant. It is kept beyond them only if the upstream has accepted the key,
    so that invalid keys do not displace valid ones.

    Args:
        max_bytes: that all tenants' caches may take together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._cache_size = CacheSize(max_bytes)
        self._secret = secrets.token_bytes(32)
        self._in_use: WeakValueDictionary[bytes, Tenant] = WeakValueDictionary()
        self._kept: OrderedDict[bytes, Tenant] = OrderedDict()

    def __getitem__(self, api_key: str) -> Tenant:
        digest = hashlib.blake2b(api_key.encode(), digest_size=32).digest()
        tenant = self._in_use.get(digest)
        if tenant is None:
            tenant = self._in_use[digest] = Tenant(digest, name_of(digest, self._secret), self._cache_size)
        if tenant.answered:
            self.keep(tenant)
        return tenant

    def keep(self, tenant: Tenant) -> None:
        """Keep a tenant whose key the upstream has accepted; the least recently used one is forgotten."""
        tenant.answered = True
        self._kept[tenant.digest] = tenant
        self._kept.move_to_end(tenant.digest)
        if len(self._kept) > MAX_TENANTS:
            self._kept.popitem(last=False)


def name_of(digest: bytes, secret: bytes) -> str:
    """Return a tenant's name; without the secret it does not reveal the key."""
    return hashlib.blake2b(digest, key=secret, digest_size=16).hexdigest()
