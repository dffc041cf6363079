"""The five GETs of the REST API as values: where each one goes, and how its answer is decoded.

`client` sends them, `cache` remembers their answers by what they mean. Every answer is a `models.Listing`, of
one row for a single object. Ids are checked before they enter a path. Facts: the vendor's page.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec
import structlog

from gateway.upstream import errors, models, repair
from gateway.upstream.paging import PageRequest

log = structlog.get_logger("gateway")

Kind = Literal["agent", "agents", "agent_numbers", "number", "numbers"]

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

    def decode(self, body: bytes) -> models.Listing[Any]:
        """Decode an answer's body.

        Raises:
            errors.BadAnswer: it is not of the documented shape.
        """
        answer: Any = _decode(self.kind, body, self.page)
        if self.page:
            rows, pagination = answer.data, believed(answer.pagination, self.page, len(answer.data))
            return models.Listing(rows, pagination, () if self.kind == "agents" else models.unfold(rows))
        match self.kind:
            case "agent":
                return models.Listing([answer])
            case "agent_numbers":
                return models.Listing(answer.data, None, models.unfold(answer.data, self.id))
        return models.Listing(
            [answer], None, models.unfold([answer], None)
        )  # left out is null, where nothing else tells


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


def decode_written(body: bytes, sent: models.Body) -> models.Listing[models.PhoneNumber]:
    """Decode the number that a write answers; where it does not say whose it is, what was sent does.

    Raises:
        errors.BadAnswer: it is not of the documented shape.
    """
    number: models.PhoneNumber = _decode("number", body, None)
    return models.Listing([number], None, models.unfold([number], sent.get("agentId", msgspec.UNSET)))


def _decode(kind: Kind, body: bytes, asked: PageRequest | None) -> Any:
    """Decode an object, a list or a page that was `asked` for; one that is not as documented is read row by row.

    Raises:
        errors.BadAnswer: it cannot be read at all.
    """
    try:
        return _DECODERS[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    row = _DECODERS["agent" if kind in {"agent", "agents"} else "number"]
    try:
        if kind in {"agent", "number"}:
            return repair.read_object(body, row)
        rows, told = repair.read_rows(body, row)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
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


def _segment(id_: str) -> str:
    return quote(check_id(id_), safe="")


_DECODERS: "dict[Kind, msgspec.json.Decoder[Any]]" = {
    "agent": msgspec.json.Decoder(models.Agent),
    "agents": msgspec.json.Decoder(models.Page[models.Agent]),
    "agent_numbers": msgspec.json.Decoder(models.AgentNumbers),
    "number": msgspec.json.Decoder(models.PhoneNumber),
    "numbers": msgspec.json.Decoder(models.Page[models.PhoneNumber]),
}
