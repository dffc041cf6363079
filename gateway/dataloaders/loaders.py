"""The loaders of one operation: every object is requested at most once, in the fewest REST calls.

Loaders are made from `upstream.resources`: objects by id, all rows of an owner, pages of a list. A batch first takes
what the operation has seen, then does what `planner` says: a list scan, or one point read for each key. Everything
that a response carries is remembered; a write forgets what it made stale. Failures are values: one key's failure is
its own.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from aiodataloader import DataLoader
from msgspec import UNSET

from gateway.dataloaders.identity_map import SAMPLES, IdentityMap, SpeculationGuard
from gateway.upstream import errors
from gateway.upstream.client import Session
from gateway.upstream.models import Body, Listing, Row, RowRef, Unreadable
from gateway.upstream.resources import MAX_LIMIT, RESOURCES, PageRequest, Read, Resource, Size, Write

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Fetch = Callable[[list[K]], Coroutine[Any, Any, Sequence[V | Exception]]]

TURNS = 3
"""Turns of the event loop for which a batch takes in keys: resolvers of one level start within so many."""

_GIVEN_UP = "The call to the upstream was given up; try again later."


class Loader(DataLoader[K, V]):
    """A DataLoader for one operation: keys of the same turns of the event loop are one batch, each fetched once.

    Unlike its parent it makes no future for each key, and a waiter that is cancelled leaves the batch to the others. A
    batch ends with its operation.

    Args:
        fetch: returns the values of distinct keys, in order; one key's failure is its value.
        operation: the task that no batch outlives; the current one if None.
    """

    def __init__(self, fetch: Fetch[K, V], operation: "asyncio.Task[Any] | None" = None) -> None:
        operation = operation or asyncio.current_task()
        assert operation  # noqa: S101 - nothing loads outside a task
        super().__init__(fetch, loop=operation.get_loop())  # type: ignore[arg-type]  # failures are values
        self._ended_operation = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.clear_all()
        operation.add_done_callback(self._end)

    def clear_all(self) -> Self:
        """Forget every value; batches in flight go on for those who wait."""
        self._known: dict[K, V | Exception] = {}
        self._in_flight: dict[K, asyncio.Task[None]] = {}
        self._open: tuple[dict[K, None], asyncio.Task[None]] | None = None
        return self

    def clear(self, key: K) -> Self:
        """Forget one value."""
        self._known.pop(key, None)
        self._in_flight.pop(key, None)
        return self

    def prime(self, key: K, value: V | Exception) -> Self:
        """Remember a value, unless the key has one."""
        self._known.setdefault(key, value)
        return self

    def requested(self, key: K) -> bool:
        """Tell whether a key's value is known or in flight."""
        return key in self._known or key in self._in_flight

    def known(self, key: K, default: V | None | Exception) -> V | None | Exception:
        """Return a key's value if it is known."""
        return self._known.get(key, default)

    async def load(self, key: K) -> V:  # type: ignore[override]  # no future of its own
        """Return a key's value.

        Raises:
            Exception: the key's failure.
        """
        try:
            (value,) = await self.load_batch((key,))
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            raise errors.Unavailable(_GIVEN_UP) from None  # the operation has ended
        if isinstance(value, Exception):
            raise value
        return value

    async def load_batch(self, keys: Sequence[K]) -> list[V | Exception]:
        """Return the keys' values in order, failures as values.

        Raises:
            Exception: the batch failed as a whole; it is not remembered.
        """
        known, in_flight = self._known, self._in_flight
        batches = {in_flight.get(key) or self._join(key) for key in keys if key not in known}
        if batches:
            await asyncio.wait(batches)  # unlike await, it leaves the tasks alone if it is cancelled
        for batch in batches:
            batch.result()
        return [known[key] for key in keys]

    def _join(self, key: K) -> "asyncio.Task[None]":
        if self._open is None:
            if self._ended_operation:
                raise asyncio.CancelledError
            keys: dict[K, None] = {}
            task = asyncio.ensure_future(self._run(self.batch_load_fn, keys, self._known, self._in_flight))
            self._tasks.add(task)  # the event loop holds no task itself
            task.add_done_callback(self._ended)
            self._open = keys, task
        keys, task = self._open
        keys[key] = None
        self._in_flight[key] = task
        return task

    async def _run(
        self,
        fetch: Fetch[K, V],
        keys: dict[K, None],
        known: dict[K, V | Exception],
        in_flight: dict[K, "asyncio.Task[None]"],
    ) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self._open and self._open[0] is keys:
            self._open = None
        values: Sequence[V | Exception]
        try:
            values = await fetch(list(keys))
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            # a call that was cancelled from below would leave its waiters waiting for ever
            values = [errors.Unavailable(_GIVEN_UP)] * len(keys)
        finally:
            for key in keys:
                in_flight.pop(key, None)
        known.update(zip(keys, values, strict=True))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it, and nobody may be left to wait

    def _end(self, _: object) -> None:
        """End with the operation, and break a cycle that holds megabytes of responses."""
        for task in self._tasks:
            task.cancel()
        self._ended_operation, self._open = True, None
        del self.batch_load_fn


