"""Compiles selection sets to functions that make the rows of many objects at once, breadth first.

One generated function reads the leaves of all objects and makes one row for each. A field that has to be fetched is
fetched for all objects at once and filled in afterwards. Anything unexpected (null for a non-null field, an unknown
type, an exception) ends compiled execution, and graphql-core executes the selection instead. Rows are msgspec
Structs, which cost less to make and to encode than dicts. Facts: GraphQL specification, section 6.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from operator import attrgetter, mul
from typing import Any, NamedTuple, Protocol

import msgspec
from graphql import (
    FieldNode,
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

from gateway.execution.response import SLICE, Bounds, encode
from gateway.schema import SCHEMA
from gateway.schema.context import Context, Look
from gateway.schema.selection import Selected, select
from gateway.upstream.errors import UpstreamError

Objects = Sequence[Any]
Rows = list[msgspec.Struct]
Weights = list[int] | None
"""How often the response contains each row; None if it contains each once."""
Batch = Callable[..., Awaitable[Objects]]
"""Loads a field's value for each object: an object, a list, None or an exception."""

_LEAVES: dict[str, type] = {"ID": str, "String": str, "DateTime": str, "Int": int, "Boolean": bool}
"""Python types that are sent unchanged; graphql-core may coerce or refuse any other."""


WIDTH = 64
"""Bytes of the longest leaf that is not text of the upstream: enum values, cursors, names of types."""


class GiveUp(Exception):
    """Raised if a selection cannot be compiled; graphql-core executes it instead."""


class Run(Protocol):
    """The context and variables of one operation; graphql-core's executor has both."""

    @property
    def context_value(self) -> Context: ...  # noqa: D102 - as graphql-core names them

    @property
    def variable_values(self) -> VariableValues: ...  # noqa: D102


Job = Callable[[Run], Awaitable[list[Any]]]
"""Fetches a field for some objects, fills it in, and returns the jobs below it."""


class Root(msgspec.Struct):
    """The object that root fields are selected on."""


class Selection:
    """A selection set on one type of object.

    Args:
        make: makes rows.
        read: fields whose objects or lists are attributes: name in a row, attribute, and the selection on it.
        fetched: fields whose objects or lists are fetched.
    """

    __slots__ = ("_fetched", "_make", "_read", "_text", "_unfilled", "_width", "children", "flat", "size")

    def __init__(
        self,
        make: "Make",
        read: Sequence[tuple[str, str, "Child"]],
        fetched: Sequence["Fetched"],
    ) -> None:
        self._make = make.rows
        self._width = make.width
        self._text = make.text
        self._read = [(name, attrgetter(attribute), child) for name, attribute, child in read]
        self._fetched = fetched
        self._unfilled = len(b"null") * (len(read) + len(fetched))
        self.flat = not self._unfilled
        """Whether all fields are leaves."""
        self.children = [(name, child) for name, _, child in read] + [(field.name, field.child) for field in fetched]
        """The fields that are objects or lists of them, each with its name in a row."""
        self.size: int = 1 + sum(child.selection.size for _, child in self.children)
        """Number of selections, those below included."""

    async def begin(self, objects: Objects, weights: Weights, bounds: Bounds, jobs: list[Job]) -> Rows:
        """Return a row for each object, and add the jobs that fetch fields.

        All attributes are checked before anything is fetched.

        Raises:
            ResponseTooLarge: the response would be.
            Exception: any other, also from a job: graphql-core executes the selection, or reports the error.
        """
        if not objects:
            return []
        rows = self.make(objects) if len(objects) <= SLICE else await self.make_slices(objects, bounds)
        bound = len(objects) * self._width + (bounds.session.received if self._text else 0)
        bounds.add_later(max(weights) * bound if weights else bound, self._count, objects, weights)
        for name, read, child in self._read:
            await child.fill(rows, name, list(map(read, objects)), weights, bounds, jobs)
        jobs.extend([partial(field.bring, objects, rows, weights, bounds) for field in self._fetched])
        return rows

    def _count(self, objects: Objects, weights: Weights) -> int:
        """Return the bytes of rows without those of the fields that are filled in."""
        rows = self._make(objects)
        if weights is None:
            return len(encode(rows)) - 1 - len(rows) * (1 + self._unfilled)
        return _sum([len(encode(row)) - self._unfilled for row in rows], weights)

    def make(self, objects: Objects) -> Rows:
        """Return rows with the leaves filled in; raises as `begin`."""
        for kind in set(map(type, objects)):
            if not issubclass(kind, msgspec.Struct):
                raise GiveUp
        rows = self._make(objects)
        if len(rows) != len(objects):
            raise GiveUp
        return rows

    async def make_slices(self, objects: Objects, bounds: Bounds) -> Rows:
        """Do what `make` does, in several turns of the event loop."""
        rows: Rows = []
        for at in range(0, len(objects), SLICE):
            await bounds.turn()
            rows += self.make(objects[at : at + SLICE])
        return rows


