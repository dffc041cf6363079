"""What one operation asks for: its fields by response key, and the arguments of its lists. Pure.

`cost` walks a valid operation with it. Variables have no values here: at worst they include what they could, and
typically they have their defaults. Facts: GraphQL specification, sections 3.13 and 6.3.2.
"""

from collections.abc import Iterable, Mapping

from graphql.language import ast, print_ast

from gateway.upstream.paging import MAX_LIMIT

DEFAULT_FIRST = 50
"""What `first` is where an operation does not say (`schema.queries`)."""

Fields = list[ast.FieldNode]
"""The fields of one response key."""


class Asked:
    """What an operation asks for, with its variables taken as the case has them."""

    def __init__(
        self,
        operation: ast.OperationDefinitionNode,
        fragments: Mapping[str, ast.FragmentDefinitionNode],
        *,
        worst: bool,
    ) -> None:
        self.operation = operation
        self.worst = worst
        self._fragments = fragments
        self._defaults = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}

    def below(self, nodes: Iterable[ast.FieldNode | ast.OperationDefinitionNode]) -> dict[str, Fields]:
        """Return the fields selected below these nodes by response key, through fragments."""
        fields: dict[str, Fields] = {}
        todo: list[ast.SelectionSetNode | None] = [node.selection_set for node in nodes]
        spread: set[str] = set()
        while todo:
            selections = todo.pop(0)
            for node in selections.selections if selections else ():
                if not all(map(self._included, node.directives or ())):
                    continue
                if isinstance(node, ast.FieldNode):
                    fields.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
                elif isinstance(node, ast.InlineFragmentNode):
                    todo.append(node.selection_set)
                elif isinstance(node, ast.FragmentSpreadNode) and node.name.value not in spread:
                    spread.add(node.name.value)
                    todo.append(self._fragments[node.name.value].selection_set)
        return fields

    def names(self, fields: Fields) -> set[str]:
        """Return the names of the fields selected below a field, `__typename` apart."""
        return {nodes[0].name.value for nodes in self.below(fields).values()} - {"__typename"}

    def first(self, field: ast.FieldNode) -> int:
        """Return how many rows a list is asked for."""
        node = arguments(field).get("first")
        value = self._value(node)
        if isinstance(value, ast.IntValueNode):
            return max(1, min(int(value.value), MAX_LIMIT))
        return MAX_LIMIT if self.worst and node else DEFAULT_FIRST

    def given(self, field: ast.FieldNode, *names: str) -> str:
        """Return the text of those arguments that are, or at worst may be, given."""
        return ", ".join(
            f"{name}: {print_ast(node)}"
            for name, node in arguments(field).items()
            if name in names
            and (
                (self.worst and isinstance(node, ast.VariableNode))
                or not isinstance(self._value(node), ast.NullValueNode | None)
            )
        )

    def _value(self, node: ast.ValueNode | None) -> ast.ValueNode | None:
        return self._defaults[node.name.value] if isinstance(node, ast.VariableNode) else node

    def _included(self, directive: ast.DirectiveNode) -> bool:
        name = directive.name.value
        condition = directive.arguments[0].value if name in {"skip", "include"} and directive.arguments else None
        if isinstance(condition, ast.VariableNode) and not self.worst:
            condition = self._defaults[condition.name.value]
        return not isinstance(condition, ast.BooleanValueNode) or condition.value is (name == "include")


def arguments(field: ast.FieldNode) -> dict[str, ast.ValueNode]:
    """Return a field's arguments, sorted by name."""
    return {node.name.value: node.value for node in sorted(field.arguments or (), key=lambda node: node.name.value)}
