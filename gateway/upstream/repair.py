"""Reads responses that are not of the documented shape, row by row, as far as they can be read.

Text is repaired if it is not JSON in UTF-8: any UTF, with or without a byte order mark, U+FFFD for half a surrogate
pair and for bytes that are not text. A value of another type is converted if that loses nothing, an unknown status is
UNKNOWN, an unreadable optional value has its default. A required value that cannot be read is a `models.Unreadable`,
which is an error only if it is selected. No row is left out.
"""

import contextlib
import enum
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import FieldInfo

from gateway.upstream.models import Timestamp, Unreadable

_HALF_A_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_LONGEST = 18
"""Digits of an integer that is read as one; a longer one may be an id, and keeps its digits."""


class Rows(msgspec.Struct):
    """A list whose rows are read one by one; some serializers write an empty list as null."""

    data: list[Raw] | None
    pagination: Raw = Raw(b"{}")


_ROWS = msgspec.json.Decoder(Rows)


def clean(body: bytes, errors: Literal["replace", "strict"] = "replace") -> str:
    """Return a body as JSON text that msgspec can decode; `errors` is how bytes that are not text are handled."""
    return _HALF_A_PAIR.sub(r"\1\\ufffd", body.decode(json.detect_encoding(body), errors))


def read_rows(
    body: bytes, row: "msgspec.json.Decoder[Any]", size: int
) -> tuple[Iterator[tuple[list[Any], int]], dict[str, Any]]:
    """Return the rows of a list and its `pagination`, empty without one.

    Rows are read as they are iterated over, in slices of `size`, each with its number of unreadable values.

    Raises:
        msgspec.DecodeError: it is not a list of rows.
        RecursionError: it is nested too deeply.
    """
    try:
        listed = _ROWS.decode(body.decode(json.detect_encoding(body), "replace"))
    except msgspec.DecodeError:
        listed = _ROWS.decode(clean(body))
    raws = listed.data or []
    slices = ([_row(raw, row) for raw in raws[at : at + size]] for at in range(0, len(raws), size))
    return ((rows, _unreadable(rows)) for rows in slices), _object(listed.pagination)


def read_object(body: bytes, row: "msgspec.json.Decoder[Any]") -> Any:
    """Return a single object, which must have an id; raises as `read_rows`."""
    found = _row(msgspec.json.decode(clean(body), type=Raw), row)
    if isinstance(found.id, Unreadable):
        raise msgspec.ValidationError("an object without an id")
    return found


def whole(value: object) -> int | None:
    """Return an integer that was written as an integer, a float or text; else None."""
    try:
        found = float(value) if isinstance(value, int | float | str) else float("nan")
        return int(found) if found.is_integer() else None
    except (ValueError, OverflowError):
        return None


def _unreadable(rows: list[Any]) -> int:
    return sum(isinstance(value, Unreadable) for one in rows for value in msgspec.structs.astuple(one))


def _row(raw: Raw, row: "msgspec.json.Decoder[Any]") -> Any:
    with contextlib.suppress(msgspec.DecodeError):
        return row.decode(raw)
    text = clean(bytes(raw))
    try:
        return row.decode(text)
    except msgspec.DecodeError:
        told = _object(Raw(text.encode()))
    fields = msgspec.structs.fields(row.type)
    return row.type(**{field.name: _value(field, told.get(field.encode_name, UNSET)) for field in fields})


def _object(raw: Raw) -> dict[str, Any]:
    value = json.loads(str(bytes(raw), "utf-8"), parse_int=_digits)
    return value if isinstance(value, dict) else {}


def _digits(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST else digits


def _value(field: FieldInfo, value: Any) -> Any:
    """Return a value as its field's type if it can be read; else the default, or `Unreadable` if there is none."""
    if isinstance(field.type, type) and issubclass(field.type, enum.Enum):
        return field.type(_text(value) or "")
    if field.type == Raw | UnsetType:
        return Raw(msgspec.json.encode(value)) if isinstance(value, dict) else UNSET
    text = None if field.type is Timestamp else _text(value)
    for candidate, strict in ((value, True), (text, True), (value, False)):
        if candidate is None and value is not None:
            continue
        with contextlib.suppress(msgspec.ValidationError):
            return msgspec.convert(candidate, field.type, strict=strict)
    return Unreadable() if field.required else field.default


def _text(value: object) -> str | None:
    """Return text, or a number as it was written; else None."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
