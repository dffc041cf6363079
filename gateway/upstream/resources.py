"""The resources of the REST API: one registry from which requests, cache, loaders and events are made.

A `Resource` describes one kind of object, a `Read` one GET, and both are values. A response is decoded strictly; if
that fails, it is read row by row (`repair`). Every response is compared with its request, because a proxy may mix up
responses. Facts: the vendor's page.
"""

import asyncio
import contextlib
import enum
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Self
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.observability.logging import log
from gateway.upstream import errors, repair
from gateway.upstream.models import (
    AgentRow,
    AgentStatus,
    Body,
    Listing,
    PageBody,
    Pagination,
    PhoneNumberRow,
    PhoneNumberStatus,
    Row,
    RowRef,
    RowsBody,
)

MAX_LIMIT = 100
"""Largest `limit` of a list: GET /agents (vendor's page); GET /numbers names none and is held to the same."""
SIZES_LAST = 300
"""Seconds for which the size of a list is believed; a wrong one costs a call, never a wrong answer."""
LONG = 256 * 1024
"""Bytes of a body from which it is decoded in slices."""
SLICE = 500
"""Rows that are decoded in one turn of the event loop: about a millisecond."""
REPAIR_SLICE = 100
"""Rows that are repaired in one turn of the event loop."""

_ID = re.compile(r"[A-Za-z0-9_\-.:~@]{1,128}")
_OWNER, _EMBEDDED, _STATUS = attrgetter("owner_id"), attrgetter("embedded_owner"), attrgetter("status")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PageRequest(NamedTuple):
    """The `page` (from 1) and `limit` of one list call; it covers rows [start, stop)."""

    page: int
    limit: int

    @property
    def start(self) -> int:
        """Offset of the page's first row."""
        return (self.page - 1) * self.limit

    @property
    def stop(self) -> int:
        """Offset behind the page's last row."""
        return self.page * self.limit


