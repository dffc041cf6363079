"""The five GETs of the REST API as values: where each one goes, and how its answer is decoded.

`client` sends them, `cache` remembers their answers by what they mean. Every answer is a `models.Listing`, of
one row for a single object. Ids are checked before they enter a path. Facts: the vendor's page.

An answer is compared with its request, as far as it can be: a proxy may have mixed up what it carries.
"""

import asyncio
import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET, UnsetType

from gateway.observability.logging import log
from gateway.upstream import errors, models, repair
from gateway.upstream.paging import PageRequest

Kind = Literal["agent", "agents", "agent_numbers", "number", "numbers"]

LONG = 256 * 1024
"""Bytes of a body from which it is decoded in slices."""
SLICE = 500
"""Rows that are decoded in one turn of the event loop: about a millisecond."""

_ID = re.compile(r"[A-Za-z0-9_\-.:~@]{1,128}")


class Read(msgspec.Struct, frozen=True):
    """One GET: of an object by `id`, or of a `page` of a list with its filters (as the upstream spells them)."""

    kind: Kind
    id: str = ""
    page: PageRequest | None = None
    status: str | None = None
    search: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is a page of an unfiltered list."""
        return self.page is not None and self.status is None and self.search is None

    @property
    def target(self) -> str:
        """Path below the base URL, and query.

        Raises:
            errors.InvalidInput: the id must not enter a path.
        """
        match self.kind:
            case "agent":
                return f"/agents/{_segment(self.id)}"
            case "agent_numbers":
                return f"/agents/{_segment(self.id)}/numbers"
            case "number":
                return number_path(self.id)
        assert self.page  # noqa: S101 - a list is read page by page
        filters = {name: value for name in ("status", "search") if (value := getattr(self, name)) is not None}
        more = f"&{urlencode(filters)}" if filters else ""
        return f"/{self.kind}?page={self.page.page}&limit={self.page.limit}{more}"

    def decode(self, body: bytes, rows: "models.Page[Any] | models.AgentNumbers | None" = None) -> models.Listing[Any]:
        """Decode an answer's body, or take its `rows` as `decode_slowly` returns them.

        Raises:
            errors.Mismatch: it answers another call.
            errors.BadAnswer: it is not of the documented shape.
        """
        return self._listing(_decode(self.kind, self.id, body, self.page) if rows is None else rows)

    async def decode_slowly(self, body: bytes) -> models.Page[Any] | models.AgentNumbers | None:
        """Decode a long list in slices, between which others have turns; None where it is not as documented."""
        decode = _DECODERS["agent" if self.kind == "agents" else "number"].decode
        rows: list[Any] = []
        try:
            listed = _LISTED.decode(body)
            for at in range(0, len(listed.data), SLICE):
                rows += map(decode, listed.data[at : at + SLICE])
                await asyncio.sleep(0)
            pagination = msgspec.json.decode(listed.pagination, type=models.Pagination) if self.page else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return models.Page(rows, pagination) if pagination else models.AgentNumbers(rows)

    def _listing(self, answer: Any) -> models.Listing[Any]:
        if self.page:
            if field := _other_page(answer.pagination, self.page):
                raise errors.Mismatch(field=field)
            rows, pagination = answer.data, believed(answer.pagination, self.page, len(answer.data))
            return models.Listing(rows, pagination, () if self.kind == "agents" else models.unfold(rows))
        if self.kind == "agent_numbers":
            listing = models.Listing(answer.data, None, models.unfold(answer.data, self.id))
            if not set(map(_OWNER, listing.rows)) <= {self.id, None}:
                raise errors.Mismatch(field="agentId")
            return listing
        if answer.id != self.id:
            raise errors.Mismatch(field="id")
        # an agent left out is null, where nothing else tells
        return models.Listing([answer], None, models.unfold([answer], None) if self.kind == "number" else ())


def number_path(id_: str) -> str:
    """Return the path of one number."""
    return f"/numbers/{_segment(id_)}"


def check_id(id_: str) -> str:
    """Return an id that may enter a path.

    Raises:
        errors.InvalidInput: it could name another path, or is nothing the upstream would write.
    """
    if id_ in {".", ".."} or not _ID.fullmatch(id_):
        raise errors.InvalidInput(
            f"{id_[:128]!r} is no id: an id is 1 to 128 letters, digits and any of _ - . : ~ @; pass it as you got it."
        )
    return id_


def decode_written(body: bytes, sent: models.Body, id_: str | None) -> models.Listing[models.PhoneNumber]:
    """Decode the number that a write to `id_`, or to a new one, answers.

    Where it does not say whose it is, what was sent does.

    Raises:
        errors.Mismatch: it answers another call.
        errors.BadAnswer: it is not of the documented shape.
    """
    number: models.PhoneNumber = _decode("number", id_, body, None)
    if id_ is not None and number.id != id_:
        raise errors.Mismatch(field="id")
    if id_ is None and not _same_number(number.phone_number, sent["phoneNumber"]):
        raise errors.Mismatch(field="phoneNumber")
    return models.Listing([number], None, models.unfold([number], sent.get("agentId", UNSET)))


def check_deleted(body: bytes, id_: str | None) -> models.Listing[Any]:
    """Return no rows for the answer to a delete, which has no content or, it may be, what was deleted.

    Raises:
        errors.Mismatch: it answers another call.
    """
    if field := _other_call("number", id_, body):
        raise errors.Mismatch(field=field)
    return models.Listing([])


def _decode(kind: Kind, id_: str | None, body: bytes, asked: PageRequest | None) -> Any:
    """Decode an object, a list or a page that was `asked` for; one that is not as documented is read row by row.

    Raises:
        errors.Mismatch: it answers another call.
        errors.BadAnswer: it cannot be read at all.
    """
    try:
        return _DECODERS[kind].decode(body)
    except _UNREADABLE:
        pass
    if field := _other_call(kind, id_, body):
        raise errors.Mismatch(field=field)
    row = _DECODERS["agent" if kind in {"agent", "agents"} else "number"]
    try:
        if kind in {"agent", "number"}:
            return repair.read_object(body, row)
        rows, told = repair.read_rows(body, row)
    except _UNREADABLE as error:
        raise errors.BadAnswer("The upstream's answer is not of the documented shape; try again later.") from error
    unreadable = sum(isinstance(value, models.Unreadable) for row in rows for value in msgspec.structs.astuple(row))
    log.warning("upstream_answer_repaired", kind=kind, rows=len(rows), unreadable_values=unreadable)
    return models.Page(rows, _pagination(told, asked, len(rows))) if asked else models.AgentNumbers(rows)


def believed(told: models.Pagination, asked: PageRequest, rows: int) -> models.Pagination:
    """Return what a page tells of its list; rows that came are believed over a total that does not count them.

    After a full page there may be more rows, however many the total denied: one more is counted then.
    """
    size = told.limit if told.limit > 0 else asked.limit
    seen = (asked.page - 1) * size + min(rows, size) if rows else 0
    if told.total < seen:
        told.total = seen + (rows >= size)
    return told


def _pagination(told: Mapping[str, Any], asked: PageRequest, rows: int) -> models.Pagination:
    """Return a page's pagination as far as it can be read; what it leaves out follows from what was asked and came."""
    page, limit, total = (repair.whole(told.get(name)) for name in ("page", "limit", "total"))
    size = asked.limit if limit is None else limit
    if total is None:
        more = told.get("hasMore")
        total = asked.start + rows + (more if isinstance(more, bool) else rows >= size) if rows else 0
    return models.Pagination(asked.page if page is None else page, size, total)


