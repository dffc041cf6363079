"""What a resolver finds in `info`: the operation's loaders, and what its field was asked for.

`endpoint` makes one `Context` for each operation; nothing in it outlives the operation.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import strawberry
from graphql import FieldNode, FragmentDefinitionNode, InlineFragmentNode, SelectionSetNode, VariableNode
from graphql.language import BooleanValueNode, DirectiveNode

from gateway.loaders import Loaders
from gateway.upstream.client import Session


class Context:
    """One operation's loaders, session and look-ahead."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.loaders = Loaders(session)
        self._selected: dict[tuple[int, ...], frozenset[str]] = {}

    def selected(self, info: "Info | Look") -> frozenset[str]:
        """Return the names of the fields selected below this one, through fragments, as @skip and @include say."""
        if isinstance(info, Look):
            return info.names
        raw: Any = info._raw_info  # noqa: SLF001 - Strawberry's own `selected_fields` converts the whole tree at each call
        nodes: list[FieldNode] = raw.field_nodes
        key = tuple(map(id, nodes))  # nodes live as long as the operation, and so does this memo
        known = self._selected.get(key)
        if known is None:
            names: set[str] = set()
            for selection_set in [node.selection_set for node in nodes if node.selection_set]:
                _collect(selection_set, raw.fragments, raw.variable_values, names)
            known = self._selected[key] = frozenset(names)
        return known


Info = strawberry.Info[Context, None]


class Look(NamedTuple):
    """What compiled execution gives a resolver, or a batch of them, for Strawberry's `Info`."""

    context: Context
    names: frozenset[str]
    """What `Context.selected` returns for it."""


def only(info: Info | Look, names: Collection[str]) -> bool:
    """Tell whether the field was asked for nothing but some of these names (and `__typename`)."""
    return all(name in names or name == "__typename" for name in info.context.selected(info))


def _collect(
    selections: SelectionSetNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    variables: Mapping[str, Any],
    names: set[str],
) -> None:
    for node in selections.selections:
        if not all(_included(directive, variables) for directive in node.directives or ()):
            continue
        if isinstance(node, FieldNode):
            names.add(node.name.value)
        else:
            # every fragment applies: the schema has no interfaces or unions, and validation saw to the rest
            below = node if isinstance(node, InlineFragmentNode) else fragments[node.name.value]  # type: ignore[attr-defined]
            _collect(below.selection_set, fragments, variables, names)


def _included(directive: DirectiveNode, variables: Mapping[str, Any]) -> bool:
    name = directive.name.value  # skip or include: nothing else is valid here, and each has its one argument
    value = directive.arguments[0].value  # type: ignore[index]
    given = variables.get(value.name.value) if isinstance(value, VariableNode) else None
    truth = value.value if isinstance(value, BooleanValueNode) else bool(given)
    return truth is (name == "include")
