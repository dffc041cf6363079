"""The most REST calls that an operation can cost, from its document and the sizes of the lists. Pure.

An operation is walked level by level, as it would run, and the planner is asked about each batch. Which fields cost
calls follows from the types of the schema and from `upstream.resources`. The model:

- A list at the root is one call; with `after`, two (a window that no page covers). The same list twice is one.
- An object by id is one call, and several are a batch for the planner.
- The planner says what the rows of K owners and the owners of K rows cost. An owner of which only `id` is selected, and
  one that the operation has seen, are free. Each mutation is one call and what is nested below it.
- Nothing is known before, every row has another owner, and lists side by side have nothing in common. A list with a
  filter or a cursor may have any length, an id may name nothing, and what a variable could include is included. If two
  parts of an operation may each read a speculative page, the loaders allow one, and the rest is read by point reads.
- `first` is its variable's default; 100 without one.

Not in the model: rows that move while a list is read, failing calls, retries, cached responses, lists that do not say
whose their rows are, pages cut shorter than 100, and the one PUT that an upstream with PATCH refuses.
"""

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from graphql import GraphQLNamedType, GraphQLString, get_named_type
from graphql.language import OperationType, ast, print_ast

from gateway.dataloaders.planner import pages_to_read
from gateway.estimate.sizes import Sizes
from gateway.schema import GRAPHQL_SCHEMA
from gateway.schema.queries import OWNED
from gateway.schema.selection import collect_fields, response_key
from gateway.upstream.resources import MAX_LIMIT, RESOURCES, PageRequest, Resource, Size

DEFAULT_FIRST = 50
"""What `first` is if an operation does not say (`schema.queries`)."""

Fields = list[ast.FieldNode]
"""The fields of one response key."""
Fragments = Mapping[str, ast.FragmentDefinitionNode]

_RESOURCES = {resource.type_name: resource for resource in RESOURCES.values()}
_FREE = {"id", "__typename"}
"""Fields of an object that need no call if its id is known."""

_Key = Hashable


class Costliest(NamedTuple):
    """The field that costs most by itself: its path of response keys, and its REST calls in the worst case."""

    field: str
    calls: int


def worst_case(operation: ast.OperationDefinitionNode, fragments: Fragments, sizes: Sizes) -> int:
    """Return the most REST calls of an operation; its document must be valid, and `fragments` those it reaches."""
    return _calls(OperationReader(operation, fragments), sizes)


def costliest(operation: ast.OperationDefinitionNode, fragments: Fragments, sizes: Sizes) -> Costliest | None:
    """Return the field that costs most, without the fields below it; None if no field costs a call."""
    reader = OperationReader(operation, fragments)

    def without(fields: Iterable[Fields]) -> int:
        return _calls(OperationReader(operation, fragments, {id(node) for nodes in fields for node in nodes}), sizes)

    def walk(path: str, nodes: Iterable[ast.FieldNode | ast.OperationDefinitionNode]) -> Iterable[Costliest]:
        for key, fields in reader.below(nodes).items():
            below = [nested for nested in reader.below(fields).values() if nested[0].selection_set]
            yield Costliest(f"{path}{key}", without(below) - without([fields]))
            yield from walk(f"{path}{key}.", [node for node in fields if below])

    found = max(walk("", [operation]), key=lambda field: field.calls)
    return found if found.calls > 0 else None


def _calls(reader: "OperationReader", sizes: Sizes) -> int:
    operation = reader.operation
    fields = list(reader.below([operation]).values())
    # the fields of a mutation run one after the other, each on its own
    together = [[field] for field in fields] if operation.operation is OperationType.MUTATION else [fields]
    total = 0
    for root in together:
        run = _Run(reader, sizes)
        run.start(root)
        total += run.calls
    return total


