"""Finds where in a response fields have failed that compiled execution answered with null.

Many rows share what is below them, so the places can be far more than the failures. Of each code as many errors are
made as are sent; the others are only counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from graphql import FieldNode, GraphQLError, located_error
from graphql.pyutils import Path

from gateway.execution.errors import MAX_FIELD_ERRORS
from gateway.upstream.errors import ErrorCode, UpstreamError

if TYPE_CHECKING:
    from gateway.execution.compiler import Child, Rows, Selection, Weights
    from gateway.execution.response import Bounds


class Failed(NamedTuple):
    """A field of a row that failed."""

    error: UpstreamError
    nodes: list[FieldNode]


Node = list[tuple[tuple[str | int, ...], "Node | Failed"]]
"""What failed below a row: the steps to it, and what is there."""


class FailedFields:
    """The fields that failed in one attempt, for enough rows to fill the errors that are sent."""

    def __init__(self) -> None:
        self._count: Counter[ErrorCode] = Counter()
        """How often errors of a code are in the response."""
        self._rows: dict[tuple[ErrorCode, int], dict[int, Failed]] = {}

    def nulls(self, child: "Child", rows: "Rows", values: Sequence[Any], weights: "Weights") -> list[Any]:
        """Return a field's values with null for those that failed."""
        for at, value in enumerate(values):
            if isinstance(value, UpstreamError):
                self._count[value.code] += weights[at] if weights else 1
                known = self._rows.setdefault((value.code, id(child)), {})
                if len(known) < MAX_FIELD_ERRORS:
                    known[id(rows[at])] = Failed(value, child.nodes)
        return [None if isinstance(value, UpstreamError) else value for value in values]

    async def errors(
        self, selection: "Selection", row: msgspec.Struct, path: Path | None, bounds: "Bounds"
    ) -> list[tuple[GraphQLError, Path]]:
        """Return errors for the failures below the row at this path, each with its own."""
        nodes = {code: await self._below(code, selection, {id(row): row}, bounds) for code in self._count}
        found: list[tuple[GraphQLError, Path]] = []
        for code, count in self._count.items():
            places = _places(nodes[code][id(row)], path)
            for place, failed in islice(places, bounds.failures.room(code, count)):
                found.append((located_error(failed.error, failed.nodes, place.as_list()), place))
        return found

    async def _below(
        self, code: ErrorCode, selection: "Selection", rows: "dict[int, Any]", bounds: "Bounds"
    ) -> dict[int, Node]:
        """Return what has failed below each of distinct rows, each of which is looked at once."""
        nodes: dict[int, Node] = {}
        for name, child in selection.children:
            if not self._reached(code, child):
                continue
            await bounds.turn()
            failed = self._rows.get((code, id(child)), {})
            for id_ in filter(failed.__contains__, rows):
                nodes.setdefault(id_, []).append(((child.key,), failed[id_]))
            values = [(id_, _rows(child, getattr(row, name))) for id_, row in rows.items()]
            below = await self._below(code, child.selection, {id(v): v for _, many in values for v in many}, bounds)
            if not below:
                continue
            await bounds.turn()
            for id_, many in values:
                for at, value in enumerate(many):
                    if id(value) in below:
                        steps = (child.key, at) if child.many else (child.key,)
                        nodes.setdefault(id_, []).append((steps, below[id(value)]))
        return nodes

    def _reached(self, code: ErrorCode, child: "Child") -> bool:
        """Tell whether a field, or one below it, has failed for any row."""
        return (code, id(child)) in self._rows or any(self._reached(code, each) for _, each in child.selection.children)


def _rows(child: "Child", value: Any) -> Sequence[Any]:
    """Return the rows of a field's value; those that are JSON already have no fields that are fetched."""
    if child.many:
        return value if isinstance(value, list) else ()
    return () if value is None else (value,)


def _places(node: Node, path: Path | None) -> Iterator[tuple[Path, Failed]]:
    for steps, below in node:
        place = path
        for step in steps:
            place = Path(place, step, None)
        assert place  # noqa: S101 - there are one or two steps
        if isinstance(below, Failed):
            yield place, below
        else:
            yield from _places(below, place)
