"""What the operations of one API key share, and what each operation spends.

`client` looks a key's `Tenant` up for every operation. A tenant is named by a keyed hash of the key,
never by the key itself, and nothing of one tenant can be reached through another. In memory, bounded.
"""

import hashlib
import secrets
from collections import OrderedDict

import msgspec

from gateway.planner import Size
from gateway.upstream.cache import Flights
from gateway.upstream.quota import Quota

MAX_TENANTS = 10_000
"""Tenants remembered at once; the one longest unseen is forgotten."""
SIZES_LAST = 300
"""Seconds for which the size of a list is believed; a wrong one costs a call, never a wrong answer."""


class Saved(msgspec.Struct):
    """REST calls an operation did without, and why (README, "What a query costs")."""

    swept: int = 0
    primed: int = 0
    coalesced: int = 0


class Bill(msgspec.Struct):
    """What one operation has cost: REST calls sent, and saved."""

    spent: int = 0
    saved: Saved = msgspec.field(default_factory=Saved)

    @property
    def touched(self) -> bool:
        """Whether the upstream, or what is known of it, was asked at all."""
        return bool(self.spent or any(msgspec.structs.astuple(self.saved)))


class Tenant:
    """Reads in flight, quota and list sizes of one API key."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.flights = Flights()
        self.quota = Quota()
        self._sizes: dict[str, tuple[Size, float]] = {}

    def size(self, listing: str, now: float) -> Size | None:
        """Return the size of a whole list as last seen, or None where that is too long ago."""
        size, seen = self._sizes.get(listing, (None, 0.0))
        return size if 0 <= now - seen < SIZES_LAST else None

    def learn(self, listing: str, size: Size, now: float) -> None:
        """Remember the size of a whole list."""
        self._sizes[listing] = size, now


class Tenants:
    """The tenants seen lately, by a hash keyed with a secret of this process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()

    def __getitem__(self, api_key: str) -> Tenant:
        name = hashlib.blake2b(api_key.encode(), key=self._secret, digest_size=16).hexdigest()
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name)
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(name)
        return tenant