class OperationReader:
    """Reads an operation with every variable as it costs most: included, and given.

    Args:
        operation: of a valid document.
        fragments: those that it reaches, by name.
        without: ids of field nodes that are taken for absent.
    """

    def __init__(
        self, operation: ast.OperationDefinitionNode, fragments: Fragments, without: Container[int] = ()
    ) -> None:
        self.operation = operation
        self._fragments = fragments
        self._without = without
        self._defaults = {node.variable.name.value: node.default_value for node in operation.variable_definitions or ()}

    def below(self, nodes: Iterable[ast.FieldNode | ast.OperationDefinitionNode]) -> dict[str, Fields]:
        """Return the fields selected below these nodes by response key."""
        fields: dict[str, Fields] = {}
        for node in collect_fields([node.selection_set for node in nodes], self._fragments.get, _may_be_included):
            if id(node) not in self._without:
                fields.setdefault(response_key(node), []).append(node)
        return fields

    def names(self, fields: Fields) -> set[str]:
        """Return the names of the fields selected below a field, `__typename` apart."""
        return {nodes[0].name.value for nodes in self.below(fields).values()} - {"__typename"}

    def first(self, field: ast.FieldNode) -> int:
        """Return how many rows a list is asked for."""
        node = arguments(field).get("first")
        value = self._defaults[node.name.value] if isinstance(node, ast.VariableNode) else node
        if isinstance(value, ast.IntValueNode):
            return max(1, min(int(value.value), MAX_LIMIT))
        return MAX_LIMIT if node else DEFAULT_FIRST

    def given(self, field: ast.FieldNode, *names: str) -> str:
        """Return the text of those arguments that are, or may be, given."""
        return ", ".join(
            f"{name}: {print_ast(node)}"
            for name, node in arguments(field).items()
            if name in names and not isinstance(node, ast.NullValueNode)
        )


def arguments(field: ast.FieldNode) -> dict[str, ast.ValueNode]:
    """Return a field's arguments, sorted by name."""
    return {node.name.value: node.value for node in sorted(field.arguments or (), key=lambda node: node.name.value)}


def _may_be_included(directives: Sequence[ast.DirectiveNode]) -> bool:
    for directive in directives:
        condition = directive.arguments[0].value if directive.arguments else None
        if isinstance(condition, ast.BooleanValueNode) and condition.value is not (directive.name.value == "include"):
            return False
    return True


class _Objects(NamedTuple):
    """Objects of a type by their keys, and the fields that are selected on them.

    Rows with an owner have the keys of their owners, because every row may have another one.
    """

    type: GraphQLNamedType
    keys: frozenset[_Key]
    fields: Fields
    exact: bool = False
    """Whether there are as many as that, and not fewer."""

    @property
    def branch(self) -> _Key:
        """The list that they come from at worst."""
        return next((key[0] for key in self.keys if isinstance(key, tuple)), None)

    def type_of(self, fields: Fields) -> GraphQLNamedType:
        """Return the type of a field of theirs."""
        definition: Any = self.type.fields.get(fields[0].name.value)  # type: ignore[attr-defined]
        return get_named_type(definition.type) if definition else GraphQLString  # __typename


class _Batch(NamedTuple):
    """Keys of one loader that come together, in the worst case, and the size of the list that tells of them."""

    branch: _Key
    keys: int
    size: Size
    exact: bool
    listed: bool

    @property
    def speculative(self) -> bool:
        """Whether it may read a speculative page."""
        return _read(self.keys, self.size, known=False) > 0

    @property
    def scanned(self) -> bool:
        """Whether the planner reads the whole list for so many keys, be its size known or not."""
        pages = {_read(self.keys, self.size, known=known) for known in (True, False)}
        return self.listed and pages == {self.size.pages}


def _read(keys: int, size: Size, *, known: bool) -> int:
    """Return how many pages the planner reads for keys that are all on the last one."""
    read = 0
    while more := pages_to_read(keys, keys, size if known or read else None, read):
        read += more
    return read


