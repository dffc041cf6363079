"""Executes operations: compiled if possible, else by graphql-core within bounds.

`answer` runs the compiled root fields of a query without graphql-core's executor. If they cannot be compiled, and for
mutations, `CompiledExecutor` runs graphql-core's algorithm and tries compiled selections on each object and list.
A selection that fails is executed again by graphql-core, so all errors, paths and null propagation are its own.
Loaders remember, so nothing is fetched twice. Root fields of a mutation are never compiled: a write is sent once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple, cast

import msgspec
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLInputType,
    GraphQLLeafType,
    GraphQLList,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    coerce_input_literal,
    coerce_input_value,
    get_named_type,
    get_nullable_type,
    is_non_null_type,
    located_error,
    type_from_ast,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.execution.values import VariableValues
from graphql.pyutils import Path, gather_with_cancel
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField

from gateway.execution.compiler import (
    GiveUp,
    Job,
    Root,
    Run,
    Selection,
    compile_root,
    compile_selection,
    finish,
)
from gateway.execution.errors import TooManyErrors, code_of
from gateway.execution.response import Bounds, ResponseTooLarge, encode
from gateway.schema.context import Context
from gateway.upstream.errors import BadResponse, ErrorCode
from gateway.upstream.models import Unreadable

Variables = Mapping[str, object]
Slow = Callable[[], Any]

_ROOT = Root()
_NO_VARIABLES = VariableValues({}, {})
MAX_STRING = 4096
"""Characters of a variable in compiled execution. Longer ones go to graphql-core, which rejects most of them."""
LIST_SLICE = 100
"""Objects of a list that graphql-core completes at once, as many as a page has: their keys are one batch."""
VALUES = 1000
"""Fields that graphql-core executes in one turn of the event loop, 15 to 25 ms. Smaller operations are not interrupted,
so that keys that are loaded at the same time are one batch."""
TRY = 10
"""Fields that take as long as one run of a compiled selection."""
ERROR_BYTES = 256
"""Bytes counted for an error: about the size of its JSON. It takes four times as much memory."""
FAILURE = 20
"""Fields that take as long to execute as one that fails."""
ENDED = (ResponseTooLarge, TooManyErrors)
"""Exceptions that end an operation wherever they are raised."""
LEAVES = frozenset({str, int, float, bool})
MAX_CONDITIONS = 32
"""Combinations of one operation's Boolean variables whose selections are kept; n variables have 2^n."""


class Counts(msgspec.Struct):
    """Selections executed since the process started."""

    compiled: int = 0
    """By compiled execution."""
    fallen_back: int = 0
    """By graphql-core: they cannot be compiled, or their compiled execution failed."""


class CompiledRun(NamedTuple):
    """The context and variables of one query, as `Run` names them."""

    context_value: Context
    variable_values: VariableValues


class Plans:
    """The compiled selections of one operation, kept as long as its document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode) -> None:
        self.query = schema.query_type if operation.operation is OperationType.QUERY else None
        """The type of a query's root fields; None for a mutation."""
        name = operation.name.value if operation.name else None
        self.build: Callable[..., Any] = partial(CompiledExecutor.build, schema, document, operation_name=name)
        """Makes the executor that compiles the root fields, or returns a list of errors."""
        definitions = operation.variable_definitions or ()
        # the document is valid: every type exists and every default fits
        self._types = {
            definition.variable.name.value: cast("GraphQLInputType", type_from_ast(schema, definition.type))
            for definition in definitions
        }
        self._defaults = {
            (name := definition.variable.name.value): coerce_input_literal(definition.default_value, self._types[name])
            for definition in definitions
            if definition.default_value
        }
        # @skip and @include read Boolean variables only
        self._conditions = [name for name, type_ in self._types.items() if get_named_type(type_).name == "Boolean"]
        self._kept: dict[tuple[object, ...], dict[object, Selection | None]] = {}
        self.selections = 0
        """Selections kept, those below others included."""

    @property
    def combinations(self) -> int:
        """Combinations of Boolean variables for which selections are kept."""
        return len(self._kept)

    def coerce(self, given: Variables) -> VariableValues:
        """Return the operation's variables as graphql-core would, without their sources, which are not needed.

        Raises:
            Exception: of any kind; graphql-core reports the error.
        """
        if not self._types:
            return _NO_VARIABLES
        coerced = dict(self._defaults)
        for name, type_ in self._types.items():
            if name in given:
                if type(value := given[name]) is str and len(value) > MAX_STRING:
                    raise GiveUp
                coerced[name] = coerce_input_value(value, type_)
            # by identity: Undefined equals None
            if coerced.get(name, Undefined) is Undefined and (name in given or is_non_null_type(type_)):
                raise GiveUp
        return VariableValues({}, coerced)

    def under(self, variables: Variables) -> dict[object, Selection | None]:
        """Return the selections that were compiled with the same Boolean variables."""
        answers = tuple(map(variables.get, self._conditions))
        selections = self._kept.get(answers)
        if selections is None:
            if len(self._kept) >= MAX_CONDITIONS:
                self._kept.clear()
                self.selections = 0
            selections = self._kept[answers] = {}
        return selections


