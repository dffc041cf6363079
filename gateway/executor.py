"""graphql-core's executor with a compiled way to answer selection sets.

`execution` runs it where compiled execution is on. It tries `compiled` for a query as a whole, and for each
object and list of objects that graphql-core completes; where that gives up, graphql-core does the same again,
so that errors, paths and null propagation are always its own. Loaders memoise, so nothing is fetched twice.
A mutation's root fields are graphql-core's alone: a write is never tried twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from operator import itemgetter
from typing import Any

import msgspec
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLList,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    NamedTypeNode,
    OperationDefinitionNode,
    OperationType,
    TypeNode,
    get_nullable_type,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from gateway.compiled import GiveUp, Root, Selection, compile_root, compile_selection

Answer = Callable[[list[msgspec.Struct]], Any]
Slow = Callable[[], Any]

MAX_CONDITIONS = 32
"""Answers to one operation's Boolean variables whose selections are kept; n variables have 2^n."""


class Counts(msgspec.Struct):
    """Selections since the process began."""

    compiled: int = 0
    """Answered by compiled execution."""
    fallen_back: int = 0
    """Left to graphql-core: not covered, or given up on the way."""


class Plans:
    """The compiled selections of one operation; they live as long as its document."""

    def __init__(self, operation: OperationDefinitionNode) -> None:
        # @skip and @include read no variable but Boolean ones
        self._conditions = [
            definition.variable.name.value
            for definition in operation.variable_definitions or ()
            if _name(definition.type) == "Boolean"
        ]
        self._kept: dict[tuple[object, ...], dict[object, Selection | None]] = {}

    def under(self, variables: Mapping[str, object]) -> dict[object, Selection | None]:
        """Return the selections that were compiled where @skip and @include had the same answers."""
        answers = tuple(map(variables.get, self._conditions))
        if answers not in self._kept and len(self._kept) >= MAX_CONDITIONS:
            self._kept.clear()
        return self._kept.setdefault(answers, {})


class CompiledExecutor(StrawberryGraphQLCoreExecutionContext):
    """Executes one operation.

    Args:
        plans: what was compiled for the operation before.
        counts: where each try is counted.
    """

    def __init__(self, *args: Any, plans: Plans, counts: Counts, **more: Any) -> None:
        super().__init__(*args, **more)
        self._selections = plans.under(self.variable_values.coerced)
        self._counts = counts

    def execute_operation(self, serially: bool | None = None) -> Any:  # noqa: FBT001 - graphql-core's signature
        """Answer an operation."""
        slow = partial(super().execute_operation, serially)
        root = self.schema.query_type
        if self.operation.operation is not OperationType.QUERY or root is None:
            return slow()
        selection = self._find(root.name, partial(compile_root, self, root))
        return self._try(selection, [Root()], _result, slow)

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Answer an object."""
        slow = partial(
            super().complete_object_value, return_type, field_details_list, info, path, result, position_context
        )
        return self._complete(return_type, field_details_list, [result], itemgetter(0), slow)

    def complete_list_value(
        self,
        return_type: GraphQLList[Any],
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Answer a list of objects."""
        slow = partial(
            super().complete_list_value, return_type, field_details_list, info, path, result, position_context
        )
        item = get_nullable_type(return_type.of_type)
        return self._complete(item, field_details_list, result, _rows, slow) if type(result) is list else slow()

    def _complete(
        self, type_: GraphQLOutputType, details: list[FieldDetails], objects: list[object], answer: Answer, slow: Slow
    ) -> Any:
        """Answer objects of one type with what the fields of one response key select on it."""
        if not isinstance(type_, GraphQLObjectType) or type_.name.startswith("__"):  # nothing to cover
            return slow()
        # nodes live as long as their document, and so do the selections
        key = (type_.name, *(id(detail.node) for detail in details))
        return self._try(self._find(key, partial(compile_selection, self, type_, details)), objects, answer, slow)

    def _find(self, key: object, compile_: Callable[[], Selection]) -> Selection | None:
        try:
            return self._selections[key]
        except KeyError:
            pass
        try:
            selection = compile_()
        except (GiveUp, GraphQLError):
            selection = None
        self._selections[key] = selection
        return selection

    def _try(self, selection: Selection | None, objects: Sequence[object], answer: Answer, slow: Slow) -> Any:
        """Run a selection on objects and make an answer of the rows, or have graphql-core answer."""
        if selection is None:
            self._counts.fallen_back += 1
            return slow()
        try:
            begun: Any = selection.begin(self, objects)
        except Exception:  # noqa: BLE001 - graphql-core meets it again, and tells of it
            self._counts.fallen_back += 1
            return slow()
        if selection.waits:
            return self._wait(begun(), answer, slow)
        self._counts.compiled += 1
        return answer(begun)

    async def _wait(self, run: Awaitable[list[msgspec.Struct]], answer: Answer, slow: Slow) -> Any:
        try:
            rows = await run
        except Exception:  # noqa: BLE001 - as above
            self._counts.fallen_back += 1
        else:
            self._counts.compiled += 1
            return answer(rows)
        completed = slow()
        return await completed if isawaitable(completed) else completed


def _result(rows: list[msgspec.Struct]) -> ExecutionResult:
    data: Any = rows[0]  # encoded as the dict that graphql-core speaks of
    return ExecutionResult(data, None)


def _rows(rows: list[msgspec.Struct]) -> list[msgspec.Struct]:
    return rows


def _name(type_: TypeNode) -> str:
    while not isinstance(type_, NamedTypeNode):
        type_ = type_.type  # type: ignore[attr-defined]  # NonNull or a list
    return type_.name.value