def _worst(loads: Sequence[tuple[Sequence[_Batch], int]]) -> int:
    """Return the most that the batches of all loaders cost, whatever is known and whichever of them fall together.

    Each loader's batches come with the number of keys that there are.
    The loaders read one speculative page at a time and none while an earlier one is lost, so if two branches of an
    operation may read one, all keys of one branch may cost point reads.
    """
    batches = [batch for load, _ in loads for batch in load]
    few = [batch.keys for batch in batches if not batch.speculative]
    speculating = {batch.branch for batch in batches if batch.speculative}
    if len(speculating) + (sum(few) > 2) > 1 or any(batch.speculative and not batch.scanned for batch in batches):
        listed = sum(min(sum(batch.keys for batch in load if batch.listed), total) for load, total in loads)
        return listed + sum(batch.keys for batch in batches if not batch.listed) + 1
    most = max((batch.size.pages for batch in batches), default=0)
    alone = len(batches) == 1
    pages = (
        batch.size.pages if batch.exact and alone else min(batch.keys, max(2, most))
        for batch in batches
        if batch.scanned
    )
    return sum(few) + sum(pages) + (sum(few) > 2 and most > 1)


class _Loads:
    """What one loader is asked for, as batches.

    Args:
        rows: in the list that a scan reads.
        keys: that there are.
    """

    def __init__(self, rows: int, keys: int) -> None:
        self.batches: list[_Batch] = []
        self.total = keys
        self._size = Size(rows, MAX_LIMIT)
        self._asked: set[_Key] = set()

    def ask(self, groups: Iterable[_Objects], seen: Iterable[_Key] = ()) -> None:
        """Load what one level asks for.

        Args:
            groups: keys that are certain to be in one batch.
            seen: keys that need no call.
        """
        known = self._asked.union(seen)
        for group in groups:
            keys = len(group.keys - known)
            known |= group.keys
            if keys:
                exact = group.exact and keys == len(group.keys)
                self.batches.append(_Batch(group.branch, keys, self._size, exact, listed=True))
        self._asked |= known

    def ask_ids(self, ids: set[_Key]) -> None:
        """Load objects by ids that may not be in the list."""
        if keys := len(ids - self._asked):
            self.batches.append(_Batch(None, keys, self._size, exact=False, listed=False))
        self._asked |= ids


