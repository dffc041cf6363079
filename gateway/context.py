"""What a resolver finds in `info`: the operation's loaders, and what its field was asked for.

`endpoint` makes one `Context` for each operation; nothing in it outlives the operation. What was asked for is a tree
of field names, through fragments and over aliases: in compiled execution made once, when the field is compiled.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import strawberry
from graphql import FieldNode, FragmentDefinitionNode, InlineFragmentNode, VariableNode
from graphql.language import BooleanValueNode, DirectiveNode

from gateway.loaders import Loaders
from gateway.upstream.client import Session

Selected = Mapping[str, "Selected"]
"""The names of the fields that are selected, with what is selected below each."""


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


def select(
    nodes: Sequence[FieldNode], fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]
) -> Selected:
    """Return what fields of one response key select, through fragments, as @skip and @include say."""
    below: dict[str, list[FieldNode]] = {}
    entered: set[str] = set()  # a fragment that is spread twice in a level, and so on below, doubles with each
    todo = [node.selection_set for node in nodes if node.selection_set]
    for selection_set in todo:
        for node in selection_set.selections:
            if not all(_included(directive, variables) for directive in node.directives or ()):
                continue
            if isinstance(node, FieldNode):
                below.setdefault(node.name.value, []).append(node)
            # every fragment applies: the schema has no interfaces or unions, and validation saw to the rest
            elif isinstance(node, InlineFragmentNode):
                todo.append(node.selection_set)
            elif (name := node.name.value) not in entered:  # type: ignore[attr-defined]
                entered.add(name)
                todo.append(fragments[name].selection_set)
    return {name: select(fields, fragments, variables) for name, fields in below.items()}


def _included(directive: DirectiveNode, variables: Mapping[str, Any]) -> bool:
    name = directive.name.value  # skip or include: nothing else is valid here, and each has its one argument
    value = directive.arguments[0].value  # type: ignore[index]
    given = variables.get(value.name.value) if isinstance(value, VariableNode) else None
    truth = value.value if isinstance(value, BooleanValueNode) else bool(given)
    return truth is (name == "include")
