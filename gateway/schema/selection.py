"""Reads what is selected below a field: a tree of field names, through fragments and over aliases."""

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import FieldNode, FragmentDefinitionNode, InlineFragmentNode, VariableNode
from graphql.language import BooleanValueNode, DirectiveNode

Selected = Mapping[str, "Selected"]
"""The names of the fields that are selected, with what is selected below each."""


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