async def finish(run: Run, jobs: list[Job]) -> None:
    """Run jobs and the jobs below them; raises as `Selection.begin`."""
    while len(jobs) == 1:
        jobs = await jobs[0](run)
    if jobs:
        await gather_with_cancel(*[finish(run, [job]) for job in jobs])


class Child(NamedTuple):
    """A field whose values are objects, or lists of objects if `many`."""

    selection: Selection
    many: bool
    nullable: bool
    key: str
    """Of the response."""
    nodes: list[FieldNode]

    async def fill(
        self, rows: Rows, name: str, values: Objects, weights: Weights, bounds: Bounds, jobs: list[Job]
    ) -> None:
        """Set the field in each row; adds jobs and raises as `Selection.begin`."""
        long = len(rows) > SLICE
        if long:
            await bounds.turn()
        column = await (self._lists if self.many else self._distinct)(values, weights, bounds, jobs)
        if long:
            await bounds.turn()
        for row, value in zip(rows, column, strict=True):
            setattr(row, name, value)

    async def _distinct(self, values: Objects, weights: Weights, bounds: Bounds, jobs: list[Job]) -> Iterable[object]:
        """Make one row for each distinct object; its weight is the sum of those of all rows that refer to it."""
        ids = list(map(id, values))
        distinct = dict(zip(ids, values, strict=True))
        if distinct.pop(_NULL, values) is None and not self.nullable:
            raise GiveUp
        if len(ids) > SLICE:
            await bounds.turn()
        objects = list(distinct.values())
        if len(distinct) < len(ids):
            total = _total(ids, weights)  # in the order of `distinct`
            if absent := total.pop(_NULL, 0):
                bounds.add(len(b"null") * absent)
            weights = list(total.values())
        rows = await self.selection.begin(objects, weights, bounds, jobs)
        return map(dict(zip(distinct, rows, strict=True)).get, ids)

    async def _lists(self, values: Objects, weights: Weights, bounds: Bounds, jobs: list[Job]) -> Iterable[object]:
        """Make the rows of all lists at once."""
        if not ({list, type(None)} if self.nullable else {list}).issuperset(map(type, values)):
            raise GiveUp
        many = sum(map(len, filter(None, values))) > SLICE
        if many:
            await bounds.turn()
        objects = list(chain.from_iterable(filter(None, values)))
        if many and self.selection.flat:  # as JSON they take less memory, and are written once
            rest = iter(await self.selection.make_slices(objects, bounds))
            texts = [b"null" if value is None else encode(list(islice(rest, len(value)))) for value in values]
            bounds.add(_sum(map(len, texts), weights))
            return map(msgspec.Raw, texts)
        bound = len(b"null") * len(values) + len(objects)
        bounds.add_later(max(weights) * bound if weights else bound, _count_lists, values, weights)
        if weights:
            weights = [weight for weight, value in zip(weights, values, strict=True) for _ in value or ()]
        rest = iter(await self.selection.begin(objects, weights, bounds, jobs))
        return [None if value is None else list(islice(rest, len(value))) for value in values]


_NULL = id(None)


def _sum(counts: Iterable[int], weights: Weights) -> int:
    """Add up counts, each multiplied by its weight."""
    return sum(map(mul, weights, counts)) if weights else sum(counts)


def _count_lists(values: Sequence[list[Any] | None], weights: Weights) -> int:
    """Return the bytes of lists without those of their objects."""
    return _sum((len(b"null") if value is None else max(len(b"[]"), len(value) + 1) for value in values), weights)


def _total(ids: list[int], weights: Weights) -> dict[int, int]:
    """Add up the weights of each id."""
    total: dict[int, int] = Counter(ids)
    if weights:
        total = dict.fromkeys(total, 0)
        for id_, weight in zip(ids, weights, strict=True):
            total[id_] += weight
    return total


