"""Validates documents with GraphQL's rules, one of which is replaced by a linear one.

graphql-core's OverlappingFieldsCanBeMerged compares every pair of fields of one name: 280 fields, in a document within
all limits, took 470 ms. All composite types of this schema are objects. Then comparing each field with the first one
has the same result, in time linear in the merged document (specification, section 5.3.2, FieldsInSetCanMerge).
"""

import re
from typing import Any

from graphql import (
    ASTValidationRule,
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OverlappingFieldsCanBeMergedRule,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
    is_enum_type,
    is_specified_scalar_type,
    print_ast,
    specified_rules,
    validate,
)
from graphql.utilities.sort_value_node import sort_value_node
from graphql.validation import NoSchemaIntrospectionCustomRule
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from gateway.schema.selection import collect_fields, response_key

Rule = type[ASTValidationRule]

MAX_ERRORS = 5
"""Errors of one document. Each costs time and bytes; some repeat the client's value."""

MAX_NESTED_LISTS = 2
"""Levels of nested `numbers`. The response grows with that power of an agent's numbers."""
_TOO_NESTED = f"'numbers' is nested more than {MAX_NESTED_LISTS} times: the answer would grow without bound."


class SameFieldsMerge(ValidationRule):
    """Requires that fields with one response name are the same field with the same arguments.

    Also counts nested lists.
    """

    def __init__(self, context: ValidationContext) -> None:
        super().__init__(context)
        self._context = context

    def enter_operation_definition(self, node: OperationDefinitionNode, *_: Any) -> None:
        """Merge the operation level by level, fragments included, and compare the fields of each response name."""
        merged: list[tuple[list[SelectionSetNode], int]] = [([node.selection_set], 0)]
        seen: set[tuple[frozenset[int], int]] = set()  # fragments may be circular, or spread twice
        while merged:
            sets, lists = merged.pop()
            key = frozenset(map(id, sets)), lists
            if key in seen:
                continue
            seen.add(key)
            groups: dict[str, list[FieldNode]] = {}
            for field in collect_fields(sets, self._context.get_fragment):
                groups.setdefault(response_key(field), []).append(field)
            for name, fields in groups.items():
                if reason := _conflict(fields):
                    self._context.report_error(
                        GraphQLError(
                            f"Fields '{name}' conflict because {reason}. Use different aliases on the fields to fetch"
                            " both if this was intentional.",
                            [fields[0], fields[-1]],
                        )
                    )
                elif below := [field.selection_set for field in fields if field.selection_set]:
                    nested = lists + (fields[0].name.value == "numbers")
                    if nested > MAX_NESTED_LISTS:
                        self._context.report_error(GraphQLError(_TOO_NESTED, fields[0]))
                    else:
                        merged.append((below, nested))


class Validator:
    """Validates documents.

    Args:
        schema: graphql-core's schema.
        introspection: whether it is answered. If not, messages contain no names of the schema except those in the
            document.
    """

    def __init__(self, schema: GraphQLSchema, *, introspection: bool) -> None:
        self._schema = schema
        self._rules = rules(introspection=introspection)
        self.hides = not introspection
        self._names = _names(schema) if self.hides else frozenset()

    def problems(self, document: DocumentNode) -> list[GraphQLError]:
        """Return the errors of a document: at most `MAX_ERRORS`, each message once."""
        found = validate(self._schema, document, self._rules, max_errors=MAX_ERRORS, hide_suggestions=self.hides)
        messages = {error.message: error for error in reversed(found[:MAX_ERRORS])}
        return [self.masked(error, document) for error in reversed(messages.values())]

    def masked(self, error: GraphQLError, document: DocumentNode) -> GraphQLError:
        """Mask the schema's names in an error's message if introspection is not answered."""
        if self.hides and document.loc:
            hidden = self._names.difference(_WORD.findall(document.loc.source.body))
            error.message = _NAMED.sub(lambda match: "…" if match[0] in hidden else match[0], error.message)
        return error


_WORD = re.compile(r"\w+")
_NAMED = re.compile(r"(?<=['.(\[@$])\w+(?=['.:)!\]( |])")
"""A name as messages write them: `'Agent'`, `'[Agent!]'`, `'Agent.numbers'`, `'Query.agent(id:)'`."""


def _names(schema: GraphQLSchema) -> frozenset[str]:
    """Return the names of the schema's own types, fields, arguments and enum values."""
    names: set[str] = set()
    for name, type_ in schema.type_map.items():
        if name.startswith("__") or is_specified_scalar_type(type_):
            continue
        fields: dict[str, Any] = getattr(type_, "fields", {})
        names.update([name], fields, type_.values if is_enum_type(type_) else ())
        names.update(*(getattr(field, "args", ()) for field in fields.values()))
    return frozenset(names)


def rules(*, introspection: bool) -> tuple[Rule, ...]:
    """Return the validation rules."""
    own = tuple(SameFieldsMerge if rule is OverlappingFieldsCanBeMergedRule else rule for rule in specified_rules)
    own += (MaybeNullValidationRule, OneOfInputValidationRule)  # Strawberry's, for its inputs
    return own if introspection else (*own, NoSchemaIntrospectionCustomRule)


def _conflict(fields: list[FieldNode]) -> str:
    """Return why fields cannot be merged, or an empty string."""
    first = fields[0]
    arguments = _arguments(first) if len(fields) > 1 else ""
    for field in fields[1:]:
        if field.name.value != first.name.value:
            return f"'{first.name.value}' and '{field.name.value}' are different fields"
        if _arguments(field) != arguments:
            return "they have differing arguments"
    return ""


def _arguments(field: FieldNode) -> str:
    if not field.arguments:
        return ""
    values = (f"{argument.name.value}:{print_ast(sort_value_node(argument.value))}" for argument in field.arguments)
    return ",".join(sorted(values))
