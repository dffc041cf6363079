"""Selection sets compiled to columns: many objects in, one row for each out, breadth first.

`executor` compiles and runs them. A field is read off all objects at once, and one that reaches across is
fetched once for all of them. The way is optimistic: at whatever it does not expect (null where there must be
none, an odd type, an exception) it gives up, and what was to be answered is graphql-core's to do. Rows are
msgspec Structs, cheaper to make and to encode than dicts. Facts: GraphQL specification, section 6.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, islice, repeat
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec
from graphql import (
    GraphQLEnumType,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    VariableNode,
    get_argument_values,
    get_named_type,
    get_nullable_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails, collect_fields, collect_subfields
from graphql.execution.values import VariableValues
from graphql.pyutils import gather_with_cancel
from strawberry.types.field import StrawberryField

from gateway.context import Context, Look
from gateway.schema import SCHEMA

Objects = Sequence[object]
Rows = list[msgspec.Struct]
Batch = Callable[..., Awaitable[Objects]]
Fetch = Callable[["Run", Objects], Awaitable[Objects]]
"""Brings a field's value for each object: an object, a list, None or an exception."""
Later = Callable[[], Awaitable[Any]]
"""What is left to do where something is to be fetched; begins when it is called."""

_LEAVES: dict[str, type] = {"ID": str, "String": str, "DateTime": str, "Int": int, "Boolean": bool}
"""What a leaf's source must be to be its own answer; anything else graphql-core may coerce or refuse."""
_INT = range(-(2**31), 2**31)


class GiveUp(Exception):
    """The compiled way does not lead there."""


class Run(Protocol):
    """What one operation's selections are run with; graphql-core's executor is one."""

    @property
    def context_value(self) -> Context: ...  # noqa: D102 - graphql-core's words

    @property
    def variable_values(self) -> VariableValues: ...  # noqa: D102


class Root(msgspec.Struct):
    """The one object that root fields are selected on."""


class Column(NamedTuple):
    """One field of a selection set.

    `begin` answers it for all objects, or where it `waits` returns what does so later; it raises as `Selection.begin`.
    """

    begin: Callable[[Run, Objects], Any]
    waits: bool = False


class Selection:
    """A selection set on one type of object.

    Args:
        columns: what answers each response key, in the order of the answer.
        names: the fields that are selected, by their own names.
    """

    __slots__ = ("_columns", "_row", "_waiting", "names", "waits")

    def __init__(self, columns: Mapping[str, Column], names: frozenset[str]) -> None:
        if not columns:
            raise GiveUp
        self.names = names
        self._row = _row_class(tuple(columns))
        self._columns = [column.begin for column in columns.values()]
        self._waiting = [at for at, column in enumerate(columns.values()) if column.waits]
        self.waits = bool(self._waiting)
        """Whether anything is fetched."""

    def begin(self, run: Run, objects: Objects) -> Rows | Later:
        """Answer the selection set for each object: with rows, or where it waits with what brings them.

        All that can be read is found fit before anything is fetched.

        Raises:
            Exception: of any kind, as what it returns does: graphql-core is to do it, or to tell what is wrong.
        """
        if not all(issubclass(kind, msgspec.Struct) for kind in set(map(type, objects))):
            raise GiveUp
        columns = [begin(run, objects) for begin in self._columns]
        return partial(self._finish, columns) if self.waits else list(map(self._row, *columns))

    async def _finish(self, columns: list[Any]) -> Rows:
        if len(self._waiting) == 1:
            at = self._waiting[0]
            columns[at] = await columns[at]()
        else:
            fetched = await gather_with_cancel(*(columns[at]() for at in self._waiting))
            for at, column in zip(self._waiting, fetched, strict=True):
                columns[at] = column
        return list(map(self._row, *columns))


@lru_cache(maxsize=1024)
def _row_class(keys: tuple[str, ...]) -> Callable[..., msgspec.Struct]:
    names = {f"f{at}": key for at, key in enumerate(keys)}
    # rows make a tree, so no cycle is missed where the collector leaves them out
    return msgspec.defstruct("Row", [(name, object) for name in names], rename=names, gc=False)


def compile_root(executor: Executor[Any], type_: GraphQLObjectType) -> Selection:
    """Compile an operation's root fields, to be run on one `Root`; raises as `compile_selection`."""
    fields = collect_fields(
        executor.schema,
        executor.fragments,
        executor.variable_values,
        type_,
        executor.operation,
        executor.hide_suggestions,
    )
    return _compile(executor, type_, fields.grouped_field_set)


def compile_selection(executor: Executor[Any], type_: GraphQLObjectType, details: list[FieldDetails]) -> Selection:
    """Compile what fields of one response key select on a type of object.

    Raises:
        GiveUp: something in it is not covered.
        GraphQLError: an argument cannot be used.
    """
    fields = collect_subfields(
        executor.schema,
        executor.fragments,
        executor.variable_values,
        executor.operation,
        type_,
        details,
        executor.hide_suggestions,
    )
    return _compile(executor, type_, fields.grouped_field_set)