def _other_call(kind: Kind, id_: str | None, body: bytes) -> str | None:
    """Return the field that tells an answer that cannot be decoded from the answer to another call."""
    try:
        outline = _OUTLINE.decode(body)
        rows = _ROWS.decode(outline.data) if outline.data else []
    except _UNREADABLE:
        return None
    if kind in {"agent", "number"}:
        if outline.id is UNSET:
            return "data" if outline.data else None
        return None if outline.id == id_ or id_ is None else "id"
    if outline.id is not UNSET and not outline.data:
        return "id"
    owners = {row.agent_id for row in rows}
    if kind == "numbers" and outline.pagination is UNSET and len(owners) == 1 and None not in owners:
        return "pagination"  # one agent's numbers, which have no pages
    agents = {row.name is not UNSET for row in rows if (row.name is UNSET) is not (row.phone_number is UNSET)}
    return "data" if agents == {kind != "agents"} else None


def _other_page(told: models.Pagination, asked: PageRequest) -> str | None:
    """Return the field of a pagination that another request asked for; a smaller limit is the upstream's own."""
    if told.page != asked.page:
        return "page"
    return "limit" if told.limit > asked.limit else None


def _same_number(told: str, sent: str) -> bool:
    """Compare the last six digits: a number may be told with blanks and its country code, and sent without."""
    one, other = ("".join(filter(str.isdigit, number))[-6:] for number in (str(told), sent))
    return one == other


def _segment(id_: str) -> str:
    return quote(check_id(id_), safe="")


class _Outline(msgspec.Struct):
    """What tells a single object's answer from a list's."""

    id: str | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    pagination: msgspec.Raw | UnsetType = UNSET


class _Row(msgspec.Struct, rename="camel"):
    """What tells agents from numbers."""

    name: msgspec.Raw | UnsetType = UNSET
    phone_number: msgspec.Raw | UnsetType = UNSET
    agent_id: str | None = None


_OWNER = attrgetter("agent_id")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OUTLINE = msgspec.json.Decoder(_Outline)
_ROWS = msgspec.json.Decoder(list[_Row])
_DECODERS: "dict[Kind, msgspec.json.Decoder[Any]]" = {
    "agent": msgspec.json.Decoder(models.Agent),
    "agents": msgspec.json.Decoder(models.Page[models.Agent]),
    "agent_numbers": msgspec.json.Decoder(models.AgentNumbers),
    "number": msgspec.json.Decoder(models.PhoneNumber),
    "numbers": msgspec.json.Decoder(models.Page[models.PhoneNumber]),
}


class _Listed(msgspec.Struct):
    """A list whose rows are decoded one by one."""

    data: list[msgspec.Raw]
    pagination: msgspec.Raw = msgspec.Raw(b"null")


_LISTED = msgspec.json.Decoder(_Listed)
