"""Reads answers that are not of the documented shape, row by row, as far as they can be read.

`reads` comes here once strict decoding has failed. Text is repaired where JSON allows it: any UTF, with or without a
byte order mark, U+FFFD for half a surrogate pair and for bytes that are no text. A value of another type is converted
where that loses nothing, an unknown status is UNKNOWN, an optional value is null. What is left, a required value
that cannot be read, is an `models.Unreadable`, which is an error only where it is selected. No row is left out.
"""

import json
import re
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.upstream.models import Agent, AgentStatus, AgentType, PhoneNumber, PhoneNumberStatus, Row, Unreadable

_HALF_A_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_LONGEST = 18
"""Digits of a number that is read as one; a longer one may be an id, and keeps its digits."""


class Rows(msgspec.Struct):
    """A list whose rows are read one by one; some serializers write an empty list as null."""

    data: list[Raw] | None
    pagination: Raw = Raw(b"{}")


_ROWS = msgspec.json.Decoder(Rows)


def clean(body: bytes, errors: Literal["replace", "strict"] = "replace") -> str:
    """Return a body as JSON text that msgspec can decode; `errors` says what becomes of bytes that are no text."""
    return _HALF_A_PAIR.sub(r"\1\\ufffd", body.decode(json.detect_encoding(body), errors))


def read_rows(body: bytes, row: "msgspec.json.Decoder[Row]") -> tuple[list[Row], dict[str, Any]]:
    """Return the rows of a list and what its `pagination` says, if anything.

    Raises:
        msgspec.DecodeError: it is no list of rows.
        RecursionError: it is nested too deeply.
    """
    listed = _ROWS.decode(clean(body))
    return [_row(raw, row) for raw in listed.data or ()], _object(listed.pagination)


def read_object(body: bytes, row: "msgspec.json.Decoder[Row]") -> Row:
    """Return a single object, which must have an id; raises as `read_rows`."""
    found = _row(msgspec.json.decode(clean(body), type=Raw), row)
    if isinstance(found.id, Unreadable):
        raise msgspec.ValidationError("an object without an id")
    return found


def whole(value: object) -> int | None:
    """Return a whole number that was written as one, as a float or as text; else None."""
    try:
        number = float(value) if isinstance(value, int | float | str) else float("nan")
        return int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None


def _row(raw: Raw, row: "msgspec.json.Decoder[Row]") -> Row:
    try:
        return row.decode(raw)
    except msgspec.DecodeError:
        told = _object(raw)
    return _agent(told) if row.type is Agent else _number(told)  # type: ignore[return-value]  # as the decoder's type


def _object(raw: Raw) -> dict[str, Any]:
    value = json.loads(str(bytes(raw), "utf-8"), parse_int=_digits)
    return value if isinstance(value, dict) else {}


def _digits(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST else digits


def _agent(told: dict[str, Any]) -> Agent:
    return Agent(
        id=_required(told.get("id")),
        name=_required(told.get("name")),
        status=AgentStatus(_text(told.get("status")) or ""),
        type=AgentType(_text(told.get("type")) or ""),
        created_at=_required(told.get("createdAt"), time=True),
        updated_at=_required(told.get("updatedAt"), time=True),
        description=_text(told.get("description")),
        workspace_id=_text(told.get("workspaceId")),
    )


def _number(told: dict[str, Any]) -> PhoneNumber:
    agent = told.get("agent")
    return PhoneNumber(
        id=_required(told.get("id")),
        phone_number=_required(told.get("phoneNumber")),
        status=PhoneNumberStatus(_text(told.get("status")) or ""),
        created_at=_required(told.get("createdAt"), time=True),
        friendly_name=_text(told.get("friendlyName")),
        agent_id=_owner(told),
        embedded_agent=Raw(msgspec.json.encode(agent)) if isinstance(agent, dict) else UNSET,
    )


def _owner(told: dict[str, Any]) -> str | UnsetType | None:
    owner = told.get("agentId", UNSET)
    return owner if owner is None else _text(owner) or UNSET


def _required(value: object, *, time: bool = False) -> Any:
    text = value if time and isinstance(value, str) else None if time else _text(value)
    return Unreadable() if text is None else text


def _text(value: object) -> str | None:
    """Return text, or a number as it was written; else None."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
