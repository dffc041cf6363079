"""Selection sets compiled to columns: many objects in, one row for each out, breadth first.

`executor` compiles and runs them. One generated function reads the leaves of all objects and makes their rows, in
which a field that reaches across is filled in once it was fetched, for all of them at once. The way is
optimistic: at whatever it does not expect (null where there must be none, an odd type, an exception) it gives up,
and what was to be answered is graphql-core's to do. Rows are msgspec Structs, cheaper to make and to encode than
dicts. Facts: GraphQL specification, section 6.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
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

from gateway.schema import SCHEMA
from gateway.schema.context import Context, Look
from gateway.schema.selection import Selected, select

Objects = Sequence[Any]
Rows = list[msgspec.Struct]
Batch = Callable[..., Awaitable[Objects]]
"""Brings a field's value for each object: an object, a list, None or an exception."""

_LEAVES: dict[str, type] = {"ID": str, "String": str, "DateTime": str, "Int": int, "Boolean": bool}
"""What a leaf's source must be to be its own answer; anything else graphql-core may coerce or refuse."""


class GiveUp(Exception):
    """The compiled way does not lead there."""


class Run(Protocol):
    """What one operation's selections are run with; graphql-core's executor is one."""

    @property
    def context_value(self) -> Context: ...  # noqa: D102 - graphql-core's words

    @property
    def variable_values(self) -> VariableValues: ...  # noqa: D102


Job = Callable[[Run], Awaitable[list[Any]]]
"""Fetches a field for some objects, fills it in, and returns the jobs that are left below it."""


class Root(msgspec.Struct):
    """The one object that root fields are selected on."""


class Selection:
    """A selection set on one type of object.

    Args:
        make: makes the rows of those objects whose leaves are fit, given the columns of `read`.
        read: the fields that are objects or lists of them, read off each object.
        fetched: those that are fetched.
    """

    __slots__ = ("_fetched", "_make", "_read")

    def __init__(
        self, make: Callable[..., Rows], read: Sequence[tuple[str, "Child"]], fetched: Sequence["Fetched"]
    ) -> None:
        self._make = make
        self._read = [(attrgetter(name), child) for name, child in read]
        self._fetched = fetched

    def begin(self, objects: Objects, jobs: list[Job]) -> Rows:
        """Return a row for each object, and add the jobs that fill in what is to be fetched.

        All that can be read is found fit before anything is fetched.

        Raises:
            Exception: of any kind, as a job does: graphql-core is to do it, or to tell what is wrong.
        """
        for kind in set(map(type, objects)):
            if not issubclass(kind, msgspec.Struct):
                raise GiveUp
        rows = self._make(objects, *[child.begin(list(map(read, objects)), jobs) for read, child in self._read])
        if len(rows) != len(objects):
            raise GiveUp
        if rows:
            jobs.extend([partial(field.bring, objects, rows) for field in self._fetched])
        return rows


async def finish(run: Run, jobs: list[Job]) -> None:
    """Do jobs, and those that are left below them; raises as `Selection.begin`."""
    while len(jobs) == 1:
        jobs = await jobs[0](run)
    if jobs:
        await gather_with_cancel(*[finish(run, [job]) for job in jobs])


class Child(NamedTuple):
    """A field whose values are objects, or `many` of them."""

    selection: Selection
    many: bool
    nullable: bool

    def begin(self, values: Objects, jobs: list[Job]) -> Iterable[object]:
        """Return the field's column, as `Selection.begin` does rows."""
        return self._lists(values, jobs) if self.many else self._distinct(values, jobs)

    def _distinct(self, values: Objects, jobs: list[Job]) -> Iterable[object]:
        """Take an object that many reach once: its rows would be equal."""
        ids = list(map(id, values))
        distinct = dict(zip(ids, values, strict=True))
        if distinct.pop(id(None), values) is None and not self.nullable:
            raise GiveUp
        rows = self.selection.begin(list(distinct.values()), jobs)
        return map(dict(zip(distinct, rows, strict=True)).get, ids)

    def _lists(self, values: Objects, jobs: list[Job]) -> Iterable[object]:
        """Take the objects of all lists as one list."""
        if not ({list, type(None)} if self.nullable else {list}).issuperset(map(type, values)):
            raise GiveUp
        rest = iter(self.selection.begin(list(chain.from_iterable(filter(None, values))), jobs))
        return [None if value is None else list(islice(rest, len(value))) for value in values]