class BoundedExecutor(StrawberryGraphQLCoreExecutionContext):
    """Executes one operation with graphql-core's algorithm, within bounds.

    Values are counted when they are completed. Lists of objects are completed in slices and kept as JSON, because
    dicts take up to twenty times as much memory.

    An object of a list with an unreadable value is left out, with an error at its path. Null in its place would null
    the whole list, because the lists of the schema contain non-null objects. The index in that path counts the
    objects that the upstream sent.

    Args:
        bounds: count the operation's bytes.
    """

    def __init__(self, *args: Any, bounds: Bounds, **more: Any) -> None:
        super().__init__(*args, **more)
        self._bounds = bounds
        self._values = 0
        bounds.failures.made = self.collected_errors.errors
        self._marked: set[Path] = set()
        self._shared: dict[tuple[object, ...], tuple[object, asyncio.Future[bytes | None]]] = {}
        """Objects that several others may refer to, and their JSON; None if it has errors, which have paths."""

    def handle_field_error(
        self, raw_error: Exception, return_type: GraphQLOutputType, field_details_list: list[FieldDetails], path: Path
    ) -> None:
        """Collect or count an error; raise it if the operation has to end."""
        if isinstance(raw_error, ENDED):
            raise raw_error
        failures, code = self._bounds.failures, code_of(raw_error)
        self._values += FAILURE
        if is_non_null_type(return_type):
            if failures.is_full(code):  # its place is not told
                raise raw_error
            super().handle_field_error(raw_error, return_type, field_details_list, path)
        self._mark(path)
        if failures.room(code):
            super().handle_field_error(raw_error, return_type, field_details_list, path)
            self._bounds.add(ERROR_BYTES)
        failures.check()

    def _mark(self, path: Path) -> None:
        """Remember that what is at this path, and what holds it, has errors of its own."""
        place: Path | None = path
        while place is not None and place not in self._marked:
            self._marked.add(place)
            place = place.prev

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: dict[str, list[FieldDetails]],
        position_context: Any,
    ) -> Any:
        """Execute an object's fields, and count their names."""
        self._values += len(grouped_field_set)
        self._bounds.add(sum(map(len, grouped_field_set)) + len('"":,') * len(grouped_field_set) + 1)
        return super().execute_fields(parent_type, source_value, path, grouped_field_set, position_context)

    def complete_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Complete a value, and count it where it is null or a leaf."""
        completed = super().complete_value(return_type, field_details_list, info, path, result, position_context)
        # non-null types are completed as nullable ones first, and counted there
        if (completed is None or type(completed) in LEAVES) and not is_non_null_type(return_type):
            self._bounds.add(len(encode(completed)))
        return completed

    @staticmethod
    def complete_leaf_value(return_type: GraphQLLeafType, result: Any) -> Any:
        """Complete a leaf, unless it is unreadable."""
        if isinstance(result, Unreadable):
            raise _unreadable()
        return StrawberryGraphQLCoreExecutionContext.complete_leaf_value(return_type, result)

    async def complete_awaitable_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Complete the result of a resolver, in another turn of the event loop if this one has been long."""
        paced = self._paced(result)
        return await super().complete_awaitable_value(
            return_type, field_details_list, info, path, paced, position_context
        )

    async def _paced(self, result: Awaitable[Any]) -> Any:
        try:
            value = await result
        except Exception:
            await self._turn()
            raise
        await self._turn()
        return value

    async def _turn(self) -> None:
        if self._values >= VALUES:
            await self._bounds.turn()
            self._values = 0

    def complete_object_value(
        self,
        return_type: GraphQLObjectType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Complete an object, but only once if many others refer to it and lists are selected below."""
        complete = partial(self._complete, return_type, field_details_list, info, path, result, position_context)
        listed = get_nullable_type(info.return_type) is not return_type
        if listed or not isinstance(result, msgspec.Struct) or not self._nests(return_type, field_details_list):
            return complete()
        # nodes live as long as their document, and `_shared` holds the object
        key = (id(result), *(id(detail.node) for detail in field_details_list))
        return self._complete_once(key, path, result, complete)

    def _complete(
        self,
        return_type: GraphQLObjectType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        return super().complete_object_value(return_type, field_details_list, info, path, result, position_context)

    def _nests(self, type_: GraphQLObjectType, details: list[FieldDetails]) -> bool:
        selected = self.collect_subfields(type_, details).grouped_field_set.values()
        return any(detail.node.selection_set for each in selected for detail in each)

    async def _complete_once(self, key: tuple[object, ...], path: Path, result: object, complete: Slow) -> Any:
        if key in self._shared:
            _, completing = self._shared[key]
            if not completing.done():
                await asyncio.wait([completing])  # unlike await, it leaves the future alone if it is cancelled
            if completed := completing.result():
                self._bounds.add(len(completed))
                return msgspec.Raw(completed)
            found = complete()
            return await found if isawaitable(found) else found
        completing = asyncio.get_running_loop().create_future()
        self._shared[key] = result, completing
        completed = None
        try:
            found = complete()
            found = await found if isawaitable(found) else found
            if path not in self._marked:
                completed = encode(found)
        finally:
            completing.set_result(completed)
        return msgspec.Raw(completed) if completed else found

    def complete_list_value(
        self,
        return_type: GraphQLList[Any],
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Complete a list; one of objects in slices, to JSON."""
        self._bounds.add(max(len("[]"), len(result) + 1))
        complete: Callable[..., Any] = super().complete_list_value
        if isinstance(get_nullable_type(return_type.of_type), GraphQLObjectType):
            complete, result = self._complete_objects, list(result)  # introspection returns views of dicts
        return complete(return_type, field_details_list, info, path, result, position_context)

    async def _complete_objects(
        self,
        return_type: GraphQLList[Any],
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Sequence[Any],
        position_context: Any,
    ) -> msgspec.Raw:
        type_: GraphQLObjectType = get_nullable_type(return_type.of_type)
        slices: list[bytes | memoryview] = []
        kept = 0
        for start in range(0, len(result), LIST_SLICE):
            await self._turn()
            self._bounds.session.check_deadline()
            items: list[Any] = []
            pending: list[int] = []
            try:
                for sent, item in enumerate(result[start : start + LIST_SLICE], start):
                    if not self._readable(type_, field_details_list, path.add_key(sent, None), item):
                        continue
                    place = path.add_key(kept + len(items), None)
                    if self.complete_list_item_value(
                        item, items, return_type.of_type, field_details_list, info, place, position_context
                    ):
                        pending.append(len(items) - 1)
            except Exception:
                self.settle_in_background([items[at] for at in pending])
                raise
            for at, item in zip(pending, await gather_with_cancel(*[items[at] for at in pending]), strict=True):
                items[at] = item
            kept += len(items)
            if items:
                slices += (b"," if slices else b"", memoryview(encode(items))[1:-1])
                items.clear()
        return msgspec.Raw(b"".join((b"[", *slices, b"]")))

    def _readable(self, type_: GraphQLObjectType, details: list[FieldDetails], path: Path, value: object) -> bool:
        """Return whether all selected non-null attributes of an object are readable; collect an error if not."""
        for key, selected in self.collect_subfields(type_, details).grouped_field_set.items():
            field = type_.fields.get(selected[0].node.name.value)
            definition: StrawberryField | None = field and field.extensions.get("strawberry-definition")
            if field is None or definition is None or not (definition.is_basic_field and is_non_null_type(field.type)):
                continue
            found, below = getattr(value, definition.python_name, None), path.add_key(key, type_.name)
            if isinstance(found, Unreadable):
                nodes = [detail.node for detail in selected]
                self._values += FAILURE
                self._mark(below)
                if self._bounds.failures.room(ErrorCode.UPSTREAM_ERROR):
                    self._bounds.add(ERROR_BYTES)
                    self.collected_errors.add(located_error(_unreadable(), nodes, below.as_list()), below)
                self._bounds.failures.check()
                return False
            inner = field.type.of_type
            if isinstance(inner, GraphQLObjectType) and not self._readable(inner, selected, below, found):
                return False
        return True


class CompiledExecutor(BoundedExecutor):
    """Executes one operation, with compiled selections if possible.

    Args:
        plans: the operation's compiled selections.
        counts: count each selection.
    """

    def __init__(self, *args: Any, plans: Plans, counts: Counts, **more: Any) -> None:
        super().__init__(*args, **more)
        self._plans = plans
        self._selections = plans.under(self.variable_values.coerced)
        self._counts = counts

    def find_root(self, query: GraphQLObjectType) -> None:
        """Compile a query's root fields; they are kept under their type."""
        self._find(query, partial(compile_root, self, query))

    def _complete(
        self,
        return_type: GraphQLObjectType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        slow = partial(super()._complete, return_type, field_details_list, info, path, result, position_context)
        if return_type.name.startswith("__"):
            return slow()
        # nodes exist as long as their document, and so do the selections
        key = (return_type.name, *(id(detail.node) for detail in field_details_list))
        selection = self._find(key, partial(compile_selection, self, return_type, field_details_list))
        if selection is None:
            self._counts.fallen_back += 1
            return slow()
        return self._try(selection, result, path, slow)

    def _find(self, key: object, compile_: Callable[[], Selection]) -> Selection | None:
        try:
            return self._selections[key]
        except KeyError:
            pass
        try:
            selection = compile_()
            self._plans.selections += selection.size
        except (GiveUp, GraphQLError):
            selection = None
        self._selections[key] = selection
        return selection

    async def _try(self, selection: Selection, object_: object, path: Path, slow: Slow) -> Any:
        """Run a compiled selection on an object; if it fails, let graphql-core complete it."""
        self._values += TRY
        bounds = self._bounds.attempt()
        try:
            row, errors = await _run(selection, object_, self, bounds, path)
        except ENDED:
            raise
        except Exception:  # noqa: BLE001 - graphql-core meets the error again and reports it
            self._counts.fallen_back += 1
            bounds.take_back()
        else:
            self._counts.compiled += 1
            for error, place in errors:
                self._mark(place)
                self.collected_errors.add(error, place)
            return row
        completed = slow()
        return await completed if isawaitable(completed) else completed


def _unreadable() -> BadResponse:
    return BadResponse("The upstream's answer left this value out, or it cannot be read; try again later.")


async def _run(
    selection: Selection, object_: object, run: Run, bounds: Bounds, path: Path | None = None
) -> tuple[msgspec.Struct, list[tuple[GraphQLError, Path]]]:
    """Return an object's row and the errors in it, each with its path."""
    jobs: list[Job] = []
    (row,) = await selection.begin([object_], None, bounds, jobs)
    await finish(run, jobs)
    errors = await bounds.failed.errors(selection, row, path, bounds)
    bounds.add(ERROR_BYTES * len(errors))
    return row, errors


async def answer(
    plans: Plans, counts: Counts, context: Context, variables: Variables, bounds: Bounds
) -> ExecutionResult | None:
    """Execute a query with compiled selections; return None if graphql-core has to execute it.

    Args:
        plans: the operation's compiled selections.
        counts: count the attempt.
        context: the operation's context.
        variables: as the client sent them.
        bounds: count the operation's bytes.

    Raises:
        ResponseTooLarge: the response would be.
    """
    try:
        run = CompiledRun(context, plans.coerce(variables))
        selections = plans.under(run.variable_values.coerced)
        if plans.query not in selections:
            plans.build(raw_variable_values=variables, plans=plans, counts=counts, bounds=bounds).find_root(plans.query)
        selection = selections[plans.query]
        row, errors = await _run(selection, _ROOT, run, bounds) if selection else (None, [])
    except ENDED:
        raise
    except Exception:  # noqa: BLE001 - graphql-core meets the error again and reports it
        row = None
    if row is None:
        counts.fallen_back += 1
        bounds.take_back()
        return None
    counts.compiled += 1
    data: Any = row  # has the same JSON as graphql-core's dict
    return ExecutionResult(data, [*(error for error, _ in errors), *bounds.failures.left_out()] or None)
