"""What the operations of one API key share, and what each operation spends.

`client` looks a key's `Tenant` up for every operation. A tenant is named by a keyed hash of the key,
never by the key itself, and nothing of one tenant can be reached through another. In memory, bounded.
"""

import asyncio
import hashlib
import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from gateway.upstream.cache import Budget, Memory
from gateway.upstream.inflight import Flights
from gateway.upstream.paging import Size
from gateway.upstream.quota import Quota

MAX_TENANTS = 10_000
"""Tenants remembered at once; the one longest unseen is forgotten."""
SIZES_LAST = 300
"""Seconds for which the size of a list is believed; a wrong one costs a call, never a wrong answer."""


class Saved(msgspec.Struct):
    """REST calls an operation did without, and why (README, "What a query costs")."""

    swept: int = 0
    """Objects found on the pages of a list, less the pages read for them."""
    primed: int = 0
    """Objects that an answer of the same operation had brought along."""
    coalesced: int = 0
    """Answers shared with an operation that was already asking."""
    cached: int = 0
    """Answers remembered from earlier operations."""


class Bill(msgspec.Struct):
    """What one operation has cost: REST calls sent, and saved."""

    spent: int = 0
    saved: Saved = msgspec.field(default_factory=Saved)

    @property
    def touched(self) -> bool:
        """Whether the upstream, or what is known of it, was asked at all."""
        return bool(self.spent or any(msgspec.structs.astuple(self.saved)))


class ReplicaLog:
    """How far this replica has read the log that all replicas of a tenant share (`replicas`)."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.seen = "0"
        """The last entry read."""
        self.wrote = ""
        """The last entry that tells of a write."""
        self.unsent: deque[Any] = deque(maxlen=1000)
        """Writes that the log does not tell of yet."""


class Tenant:
    """Reads in flight, remembered answers, quota and list sizes of one API key."""

    def __init__(self, name: str, budget: Budget) -> None:
        self.name = name
        self.flights = Flights()
        self.memory = Memory(budget)
        self.log = ReplicaLog()
        self.quota = Quota()
        self.told: bool | None = None
        """Whether numbers that were listed lately said whose they are."""
        self._sizes: dict[str, tuple[Size, float]] = {}

    def forget(self, number_id: str | None, agents: Sequence[str | None]) -> None:
        """Forget what a write made stale, here or at another replica; see `cache.Memory.wrote`."""
        self.flights.forget()
        self.memory.wrote(number_id, agents)

    def size(self, listing: str, now: float) -> Size | None:
        """Return the size of a whole list as last seen, or None where that is too long ago."""
        size, seen = self._sizes.get(listing, (None, 0.0))
        return size if 0 <= now - seen < SIZES_LAST else None

    def learn(self, listing: str, size: Size, now: float) -> None:
        """Remember the size of a whole list; a limit once seen outlasts one that is only assumed."""
        known = self.size(listing, now)
        if known and not size.sure:
            size = known._replace(total=size.total)
        self._sizes[listing] = size, now


class Tenants:
    """The tenants of now and of late, by a hash keyed with a secret of this process, or of all replicas.

    Concurrent operations of one key find one tenant; only one that the upstream has answered is kept beyond them, so
    that made-up keys push nobody out.

    Args:
        max_bytes: that all tenants' remembered answers may take together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._budget = Budget(max_bytes)
        self.secret = secrets.token_bytes(32)
        self._in_use: WeakValueDictionary[str, Tenant] = WeakValueDictionary()
        self._kept: OrderedDict[str, Tenant] = OrderedDict()

    def __getitem__(self, api_key: str) -> Tenant:
        name = hashlib.blake2b(api_key.encode(), key=self.secret, digest_size=16).hexdigest()
        tenant = self._in_use.get(name)
        if tenant is None:
            tenant = self._in_use[name] = Tenant(name, self._budget)
        return tenant

    def keep(self, tenant: Tenant) -> None:
        """Remember a tenant that the upstream knows; the one longest unheard of is forgotten."""
        self._kept[tenant.name] = tenant
        self._kept.move_to_end(tenant.name)
        if len(self._kept) > MAX_TENANTS:
            self._kept.popitem(last=False)

    def adopt(self, secret: bytes) -> None:
        """Name tenants by the secret that all replicas share; what was known under other names is forgotten."""
        if secret != self.secret:
            self.secret = secret
            self._in_use.clear()
            self._kept.clear()
