"""What a resolver finds in `info`: the operation's loaders, and what its field was asked for.

`endpoint` makes one `Context` for each operation; nothing in it outlives the operation. What was asked for is a tree
of field names, through fragments and over aliases: in compiled execution made once, when the field is compiled.
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
    """One operation's loaders, session and look-ahead."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._operation: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        self._selected: dict[tuple[int, ...], Selected] = {}

    @cached_property
    def loaders(self) -> Loaders:
        """What the operation loads with."""
        return Loaders(self.session, self._operation)

    def selected(self, info: "Info | Look") -> Selected:
        """Return what is selected below this field, as `select` does."""
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
    """What compiled execution gives a resolver, or a batch of them, for Strawberry's `Info`."""

    context: Context
    selected: Selected
    """What `Context.selected` returns for it."""


def only(info: Info | Look, names: Collection[str]) -> bool:
    """Tell whether the field was asked for nothing but some of these names (and `__typename`)."""
    return all(name in names or name == "__typename" for name in info.context.selected(info))


def reaches_numbers(info: Info | Look) -> bool:
    """Tell whether a connection of agents was asked for their numbers, so that they may be fetched together."""
    selected = info.context.selected(info)
    return "numbers" in selected.get("nodes", {}) or "numbers" in selected.get("edges", {}).get("node", {})
