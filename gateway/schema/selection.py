"""Reads selection sets: the fields that they select, through fragments.

Facts: GraphQL specification, sections 3.13 and 6.3.2.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphql import DirectiveNode, FieldNode, FragmentDefinitionNode, InlineFragmentNode, SelectionSetNode, VariableNode
from graphql.language import BooleanValueNode

Selected = Mapping[str, "Selected"]
"""Names of selected fields, with the selection below each."""

Fragments = Callable[[str], FragmentDefinitionNode | None]
"""Returns the fragment with a name, or None."""


def collect_fields(
    selection_sets: Iterable[SelectionSetNode | None],
    fragments: Fragments,
    included: Callable[[Sequence[DirectiveNode]], bool] = lambda _: True,
) -> list[FieldNode]:
    """Return the fields of selection sets in order; each fragment is read once, unknown ones are skipped.

    Fragments apply whatever their type: the schema has no interfaces or unions.
    """
    fields: list[FieldNode] = []
    entered: set[str] = set()  # a fragment that is spread twice on each level would double on each
    todo = [*selection_sets]
    for selection_set in todo:
        for node in selection_set.selections if selection_set else ():
            if node.directives and not included(node.directives):
                continue
            if isinstance(node, FieldNode):
                fields.append(node)
            elif isinstance(node, InlineFragmentNode):
                todo.append(node.selection_set)
            elif (name := node.name.value) not in entered:  # type: ignore[attr-defined]
                entered.add(name)
                fragment = fragments(name)
                todo.append(fragment.selection_set if fragment else None)
    return fields


def response_key(field: FieldNode) -> str:
    """Return a field's name in the response."""
    return (field.alias or field.name).value


def select(
    nodes: Sequence[FieldNode], fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]
) -> Selected:
    """Return what the fields of one response key select, after @skip and @include."""

    def included(directives: Sequence[DirectiveNode]) -> bool:
        return all(_holds(directive, variables) for directive in directives)

    below: dict[str, list[FieldNode]] = {}
    for node in collect_fields([node.selection_set for node in nodes], fragments.get, included):
        below.setdefault(node.name.value, []).append(node)
    return {name: select(fields, fragments, variables) for name, fields in below.items()}


def _holds(directive: DirectiveNode, variables: Mapping[str, Any]) -> bool:
    name = directive.name.value  # skip or include, each with one argument: nothing else is valid here
    value = directive.arguments[0].value  # type: ignore[index]
    given = variables.get(value.name.value) if isinstance(value, VariableNode) else None
    truth = value.value if isinstance(value, BooleanValueNode) else bool(given)
    return truth is (name == "include")