class Fetched(NamedTuple):
    """A field that is fetched for all objects at once."""

    name: str
    """Its attribute in a row."""
    child: Child
    batch: Batch
    selected: Selected
    arguments: Callable[[Run], Mapping[str, Any]]

    async def bring(self, objects: Objects, rows: Rows, weights: Weights, bounds: Bounds, run: Run) -> list[Job]:
        """Fetch the field and fill it in, as a `Job`."""
        if len(objects) > SLICE:
            await bounds.turn()
        values: Objects
        try:
            values = await self.batch(Look(run.context_value, self.selected), objects, **self.arguments(run))
        except UpstreamError as error:
            values = [error] * len(objects)
        if self.child.nullable and any(issubclass(kind, UpstreamError) for kind in set(map(type, values))):
            values = bounds.failed.nulls(self.child, rows, values, weights)
        jobs: list[Job] = []
        await self.child.fill(rows, self.name, values, weights, bounds, jobs)
        return jobs


def compile_root(executor: Executor[Any], type_: GraphQLObjectType) -> Selection:
    """Compile an operation's root fields, which are selected on one `Root`; raises as `compile_selection`."""
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
    """Compile the selections of the fields of one response key on an object type.

    Raises:
        GiveUp: a field in it cannot be compiled.
        GraphQLError: an argument is not valid.
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
    read: list[tuple[str, str, Child]] = []
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
            sources.append(_Source("None"))
            read.append((f"f{at}", definition.python_name, _child(executor, field, details)))
        else:
            sources.append(_Source("None"))
            fetched.append(_fetched(executor, field, definition, details, f"f{at}"))
    if not fields:
        raise GiveUp
    return Selection(_maker(tuple(fields), tuple(sources)), read, fetched)


class Make(NamedTuple):
    """A generated function that makes rows, and what is known of them."""

    rows: Callable[[Objects], Rows]
    """Makes a row for each object whose leaves have the right types."""
    width: int
    """Upper bound of the bytes of a row without the text of its object."""
    text: bool
    """Whether a leaf is text."""


class _Source(NamedTuple):
    """Generated code of one field: its value in a row, the test of that value, and the type of which it is tested."""

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


@lru_cache(maxsize=256)
def _maker(keys: tuple[str, ...], sources: tuple[_Source, ...]) -> Make:
    names = {f"f{at}": key for at, key in enumerate(keys)}
    # rows make a tree, so no cycle is missed where the collector leaves them out
    row = msgspec.defstruct("Row", [(name, object) for name in names], rename=names, gc=False)
    values = ", ".join(source.value for source in sources)
    test = " and ".join(source.test for source in sources if source.test) or "True"
    kinds = {f"k{at}": source.kind for at, source in enumerate(sources)}
    # takes half the time of one pass for each field; contains names of the schema only, nothing that a client wrote
    text = f"lambda objects: [Row({values}) for o in objects if {test}]"
    make: Callable[[Objects], Rows] = eval(text, {"Row": row, **kinds})  # noqa: S307
    width = len("{},") + sum(len(encode(key)) + len(":,") + WIDTH for key in keys)
    return Make(make, width, any(source.kind is str for source in sources))


def _child(executor: Executor[Any], field: GraphQLField, details: list[FieldDetails]) -> Child:
    type_: Any = get_nullable_type(field.type)
    many = is_list_type(type_)
    selection = compile_selection(executor, get_nullable_type(type_.of_type) if many else type_, details)
    nodes = [detail.node for detail in details]
    key = nodes[0].alias or nodes[0].name
    return Child(selection, many, type_ is field.type, key.value, nodes)


def _fetched(
    executor: Executor[Any], field: GraphQLField, definition: StrawberryField, details: list[FieldDetails], name: str
) -> Fetched:
    node = details[0].node
    batch: Batch = definition.metadata.get("batch") or _one_by_one(definition)
    # Strawberry passes on the coerced value of a leaf, so only the name is converted
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
    """Return a batch for the resolver of a root field, which has one object."""
    resolver: Any = definition.base_resolver
    # a resolver without loaders may return another value if graphql-core calls it again
    if not definition.is_async or not resolver.self_parameter:
        raise GiveUp

    async def batch(look: Look, objects: Objects, **arguments: Any) -> Objects:
        return [await resolver.wrapped_func(root, look, **arguments) for root in objects]

    return batch