class Size(NamedTuple):
    """Size of a list: rows in all, rows on a page at most, and whether that limit was seen (`sure`) or is assumed."""

    total: int
    limit: int
    sure: bool = True

    @classmethod
    def told(cls, request: PageRequest, total: int, limit: int) -> Self:
        """Return what a page tells of its list; a smaller limit than requested is the upstream's own."""
        if 0 < limit < request.limit:
            return cls(total, limit)
        return cls(total, MAX_LIMIT, sure=request.limit == MAX_LIMIT)

    @property
    def pages(self) -> int:
        """Pages that hold the whole list; an empty list still takes one call to see."""
        return max(1, -(-self.total // max(1, self.limit)))


class ListSizes:
    """The sizes of one tenant's unfiltered lists, by resource."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[int, int, float]] = {}
        """Lists whose pages ended before their total: the total they told, the rows there were, and when."""
        self._sizes: dict[str, tuple[Size, float]] = {}

    def get(self, kind: str, now: float) -> Size | None:
        """Return a list's size as last seen, or None if that is too long ago."""
        size, seen = self._sizes.get(kind, (None, 0.0))
        return size if 0 <= now - seen < SIZES_LAST else None

    def prove(self, kind: str, total: int, rows: int, now: float) -> None:
        """Remember that a list ended after so many rows though it told another total."""
        self._ends[kind] = total, rows, now
        known, seen = self._sizes.get(kind, (Size(rows, MAX_LIMIT, sure=False), 0.0))
        self._sizes[kind] = known._replace(total=rows), seen

    def disproved(self, kind: str, now: float) -> int | None:
        """Return the total that a list was found to tell wrongly, if that was lately."""
        told, _, at = self._ends.get(kind, (None, 0, 0.0))
        return told if now - at < SIZES_LAST else None

    def correct(self, kind: str, told: Pagination, rows: int, now: float) -> int:
        """Return the total that a page of so many rows tells, or what was proven if it still tells what was wrong.

        A page that has room for more rows behind the proven end, and holds none, tells the proven total itself.
        """
        wrong, end, _ = self._ends.get(kind, (None, 0, 0.0))
        stop = (told.page - 1) * told.limit + rows
        if told.total != wrong or (rows and stop > end) or self.disproved(kind, now) is None:
            self._ends.pop(kind, None)
        elif stop != end:
            return end
        elif rows < told.limit:
            told.total = end
        return told.total

    def learn(self, kind: str, size: Size, at: float) -> None:
        """Remember the size of a list as requested `at`; a limit that was seen replaces one that is assumed."""
        known, seen = self._sizes.get(kind, (size, at))
        if abs(at - seen) < SIZES_LAST:
            if at < seen:  # responses overtake each other
                size, known, at = known, size, seen
            if known.sure and not size.sure:
                size = known._replace(total=size.total)
        self._sizes[kind] = size, at


class Resource(msgspec.Struct, Generic[Row], frozen=True, eq=False, kw_only=True, dict=True):
    """One kind of object.

    Args:
        name: of its list, which is also its path.
        row: its Struct; rows with an owner have `owner_id` and `embedded_owner`.
        mark: a required key that rows of no other resource have.
        filters: query parameters of its list.
        owner: the resource whose objects own it: `/{owner.name}/{id}/{name}` lists the rows of one owner.
        owner_key: the key that holds the owner's id, in rows and in the body of a write.
        stales: names of other resources that a write to this one makes stale.
        writable: whether its objects can be written.
        created: the key of a new object's body that the response repeats, and its attribute.
        excluded: for each `status` that its list is filtered by, the values that no row can have.
    """

    name: str
    row: type[Row]
    mark: str
    filters: tuple[str, ...] = ()
    owner: "Resource[Any] | None" = None
    owner_key: str = ""
    stales: tuple[str, ...] = ()
    writable: bool = False
    created: tuple[str, str] | None = None
    excluded: Mapping[str, frozenset[enum.Enum]] = {}

    @property
    def type_name(self) -> str:
        """Name of one object, also in GraphQL."""
        return self.row.__name__.removesuffix("Row")

    def object(self, id_: str) -> "Read":
        """Return the GET of one object."""
        return Read(self.name, id=id_)

    def page(self, page: PageRequest, filters: Mapping[str, str | None] = {}) -> "Read":
        """Return the GET of one page of the list; filters without a value are left out."""
        given = [(name, value) for name in self.filters if (value := filters.get(name)) is not None] if filters else ()
        return Read(self.name, page=page, filters=tuple(given))

    def owned_by(self, owner_id: str) -> "Read":
        """Return the GET of all rows of one owner."""
        return Read(self.name, owner=owner_id)

    def target(self, id_: str | None = None) -> str:
        """Return the path of the list, or of one object.

        Raises:
            errors.InvalidInput: the id must not enter a path.
        """
        return f"/{self.name}" if id_ is None else f"/{self.name}/{quote(check_id(id_), safe='')}"

    @cached_property
    def decoders(self) -> "tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]":
        """Decoders of a row, of a page, and of all rows of an owner."""
        row: Any = self.row
        return msgspec.json.Decoder(row), msgspec.json.Decoder(PageBody[row]), msgspec.json.Decoder(RowsBody[row])

    @cached_property
    def whole(self) -> "msgspec.json.Decoder[Any]":
        """Decoder of a row that has all keys, optional ones too: a part of an object may leave them out."""
        row: Any = self.row
        optional = [(each.name, each.type) for each in msgspec.structs.fields(row) if not each.required]
        return msgspec.json.Decoder(msgspec.defstruct(f"Whole{row.__name__}", optional, bases=(row,)))

    def settle(self, rows: Sequence[Any], owner: str | UnsetType | None = UNSET) -> list[Any]:
        """Set `owner_id` if a row leaves it open, and return the whole owners embedded in rows.

        `owner` is the owner whose rows were requested. A part of an owner (`{id, name}`) tells its id only, which is
        believed if `agentId` is missing or null; an unreadable one tells nothing.
        """
        owners: list[Any] = []
        if self.owner is None or (owner is UNSET and not any(map(_EMBEDDED, rows))):
            return owners  # most pages, by the thousand rows
        for row in rows:
            if row.embedded_owner:
                embedded = _embedded(row.embedded_owner, self.owner)
                row.embedded_owner = UNSET  # it refers to the bytes of the whole response
                if isinstance(embedded, self.owner.row):
                    owners.append(embedded)
                if embedded and not row.owner_id:
                    row.owner_id = embedded.id
            if row.owner_id is UNSET:
                row.owner_id = owner
        return owners


def _exclusive(*values: frozenset[enum.Enum]) -> dict[str, frozenset[enum.Enum]]:
    """Return for each value the others of its set."""
    return {value.value: each - {value} for each in values for value in each}


AGENTS = Resource(
    name="agents",
    row=AgentRow,
    mark="name",
    filters=("status", "search"),
    excluded=_exclusive(frozenset(AgentStatus) - {AgentStatus.UNKNOWN}),
)
NUMBERS = Resource(
    name="numbers",
    row=PhoneNumberRow,
    mark="phoneNumber",
    filters=("status",),
    owner=AGENTS,
    owner_key="agentId",
    writable=True,
    created=("phoneNumber", "phone_number"),
    excluded=_exclusive(  # two sets are documented, and nothing says how they relate
        frozenset({PhoneNumberStatus.ACTIVE, PhoneNumberStatus.INACTIVE}),
        frozenset({PhoneNumberStatus.ASSIGNED, PhoneNumberStatus.UNASSIGNED}),
    ),
)
RESOURCES: dict[str, Resource[Any]] = {resource.name: resource for resource in (AGENTS, NUMBERS)}
WRITTEN = {name for resource in RESOURCES.values() if resource.writable for name in (resource.name, *resource.stales)}
"""Names of the resources that a write can make stale."""


class Read(msgspec.Struct, frozen=True, omit_defaults=True):
    """One GET: of one object by `id`, of all rows of one `owner`, or of a `page` of the list with its filters."""

    kind: str
    """Name of the resource."""
    id: str | None = None
    owner: str | None = None
    page: PageRequest | None = None
    filters: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        """Path below the base URL, with the query.

        Raises:
            errors.InvalidInput: the id must not enter a path.
        """
        resource = RESOURCES[self.kind]
        if self.page is None:
            if self.owner is None or resource.owner is None:
                return resource.target(self.id)
            return f"{resource.owner.target(self.owner)}/{self.kind}"
        more = f"&{urlencode(self.filters)}" if self.filters else ""
        return f"/{self.kind}?page={self.page.page}&limit={self.page.limit}{more}"

    def decode(self, body: bytes, rows: PageBody[Any] | RowsBody[Any] | None = None) -> Listing[Any]:
        """Decode a body, or take its `rows` as `decode_slowly` returns them.

        Raises:
            errors.Mismatch: it is the response to another call.
            errors.BadResponse: it cannot be read.
        """
        resource, page = RESOURCES[self.kind], self.page
        found: Any = _decode(resource, self, body) if rows is None else rows
        if page:
            told = found.pagination
            if told.page != page.page or told.limit > page.limit:  # a smaller limit is the upstream's own
                raise errors.Mismatch(field="page" if told.page != page.page else "limit")
            for name, value in self.filters:
                if name == "status" and not resource.excluded.get(value, frozenset()).isdisjoint(
                    map(_STATUS, found.data)
                ):
                    raise errors.Mismatch(field=name)
            return Listing(found.data, believed(told, page, len(found.data)), resource.settle(found.data))
        if self.owner is not None:
            if found.pagination and not _has_all(found.pagination, len(found.data)):
                raise errors.Mismatch(field="pagination")
            listing = Listing(found.data, None, resource.settle(found.data, self.owner))
            if not set(map(_OWNER, listing.rows)) <= {self.owner, None}:
                raise errors.Mismatch(field=resource.owner_key)
            return listing
        if found.id != self.id:
            raise errors.Mismatch(field="id")
        return Listing([found], None, resource.settle([found], None))  # an owner left out of a single object is null

    async def decode_slowly(self, body: bytes) -> PageBody[Any] | RowsBody[Any] | None:
        """Decode a long list in slices, between which other tasks run; None if it is not of the documented shape."""
        decode = RESOURCES[self.kind].decoders[0].decode
        rows: list[Any] = []
        try:
            listed = _LISTED.decode(body)
            for at in range(0, len(listed.data), SLICE):
                rows += map(decode, listed.data[at : at + SLICE])
                await asyncio.sleep(0)
            if self.page:
                return PageBody(rows, msgspec.json.decode(listed.pagination, type=Pagination))
            return RowsBody(rows, msgspec.json.decode(listed.pagination, type=dict[str, Any] | None))
        except _UNREADABLE:
            return await self._repair_slowly(body)

    async def _repair_slowly(self, body: bytes) -> PageBody[Any] | RowsBody[Any] | None:
        """Read a list row by row in slices; None if it is the response to another call or cannot be read."""
        resource, found, unreadable = RESOURCES[self.kind], list[Any](), 0
        with contextlib.suppress(*_UNREADABLE):
            if _mismatch(resource, self, body) is None:
                slices, told = repair.read_rows(body, resource.decoders[0], REPAIR_SLICE)
                for rows, count in slices:
                    found += rows
                    unreadable += count
                    await asyncio.sleep(0)
                return _repaired(self, found, told, unreadable)
        return None


class Write(NamedTuple):
    """A POST of a `body` (without an `id`), a PUT or PATCH of one, or a DELETE (without a body)."""

    kind: str
    """Name of the resource."""
    id: str | None
    body: Body | None

    @property
    def target(self) -> str:
        """Path below the base URL.

        Raises:
            errors.InvalidInput: the id must not enter a path.
        """
        return RESOURCES[self.kind].target(self.id)

    @property
    def content(self) -> bytes | None:
        """The body as JSON."""
        return None if self.body is None else msgspec.json.encode(self.body)

    @property
    def owners(self) -> list[str | None]:
        """The owner that the body names, if it does."""
        key = RESOURCES[self.kind].owner_key
        return [self.body[key]] if self.body and key in self.body else []

    def decode(self, body: bytes, _: None = None) -> Listing[Any]:
        """Decode the response; what was sent settles what it leaves open. A delete's has no row.

        Raises:
            errors.Mismatch: it is the response to another call.
            errors.BadResponse: it cannot be read.
        """
        resource, read, sent = RESOURCES[self.kind], Read(self.kind, id=self.id), self.body
        if sent is None:
            if field := _mismatch(resource, read, body):
                raise errors.Mismatch(field=field)
            if not _done(body):
                raise errors.BadResponse("The upstream's answer to the delete does not say that it was done.")
            return Listing([])
        row, created = _decode(resource, read, body), resource.created
        if self.id is not None and row.id != self.id:
            raise errors.Mismatch(field="id")
        if self.id is None and created and not _same_digits(getattr(row, created[1]), sent[created[0]]):
            raise errors.Mismatch(field=created[0])
        owner = sent.get(resource.owner_key, UNSET)
        if resource.owner and owner is row.owner_id is None:
            row.embedded_owner = UNSET  # as it was before
        return Listing([row], None, resource.settle([row], owner))


def check_id(id_: str) -> str:
    """Return an id that may enter a path.

    Raises:
        errors.InvalidInput: it could name another path, or the upstream would not write it.
    """
    if id_ in {".", ".."} or not _ID.fullmatch(id_):
        raise errors.InvalidInput(
            f"{id_[:128]!r} is no id: an id is 1 to 128 letters, digits and any of _ - . : ~ @; pass it as you got it."
        )
    return id_


def believed(told: Pagination, asked: PageRequest, rows: int) -> Pagination:
    """Return a page's pagination with a total that neither the rows that came nor a word of more pages contradicts.

    If the response leaves open whether there are more rows, or contradicts itself and some part says that there are,
    the total is the least there can be, and `has_more` is set.
    """
    size, unknown = told.limit if told.limit > 0 else asked.limit, told.total < 0
    seen = (asked.page - 1) * size + min(rows, size) if rows else 0
    pages = max(told.total_pages or 0, asked.page + 1 if told.has_more else 0)
    least = (pages - 1) * size + 1 if pages > asked.page else -1
    silent = unknown and told.has_more is None and told.total_pages is None
    more = rows > 0 if silent else not unknown and told.total < seen and rows >= size
    told.has_more = more or told.total < least or (unknown and not rows and asked.page > 1)
    told.total = max(told.total, least, seen + more)
    return told


def _decode(resource: Resource[Any], read: Read, body: bytes) -> Any:
    """Decode a row, a page or an owner's rows; if it is not of the documented shape, row by row.

    Raises:
        errors.Mismatch: it is the response to another call.
        errors.BadResponse: it cannot be read at all.
    """
    row, page, rows = resource.decoders
    single = read.page is None and read.owner is None
    with contextlib.suppress(*_UNREADABLE):
        return (row if single else page if read.page else rows).decode(body)
    if field := _mismatch(resource, read, body):
        raise errors.Mismatch(field=field)
    try:
        if single:
            return repair.read_object(body, row)
        slices, told = repair.read_rows(body, row, REPAIR_SLICE)
        parts = list(slices)
    except _UNREADABLE as error:
        raise errors.BadResponse("The upstream's answer is not of the documented shape; try again later.") from error
    return _repaired(read, [one for rows, _ in parts for one in rows], told, sum(count for _, count in parts))


def _repaired(read: Read, rows: list[Any], told: dict[str, Any], unreadable: int) -> PageBody[Any] | RowsBody[Any]:
    """Return a list that was read row by row, and log that."""
    log.warning("upstream_response_repaired", kind=read.kind, rows=len(rows), unreadable_values=unreadable)
    return PageBody(rows, _pagination(told, read.page)) if read.page else RowsBody(rows, told)


def _pagination(told: Mapping[str, Any], asked: PageRequest) -> Pagination:
    """Return a page's pagination; a page or limit that it leaves out is the request's."""
    page, limit, total, pages = (repair.whole(told.get(name)) for name in ("page", "limit", "total", "totalPages"))
    more = told.get("hasMore")
    return Pagination(
        page=asked.page if page is None else page,
        limit=asked.limit if limit is None else limit,
        total=-1 if total is None else total,
        total_pages=pages,
        has_more=more if isinstance(more, bool) else None,
    )


def _has_all(told: Mapping[str, Any], rows: int) -> bool:
    """Tell whether what a list without pages says of pages allows that these are all its rows."""
    page, pages, total = (repair.whole(told.get(name)) for name in ("page", "totalPages", "total"))
    return total in {rows, None} and page in {1, None} and (pages or 0) <= 1 and not told.get("hasMore")


def _done(body: bytes) -> bool:
    """Tell whether the body of a success is empty, or JSON that holds no error."""
    try:
        told = msgspec.json.decode(body) if body.strip() else None
    except _UNREADABLE:
        return False
    return not (isinstance(told, dict) and told.get("error"))


def _mismatch(resource: Resource[Any], read: Read, body: bytes) -> str | None:
    """Return the field that shows that a body, which cannot be decoded, is the response to another call."""
    owners: set[Any] = set()
    try:
        outline = _OUTLINE.decode(body)
        raws = _RAWS.decode(outline.data) if outline.data else []
        rows = [_KEYS.decode(raw) for raw in raws[:SLICE]]  # so many tell whose they are
        if resource.owner:
            key, null = resource.owner_key, Raw(b"null")
            owners = {msgspec.json.decode(row.get(key, null), type=str | None) for row in rows}
    except _UNREADABLE:
        return None
    if read.page is None and read.owner is None:
        if outline.id is UNSET:
            return "data" if outline.data else None
        return None if outline.id == read.id or read.id is None else "id"
    if outline.id is not UNSET and not outline.data:
        return "id"
    if read.page and resource.owner and outline.pagination is UNSET and len(owners) == 1 and None not in owners:
        return "pagination"  # one owner's rows, which have no pages
    marks = [[name for name, other in RESOURCES.items() if other.mark in row] for row in rows]
    kinds = {names[0] for names in marks if len(names) == 1}
    return "data" if kinds and resource.name not in kinds else None


def _embedded(raw: Raw, owner: Resource[Any]) -> Any:
    for decoder in (owner.whole, _REF):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return decoder.decode(raw)
    return None


def _same_digits(told: object, sent: str) -> bool:
    """Compare the last six digits: a number may be sent without blanks and country code, and returned with them."""
    one, other = ("".join(filter(str.isdigit, number))[-6:] for number in (str(told), sent))
    return one == other


class _Outline(msgspec.Struct):
    """The keys that tell one object from a list."""

    id: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    pagination: Raw | UnsetType = UNSET


class _Listed(msgspec.Struct):
    """A list whose rows are decoded one by one."""

    data: list[Raw]
    pagination: Raw = Raw(b"null")


_OUTLINE = msgspec.json.Decoder(_Outline)
_RAWS = msgspec.json.Decoder(list[Raw])
_KEYS = msgspec.json.Decoder(dict[str, Raw])
_LISTED = msgspec.json.Decoder(_Listed)
_REF: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder(RowRef)