class Ahead(NamedTuple):
    """Rows of an owned resource that will be wanted: of how many owners at most, and whether of exactly so many."""

    resource: Resource[Any]
    at_most: int
    sure: bool


class Loaders:
    """Everything that one operation may request from the upstream."""

    def __init__(self, session: Session, operation: "asyncio.Task[Any]") -> None:
        self.session = session
        self._operation = operation
        self._maps: dict[str, IdentityMap] = {}
        guard = SpeculationGuard()
        for name, resource in RESOURCES.items():
            owners = self._maps[resource.owner.name] if resource.owner else None
            self._maps[name] = IdentityMap(resource, session, guard, owners)
        self._loaders: dict[tuple[str, str], Loader[str, Any]] = {}
        self._refs: set[tuple[str, str]] = set()
        self._written: set[tuple[str, str]] = set()
        """Objects that were written, whose response may not say whose they are."""
        operation.add_done_callback(self._end)

    def objects(self, resource: Resource[Row]) -> Loader[str, Row | None]:
        """Objects by id; None for one that is not there, or not for this key."""
        return self._loader("objects", resource, self._load_objects)

    def owned(self, resource: Resource[Row]) -> Loader[str, list[Row] | None]:
        """All rows of an owner, by its id; None if the owner is not there."""
        return self._loader("owned", resource, self._load_owned)

    def size(self, resource: Resource[Any]) -> Size | None:
        """Return how large the unfiltered list is known to be."""
        return self.session.tenant.sizes.get(resource.name, self.session.clock())

    async def pages(
        self,
        resource: Resource[Row],
        requests: Sequence[PageRequest],
        filters: Mapping[str, str | None] = {},
        ahead: Ahead | None = None,
    ) -> list[Listing[Row]]:
        """Load pages of a list; their rows are known from then on.

        If rows of theirs will be wanted (`ahead`), a list scan for those starts together with them.

        Raises:
            Exception: the first failure.
        """
        known = self._maps[resource.name]
        if ahead and not self.session.remembers and (later := self._maps[ahead.resource.name]).tells_owners:
            next_scan = later.look_ahead(ahead.at_most, sure=ahead.sure)
            known.start(requests, filters)  # first, if only one of them can be afforded
            later.start(next_scan)
        listings: list[Listing[Row]] = []
        for result in await known.pages(requests, filters):
            if isinstance(result, Exception):
                raise result
            listings.append(result)
        known.see_pages(listings, whole=not any(filters.values()))
        return listings

    async def owner_ids(self, resource: Resource[Any], rows: Sequence[Any]) -> Sequence[str | Exception | None]:
        """Return the ids of rows' owners; those that a row leaves out are found as `_load_owner_ids` says."""
        ids: list[Any] = [row.owner_id for row in rows]
        if UNSET not in ids:
            return ids
        silent = [row.id for row in rows if row.owner_id is UNSET]
        found = dict(zip(silent, await self._owner_ids(resource).load_batch(silent), strict=True))
        return [found[row.id] if id_ is UNSET else id_ for row, id_ in zip(rows, ids, strict=True)]

    def ref(self, resource: Resource[Any], id_: str) -> RowRef:
        """Return an object of which only the id is wanted, without a call."""
        if id_ not in self._maps[resource.name].rows and (resource.name, id_) not in self._refs:
            self._refs.add((resource.name, id_))
            self.session.usage.saved.primed += 1
        return RowRef(id_)

    async def write(self, resource: Resource[Any], id_: str | None, body: Body | None) -> Any:
        """Create (without an id), update, or delete (without a body) an object, and return its row, if it has one.

        The row is known from then on. What the write may have made stale is not, even if it failed.
        """
        known = self._maps[resource.name]
        try:
            written = await self.session.write(Write(resource.name, id_, body))
        finally:
            for each in self._maps.values():
                each.forget_pages()
            for name in (resource.name, *resource.stales):
                stale = self._maps[name]
                stale.forget([id_] if stale is known else [*stale.rows])
            for loader in self._loaders.values():
                loader.clear_all()
        known.see_listing(written)
        self._written.update((resource.name, row.id) for row in written.rows)
        return written.rows[0] if written.rows else None

    def _loader(
        self,
        name: str,
        resource: Resource[Any],
        fetch: Callable[[Resource[Any], list[str]], Coroutine[Any, Any, list[Any]]],
    ) -> Loader[str, Any]:
        key = name, resource.name
        if key not in self._loaders:
            self._loaders[key] = Loader(partial(fetch, resource), self._operation)
        return self._loaders[key]

    def _owner_ids(self, resource: Resource[Any]) -> Loader[str, Any]:
        """Ids of owners of rows that do not say, by the rows' ids."""
        return self._loader("owner_ids", resource, self._load_owner_ids)

    def _end(self, _: object) -> None:
        for known in self._maps.values():
            known.release()

    async def _load_objects(self, resource: Resource[Any], ids: list[str]) -> list[Any]:
        """Load a batch of ids from what was seen, by a list scan, or by point reads, whichever costs least."""
        owned = [each for name, each in self._loaders if name == "owned" and RESOURCES[each].owner is resource]
        gone = {id_ for name in owned for id_ in ids if self._loaders["owned", name].known(id_, []) is None}
        known, usage = self._maps[resource.name], self.session.usage
        rows = known.rows
        unseen = [id_ for id_ in ids if id_ not in rows and id_ not in gone]
        usage.saved.primed += len(ids) - len(unseen) - len(gone)
        for id_ in unseen if self.session.remembers else ():
            if listing := self.session.recall(resource.object(id_)):
                known.see(listing.rows)
        unseen = [id_ for id_ in unseen if id_ not in rows]
        pages, failed = 0, None
        try:
            pages = await known.scan(len(unseen), unseen)
        except errors.UpstreamError as error:
            failed = error
        missing = [id_ for id_ in unseen if id_ not in rows]
        if failed is None:
            usage.saved.swept += max(0, len(unseen) - len(missing) - pages)
        room = max(1, len(unseen) - pages) if pages and known.complete else len(missing)
        single = await self._doubted(resource.object, missing, room, failed)
        return [None if id_ in gone else rows.get(id_) or single.get(id_) for id_ in ids]

    async def _load_owner_ids(self, resource: Resource[Any], ids: list[str]) -> list[Any]:
        """Find the owners of rows that were listed, or returned by a write, without one.

        The list may leave out null, or leave out the key whatever it is: reading the object tells. If there are more
        than SAMPLES and other rows of the list do say, that many stand for all, and what they tell is remembered for
        a while; else each is read.
        """
        known = self._maps[resource.name]
        facts = known.owner_facts
        found: dict[str, Any] = {id_: _no_id() for id_ in ids if isinstance(id_, Unreadable)}
        found |= await self._read_owners(resource, [id_ for id_ in ids if (resource.name, id_) in self._written])
        unknown = [id_ for id_ in ids if id_ not in found]
        few = SAMPLES if facts.told and facts.silence_means_none is None else len(unknown)
        for part in (unknown[:few], unknown[few:]):
            if not facts.silence_means_none or len(unknown) <= SAMPLES:
                found |= (read := await self._find_owners(resource, part))
                known.learn_silence(read.values())
        return [found.get(id_) for id_ in ids]

    async def _find_owners(self, resource: Resource[Any], ids: Sequence[str]) -> dict[str, Any]:
        """Find rows' owners from all owners' rows if those cost less, else read each row."""
        owned, calls = await self._owned_by_all(resource, len(ids))
        missing = [id_ for id_ in ids if id_ not in owned]
        if not owned:
            return await self._read_owners(resource, missing)
        rows = await self._doubted(resource.object, missing, max(1, len(ids) - calls), None)
        return {id_: owned[id_] if id_ in owned else getattr(rows[id_], "owner_id", rows[id_]) for id_ in ids}

    async def _owned_by_all(self, resource: Resource[Any], keys: int) -> tuple[dict[str, str], int]:
        """Read all owners' rows if that costs less than so many calls; return the rows' owners, and the calls."""
        assert resource.owner  # noqa: S101 - only owned rows have owners
        owners, session, calls = self._maps[resource.owner.name], self.session, 0
        if keys > SAMPLES and not owners.complete and (owners.size is None or owners.size.total < keys - 1):
            calls = 1
            with contextlib.suppress(errors.UpstreamError):
                await self.pages(resource.owner, [PageRequest(1, MAX_LIMIT)])
        ids = list(owners.listed) if owners.complete else []
        if not ids or calls + len(ids) >= min(keys, session.affordable):
            return {}, calls
        listed = zip(ids, await self.owned(resource).load_batch(ids), strict=True)
        return {row.id: id_ for id_, rows in listed if isinstance(rows, list) for row in rows}, calls + len(ids)

    async def _read_owners(self, resource: Resource[Any], ids: Sequence[str]) -> dict[str, Any]:
        rows = await self._each(resource.object, ids, None)
        return {id_: getattr(row, "owner_id", row) for id_, row in rows.items()}

    async def _load_owned(self, resource: Resource[Any], ids: list[str]) -> list[Any]:
        """Load a batch of owners' rows from the whole list, or by one call for each owner."""
        assert resource.owner  # noqa: S101 - only owned rows have owners
        known, owners, owner = self._maps[resource.name], self._maps[resource.owner.name], self.objects(resource.owner)
        room, failed = len(ids), None
        requested = [id_ for id_ in ids if id_ not in owners.rows and owner.requested(id_)]
        there = await owner.load_batch(requested)  # an owner that is not there has no rows to ask for
        found: dict[str, Any] = {id_: None for id_, row in zip(requested, there, strict=True) if row is None}
        found |= {id_: _no_id() for id_ in ids if isinstance(id_, Unreadable)}
        found |= await self._listed_of(resource, [id_ for id_ in ids if id_ not in found], len(ids))
        self.session.usage.saved.primed += len(found)
        for id_ in ids if self.session.remembers else ():
            if id_ not in found and (listing := self.session.recall(resource.owned_by(id_))):
                known.see_listing(listing)
                found[id_] = listing.rows
        try:
            scanned, room = await self._scan_owners(resource, [id_ for id_ in ids if id_ not in found])
            found |= scanned
        except errors.UpstreamError as error:
            failed = error
        missing = [id_ for id_ in ids if id_ not in found]
        seen = [id_ for id_ in missing if id_ in owners.rows]
        strangers = [id_ for id_ in missing if id_ not in owners.rows]
        if seen and strangers:
            for single in await asyncio.gather(
                self._each(resource.owned_by, seen, failed), self._doubted(resource.owned_by, strangers, room, failed)
            ):
                found |= single
        else:
            found |= await self._each(resource.owned_by, seen, failed)
            found |= await self._doubted(resource.owned_by, strangers, room, failed)
        return [found[id_] for id_ in ids]

    async def _scan_owners(self, resource: Resource[Any], ids: list[str]) -> tuple[dict[str, list[Any]], int]:
        """Find owners' rows on the whole list, if that is worth its pages.

        A row may name an owner that is gone, so owners that were not seen are looked for on their own list first;
        either list may cost half of the point reads. Also return how many point reads are left for those not found.
        """
        assert resource.owner  # noqa: S101 - only owned rows have owners
        known, owners = self._maps[resource.name], self._maps[resource.owner.name]
        wanted = frozenset(ids)
        before = len(wanted - owners.rows.keys())
        owner_pages = await owners.scan(before // 2, wanted)
        seen = len(wanted & owners.rows.keys())
        pages = await known.scan(seen)
        scanned = await self._listed_of(resource, ids, max(1, seen - pages))
        self.session.usage.saved.swept += max(0, len(scanned) - owner_pages - pages)
        return scanned, max(1, before - owner_pages) if owners.complete else before

    async def _listed_of(self, resource: Resource[Any], ids: Sequence[str], room: int) -> dict[str, list[Any]]:
        """Return the rows of owners as `IdentityMap.owned` does, if rows without an owner are known to have none.

        `room` calls and one more may be sent to find that out; too few of them would tell nothing.
        """
        known = self._maps[resource.name]
        if not known.complete:
            return {}
        owned, facts, silent = known.owned(ids), known.owner_facts, known.silent
        if not silent or (facts.silence_means_none and len(silent) > SAMPLES):
            return owned
        samples = silent[:SAMPLES]
        if not facts.told or facts.silence_means_none is False or room + 1 < len(samples):
            return {}
        none = set(await self._owner_ids(resource).load_batch(samples)) == {None}
        return owned if none else {}

    async def _doubted(
        self, read: Callable[[str], Read], ids: Sequence[str], room: int, failed: Exception | None
    ) -> dict[str, Any]:
        """Read ids that a list did not have one by one, while there is `room`.

        If a whole list is right about as many as that, it is believed about the rest: they are not there.
        """
        single = await self._each(read, ids[:room], failed)
        if any(value is not None for value in single.values()):
            return single | await self._each(read, ids[room:], failed)
        return dict.fromkeys(ids) | single

    async def _each(self, read: Callable[[str], Read], ids: Sequence[str], failed: Exception | None) -> dict[str, Any]:
        """Send one call for each id, or none if all `failed`; one that is not there, or not for this key, is None."""
        if not ids:
            return {}
        found: dict[str, Any] = {}
        reads = [read(id_) for id_ in ids]
        known = self._maps[reads[0].kind]
        for id_, asked, result in zip(ids, reads, await self.session.read(reads, failed), strict=True):
            if isinstance(result, Exception):
                found[id_] = None if isinstance(result, errors.NotFound) else result
            else:
                known.see_listing(result)
                found[id_] = result.rows if asked.owner is not None else result.rows[0]
        return found


def _no_id() -> errors.BadResponse:
    return errors.BadResponse("The upstream's answer left out the id that this is asked for with; try again later.")
