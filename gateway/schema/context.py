"""The context of one operation: its session, its loaders, and the selection below a field.

A selection is a tree of field names, through fragments and without aliases. Compiled execution makes it once, when the
field is compiled.
"""

import asyncio
from collections.abc import Collection
from functools import cached_property
from typing import Any, NamedTuple

import strawberry
from graphql import FieldNode

from gateway.dataloaders.loaders import Loaders
from gateway.schema.selection import Selected, select
from gateway.upstream.client import Session


class Context:
    """One operation's session, loaders and look-ahead."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._operation: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._selected: dict[tuple[int, ...], Selected] = {}

    @cached_property
    def loaders(self) -> Loaders:
        """The operation's loaders."""
        return Loaders(self.session, self._operation)

    def selected(self, info: "Info | Look") -> Selected:
        """Return the selection below this field, as `select` does."""
        if isinstance(info, Look):
            return info.selected
        raw: Any = info._raw_info  # noqa: SLF001 - Strawberry's own `selected_fields` converts the whole tree at each call
        nodes: list[FieldNode] = raw.field_nodes
        key = tuple(map(id, nodes))  # nodes live as long as the operation, and so does this memo
        known = self._selected.get(key)
        if known is None:
            known = self._selected[key] = select(nodes, raw.fragments, raw.variable_values)
        return known


Info = strawberry.Info[Context, None]


class Look(NamedTuple):
    """The argument of resolvers and batches in compiled execution, instead of Strawberry's `Info`."""

    context: Context
    selected: Selected
    """Returned by `Context.selected`."""


def only(info: Info | Look, names: Collection[str]) -> bool:
    """Return whether only these names and `__typename` are selected below the field."""
    return all(name in names or name == "__typename" for name in info.context.selected(info))


def reaches_numbers(info: Info | Look) -> bool:
    """Return whether the numbers of a connection's agents are selected, so that both lists are fetched together."""
    selected = info.context.selected(info)
    return "numbers" in selected.get("nodes", {}) or "numbers" in selected.get("edges", {}).get("node", {})
