"""The five GETs of the REST API as values: where each one goes, and how its answer is decoded.

`client` sends them, `cache` remembers their answers by what they mean. Every answer is a `models.Listing`, of
one row for a single object. Ids are checked before they enter a path. Facts: the vendor's page.
"""

import re
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec

from gateway.upstream import errors, models
from gateway.upstream.paging import PageRequest

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
        answer: Any = decode(_DECODERS[self.kind], body)
        match self.kind:
            case "agent":
                return models.Listing([answer])
            case "agents":
                return models.Listing(answer.data, answer.pagination)
            case "agent_numbers":
                return models.Listing(answer.data, None, models.unfold(answer.data, self.id))
            case "number":
                return models.Listing([answer], None, models.unfold([answer]))
        return models.Listing(answer.data, answer.pagination, models.unfold(answer.data))


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
    number: models.PhoneNumber = decode(_DECODERS["number"], body)
    return models.Listing([number], None, models.unfold([number], sent.get("agentId", msgspec.UNSET)))


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """Decode JSON of a documented shape, or raise `errors.BadAnswer`."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadAnswer("The upstream's answer is not of the documented shape; try again later.") from error


def _segment(id_: str) -> str:
    return quote(check_id(id_), safe="")


_DECODERS: "dict[Kind, msgspec.json.Decoder[Any]]" = {
    "agent": msgspec.json.Decoder(models.Agent),
    "agents": msgspec.json.Decoder(models.Page[models.Agent]),
    "agent_numbers": msgspec.json.Decoder(models.AgentNumbers),
    "number": msgspec.json.Decoder(models.PhoneNumber),
    "numbers": msgspec.json.Decoder(models.Page[models.PhoneNumber]),
}