class _Run:
    """One operation, or one field of a mutation, on its way down."""

    def __init__(self, reader: OperationReader, sizes: Sizes) -> None:
        self._reader = reader
        self._sizes = sizes
        self._pages: set[_Key] = set()
        self._writes = 0
        self._seen: dict[str, set[_Key]] = {name: set() for name in RESOURCES}
        self._objects = {name: _Loads(sizes[name], sizes[name]) for name in RESOURCES}
        self._owned = {
            name: _Loads(sizes[name], sizes[resource.owner.name])
            for name, resource in RESOURCES.items()
            if resource.owner
        }

    @property
    def calls(self) -> int:
        """REST calls so far."""
        loads = [(load.batches, load.total) for load in (*self._objects.values(), *self._owned.values())]
        return self._writes + len(self._pages) + _worst(loads)

    def start(self, roots: Iterable[Fields]) -> None:
        """Ask for the root fields, and for what is below them level by level."""
        mutation = self._reader.operation.operation is OperationType.MUTATION
        root = _Objects(GRAPHQL_SCHEMA.mutation_type if mutation else GRAPHQL_SCHEMA.query_type, frozenset(), [])  # type: ignore[arg-type]
        level: list[_Objects] = []
        objects: dict[str, set[_Key]] = {name: set() for name in RESOURCES}
        owned: dict[str, set[_Key]] = {name: set() for name in self._owned}
        for fields in roots:
            type_ = root.type_of(fields)
            resource = _resource_below(type_)
            self._writes += mutation and type_ is not GraphQLString
            if resource is None:
                continue
            if mutation:
                level.append(_Objects(type_, self._some(resource, print_ast(fields[0]), 1), fields))
            elif _resource_of(type_):
                level.append(self._by_id(resource, _Objects(type_, frozenset(), fields), objects, owned))
            else:
                level.append(self._list(resource, _Objects(type_, frozenset(), fields)))
                if not resource.owner:
                    self._seen[resource.name] |= level[-1].keys
        # ids and lists go out together: neither knows yet what the other brings
        for name, ids in objects.items():
            self._objects[name].ask_ids(ids)
            if not RESOURCES[name].owner:
                self._seen[name] |= ids
        for name, ids in owned.items():
            self._owned[name].ask_ids(ids)
        while level:
            level = self._descend(level)

    def _by_id(
        self, resource: Resource[Any], found: _Objects, objects: dict[str, set[_Key]], owned: dict[str, set[_Key]]
    ) -> _Objects:
        """Ask for one object; if only its id and its rows of another resource are selected, those tell if it exists."""
        key = print_ast(arguments(found.fields[0])["id"])
        names = self._reader.names(found.fields) - _FREE
        rows = OWNED.get(names.pop()) if len(names) == 1 else None
        if rows and rows.owner is resource:
            owned[rows.name].add(key)
        else:
            objects[resource.name].add(key)
        return found._replace(keys=frozenset({("of", key) if resource.owner else key}))

    def _list(self, resource: Resource[Any], found: _Objects) -> _Objects:
        """Read a list's window."""
        reader, field, name = self._reader, found.fields[0], found.fields[0].name.value
        total = self._sizes[resource.name]
        first, text = reader.first(field), reader.given(field, *resource.filters, "after", "first")
        self._pages.add((name, text, PageRequest(1, first)))
        if reader.given(field, "after") and first > 1 and first + total > MAX_LIMIT + 1:
            self._pages.add((name, text, PageRequest(2, first)))
        if first > 2 >= total and self._reach_owned(found):
            self._pages.add("ahead")  # of owned rows, read before it is known how few owners there are
        some = self._some(resource, f"{name} {text}", min(first, total))
        exact = not resource.owner and not reader.given(field, *resource.filters, "after")
        return found._replace(keys=some, exact=exact)

    def _reach_owned(self, objects: _Objects) -> bool:
        """Tell whether rows that the objects of a list own are selected."""
        for fields in self._reader.below(objects.fields).values():
            type_ = objects.type_of(fields)
            resource, parent = _resource_of(type_), _resource_of(objects.type)
            if resource and parent and resource.owner is parent:
                return True
            if parent is None and _resource_below(type_) and self._reach_owned(_Objects(type_, frozenset(), fields)):
                return True
        return False

    def _some(self, resource: Resource[Any], identity: str, count: int) -> frozenset[_Key]:
        """Return keys of a list's rows, none of them another list's."""
        keys = self._sizes[(resource.owner or resource).name]
        return frozenset((identity, at) for at in range(min(count, keys)))

    def _descend(self, level: list[_Objects]) -> list[_Objects]:
        """Load what objects are asked for, and return what it brings."""
        below: list[_Objects] = []
        linked: dict[str, list[_Objects]] = {name: [] for name in self._objects}
        owned: dict[str, list[_Objects]] = {name: [] for name in self._owned}
        while level:
            objects = level.pop()
            for fields in self._reader.below(objects.fields).values():
                type_ = objects.type_of(fields)
                resource, parent = _resource_of(type_), _resource_of(objects.type)
                found = objects._replace(type=type_, fields=fields)
                if parent is None and _resource_below(type_):
                    level.append(found)
                elif resource and parent and resource.owner is parent:
                    owned[resource.name].append(found)
                    below.append(found)
                elif resource and parent and parent.owner is resource and self._reader.names(fields) - _FREE:
                    linked[resource.name].append(found)
                    below.append(found)
        for name, groups in linked.items():
            self._objects[name].ask(groups, self._seen[name])
        for name, groups in owned.items():
            self._owned[name].ask(groups)
        for name, groups in linked.items():
            self._seen[name].update(*(objects.keys for objects in groups))
        return below


def _resource_of(type_: GraphQLNamedType) -> Resource[Any] | None:
    """Return the resource whose objects are of this type."""
    return _RESOURCES.get(type_.name)


def _resource_below(type_: GraphQLNamedType) -> Resource[Any] | None:
    """Return the resource whose objects a type is, or holds in its fields: a connection, an edge, a payload."""
    if found := _resource_of(type_):
        return found
    for field in getattr(type_, "fields", {}).values():
        if found := _resource_below(get_named_type(field.type)):
            return found
    return None