class Fetched(NamedTuple):
    """A field that is fetched for all objects at once."""

    name: str
    """Where in a row it belongs."""
    child: Child
    batch: Batch
    selected: Selected
    arguments: Callable[[Run], Mapping[str, Any]]

    async def bring(self, objects: Objects, rows: Rows, run: Run) -> list[Job]:
        """Do what a `Job` does."""
        values = await self.batch(Look(run.context_value, self.selected), objects, **self.arguments(run))
        jobs: list[Job] = []
        for row, value in zip(rows, self.child.begin(values, jobs), strict=True):
            setattr(row, self.name, value)
        return jobs


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
    sources: list[_Source] = []
    read: list[tuple[str, Child]] = []
    fetched: list[Fetched] = []
    for at, details in enumerate(fields.values()):
        name = details[0].node.name.value
        field = type_.fields.get(name)
        definition: StrawberryField | None = field and field.extensions.get("strawberry-definition")
        if name == "__typename":
            sources.append(_Source(repr(type_.name)))
        elif field is None or definition is None:  # introspection
            raise GiveUp
        elif is_leaf_type(get_nullable_type(field.type)):
            sources.append(_leaf(definition, field.type, at))
        elif definition.is_basic_field:
            sources.append(_Source(f"c{len(read)}"))
            read.append((definition.python_name, _child(executor, field, details)))
        else:
            sources.append(_Source("None"))
            fetched.append(_fetched(executor, field, definition, details, f"f{at}"))
    if not fields:
        raise GiveUp
    return Selection(_maker(tuple(fields), tuple(sources), len(read)), read, fetched)


class _Source(NamedTuple):
    """What is generated for one field: its value in a row, what tests it, and the type that the test knows as `k…`."""

    value: str
    test: str = ""
    kind: type | None = None


def _leaf(definition: StrawberryField, type_: GraphQLOutputType, at: int) -> _Source:
    named = get_named_type(type_)
    enum = named.wrapped_cls if isinstance(named, GraphQLEnumType) else None  # type: ignore[attr-defined]
    kind = enum or _LEAVES.get(named.name)
    if kind is None or not definition.is_basic_field:
        raise GiveUp
    value, read = f"v{at}", f"(v{at} := o.{definition.python_name})"
    test = f"k{at}" + (f" and {-(2**31)} <= {value} < {2**31}" if kind is int else "")
    test = f"type({read}) is {test}" if is_non_null_type(type_) else f"({read} is None or type({value}) is {test})"
    return _Source(f"{value} if {value} is None else {value}._name_" if enum else value, test, kind)


@lru_cache(maxsize=1024)
def _maker(keys: tuple[str, ...], sources: tuple[_Source, ...], columns: int) -> Callable[..., Rows]:
    names = {f"f{at}": key for at, key in enumerate(keys)}
    # rows make a tree, so no cycle is missed where the collector leaves them out
    row = msgspec.defstruct("Row", [(name, object) for name in names], rename=names, gc=False)
    given = "".join(f", c{at}" for at in range(columns))
    objects = f"zip(objects{given})" if columns else "objects"
    values = ", ".join(source.value for source in sources)
    test = " and ".join(source.test for source in sources if source.test) or "True"
    kinds = {f"k{at}": source.kind for at, source in enumerate(sources)}
    # half the time of a pass over the objects for each field; in it are names of the schema, and none of a caller's
    text = f"lambda objects{given}: [Row({values}) for o{given} in {objects} if {test}]"
    make: Callable[..., Rows] = eval(text, {"Row": row, **kinds})  # noqa: S307
    return make


def _child(executor: Executor[Any], field: GraphQLField, details: list[FieldDetails]) -> Child:
    type_: Any = get_nullable_type(field.type)
    many = is_list_type(type_)
    selection = compile_selection(executor, get_nullable_type(type_.of_type) if many else type_, details)
    return Child(selection, many, nullable=type_ is field.type)


def _fetched(
    executor: Executor[Any], field: GraphQLField, definition: StrawberryField, details: list[FieldDetails], name: str
) -> Fetched:
    node = details[0].node
    batch: Batch = definition.metadata.get("batch") or _one_by_one(definition)
    # a leaf's coerced value is what Strawberry hands on, so nothing is left to convert but the name
    named = {SCHEMA.config.name_converter.from_argument(given): given.python_name for given in definition.arguments}
    if not all(is_leaf_type(get_nullable_type(argument.type)) for argument in field.args.values()):
        raise GiveUp

    def arguments(run: Run) -> Mapping[str, Any]:
        given = get_argument_values(field, node, run.variable_values)
        return {named[name]: value for name, value in given.items()}

    variable = any(isinstance(argument.value, VariableNode) for argument in node.arguments or ())
    constant = {} if variable else arguments(executor)
    nodes = [detail.node for detail in details]
    selected = select(nodes, executor.fragment_definitions, executor.variable_values.coerced)
    child = _child(executor, field, details)
    return Fetched(name, child, batch, selected, arguments if variable else lambda _: constant)


def _one_by_one(definition: StrawberryField) -> Batch:
    """Return the batch of a resolver that has none: of a root field, which has one object."""
    resolver: Any = definition.base_resolver
    # what does not ask the loaders may answer differently when graphql-core asks again
    if not definition.is_async or not resolver.self_parameter:
        raise GiveUp

    async def batch(look: Look, objects: Objects, **arguments: Any) -> Objects:
        return [await resolver.wrapped_func(root, look, **arguments) for root in objects]

    return batch