def _compile(executor: Executor[Any], type_: GraphQLObjectType, fields: Mapping[str, list[FieldDetails]]) -> Selection:
    columns = {}
    for key, details in fields.items():
        name = details[0].node.name.value
        field = type_.fields.get(name)
        definition: StrawberryField | None = field and field.extensions.get("strawberry-definition")
        if name == "__typename":
            columns[key] = _typename(type_.name)
        elif field is None or definition is None:  # introspection
            raise GiveUp
        elif is_leaf_type(get_nullable_type(field.type)):
            columns[key] = _leaf(definition, field.type)
        else:
            columns[key] = _child(executor, field, definition, details)
    return Selection(columns, frozenset(details[0].node.name.value for details in fields.values()))


def _typename(name: str) -> Column:
    return Column(lambda _, objects: repeat(name, len(objects)))


def _leaf(definition: StrawberryField, type_: GraphQLOutputType) -> Column:
    named = get_named_type(type_)
    enum = named.wrapped_cls if isinstance(named, GraphQLEnumType) else None  # type: ignore[attr-defined]
    kind = enum or _LEAVES.get(named.name)
    if kind is None or not definition.is_basic_field:
        raise GiveUp
    kinds = {kind} if is_non_null_type(type_) else {kind, type(None)}
    read = attrgetter(definition.python_name)

    def begin(_: Run, objects: Objects) -> Iterable[object]:
        values: list[Any] = list(map(read, objects))
        if not kinds.issuperset(map(type, values)) or (kind is int and not all(value in _INT for value in values)):
            raise GiveUp
        return map(attrgetter("_name_"), values) if enum else values

    return Column(begin)


def _child(
    executor: Executor[Any], field: GraphQLField, definition: StrawberryField, details: list[FieldDetails]
) -> Column:
    """Return the column of objects or lists of them, read off each object or fetched for all."""
    type_: Any = get_nullable_type(field.type)
    many, nullable = is_list_type(type_), type_ is field.type
    selection = compile_selection(executor, get_nullable_type(type_.of_type) if many else type_, details)
    flatten = _lists if many else _distinct

    def answer(run: Run, values: Sequence[Any]) -> Iterable[object] | Later:
        if not nullable and any(value is None for value in values):
            raise GiveUp
        objects, place = flatten(values)
        rows: Any = selection.begin(run, objects)
        if not selection.waits:
            return place(rows)

        async def finish() -> Iterable[object]:
            return place(await rows())

        return finish

    if definition.is_basic_field:
        read = attrgetter(definition.python_name)
        return Column(lambda run, objects: answer(run, list(map(read, objects))), selection.waits)
    fetch = _fetch(executor, field, definition, details[0], selection.names)

    async def fetched(run: Run, objects: Objects) -> Iterable[object]:
        begun: Any = answer(run, await fetch(run, objects))
        column: Iterable[object] = await begun() if selection.waits else begun
        return column

    return Column(lambda run, objects: partial(fetched, run, objects), waits=True)


def _distinct(values: Sequence[Any]) -> tuple[Objects, Callable[[Rows], Iterable[object]]]:
    """Take an object that many reach once: its rows would be equal."""
    distinct = {id(value): value for value in values if value is not None}
    return list(distinct.values()), lambda rows: map(dict(zip(distinct, rows, strict=True)).get, map(id, values))


def _lists(values: Sequence[Any]) -> tuple[Objects, Callable[[Rows], Iterable[object]]]:
    """Take the objects of all lists as one list."""
    if not {list, type(None)}.issuperset(map(type, values)):
        raise GiveUp

    def place(rows: Rows) -> Iterable[object]:
        rest = iter(rows)
        return [None if value is None else list(islice(rest, len(value))) for value in values]

    return list(chain.from_iterable(filter(None, values))), place


def _fetch(
    executor: Executor[Any],
    field: GraphQLField,
    definition: StrawberryField,
    detail: FieldDetails,
    names: frozenset[str],
) -> Fetch:
    batch: Batch = definition.metadata.get("batch") or _one_by_one(definition)
    # a leaf's coerced value is what Strawberry hands on, so nothing is left to convert but the name
    named = {SCHEMA.config.name_converter.from_argument(given): given.python_name for given in definition.arguments}
    if not all(is_leaf_type(get_nullable_type(argument.type)) for argument in field.args.values()):
        raise GiveUp

    def evaluate(run: Run) -> Mapping[str, Any]:
        given = get_argument_values(field, detail.node, run.variable_values)
        return {named[name]: value for name, value in given.items()}

    variable = any(isinstance(argument.value, VariableNode) for argument in detail.node.arguments or ())
    constant = None if variable else evaluate(executor)

    async def fetch(run: Run, objects: Objects) -> Objects:
        arguments = evaluate(run) if constant is None else constant
        return await batch(Look(run.context_value, names), objects, **arguments)

    return fetch


def _one_by_one(definition: StrawberryField) -> Batch:
    """Return the batch of a resolver that has none: of a root field, which has one object."""
    resolver: Any = definition.base_resolver
    # what does not ask the loaders may answer differently when graphql-core asks again
    if not definition.is_async or not resolver.self_parameter:
        raise GiveUp

    async def batch(look: Look, objects: Objects, **arguments: Any) -> Objects:
        return [await resolver.wrapped_func(root, look, **arguments) for root in objects]

    return batch
