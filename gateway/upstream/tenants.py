"""What the operations of one API key share, and what each operation spends.

`client` looks a key's `Tenant` up for every operation. A tenant is named by a keyed hash of the key,
never by the key itself, and nothing of one tenant can be reached through another. In memory, bounded.
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
from gateway.upstream.resources import ListSizes

MAX_TENANTS = 10_000
"""Tenants remembered at once; the one longest unseen is forgotten."""

REFUSALS = 3
"""Responses in a row with another workspace, after which it is believed."""


class ReplicaLog:
    """How far this replica has read the log that all replicas of a tenant share (`redis_sync`)."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held while the log is read, or told of writes."""
        self.synced = float("-inf")
        """When the last complete reading began, in the event loop's time."""
        self.unsent: list[Any] = []
        """Writes that the log does not tell of yet, oldest first."""
        self.restart("")

    def restart(self, name: str) -> None:
        """Begin a log of which nothing is known."""
        self.name = name
        self.seen = "0"
        """Id of the last entry read."""
        self.wrote = ""
        """Id of the last entry read that tells of a write."""
        self.told = ""
        """Id of the entry that tells of this replica's last write, until it is read."""


class OwnersTold:
    """What one list tells of its rows' owners."""

    def __init__(self) -> None:
        self.told: bool | None = None
        """Whether rows that were listed lately had an owner id or null; None if unknown."""
        self.silence_means_none: bool | None = None
        """Whether rows listed without an owner id have no owner; False if one had one, None if unknown."""


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
    """Reads in flight, remembered answers, quota and list sizes of one API key.

    Args:
        digest: of the key; stays in this process.
        name: a keyed hash, for the log and for Redis.
        cache_size: of all tenants' remembered answers.
    """

    def __init__(self, digest: bytes, name: str, cache_size: CacheSize) -> None:
        self.digest = digest
        self.name = name
        self.in_flight: dict[object, Any] = {}
        """Reads under way that others may join, by target (`client.Call`)."""
        self.writes = 0
        """Writes so far: a response that was requested before one must not be remembered after it."""
        self.cache = Cache(cache_size)
        self.log = ReplicaLog()
        self.quota = Quota()
        self.answered = False
        """Whether the upstream has answered a call with this key, so that it is no made-up one."""
        self.owners: defaultdict[str, OwnersTold] = defaultdict(OwnersTold)
        """What lists tell of their rows' owners, by resource."""
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
        """Forget every remembered answer, because writes may have been missed."""
        self.forget_reads()
        self.cache.clear()


class Tenants:
    """The tenants of now and of late, by a digest of their API keys.

    Concurrent operations of one key find one tenant; only one that the upstream has answered is kept beyond them, so
    that made-up keys push nobody out.

    Args:
        max_bytes: that all tenants' remembered answers may take together.
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
        """Remember a tenant that the upstream knows; the one longest unheard of is forgotten."""
        tenant.answered = True
        self._kept[tenant.digest] = tenant
        self._kept.move_to_end(tenant.digest)
        if len(self._kept) > MAX_TENANTS:
            self._kept.popitem(last=False)


def name_of(digest: bytes, secret: bytes) -> str:
    """Return a tenant's name, which tells nothing of its key to who does not know the secret."""
    return hashlib.blake2b(digest, key=secret, digest_size=16).hexdigest()
