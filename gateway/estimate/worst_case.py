"""The most REST calls that an operation can cost, from its document and the sizes of two lists. Pure.

An operation is walked level by level, as it would run, and the planner is asked about each batch. The model:

- A list at the root is one call; with `after`, two (a window that no page covers). The same list twice is one.
- `agent(id)` and `phoneNumber(id)` are one call each, and a batch for the planner if there are several.
- Nested numbers of K agents and nested agents of K numbers are what the planner says; an agent of which only `id` is
  selected, and one that the operation has seen, are free. Each mutation is one call and what is nested below it.
- Nothing is known before, every number has another agent, lists side by side have nothing in common, a list with a
  filter or a cursor may be of any length, an id may name nothing, and what a variable could include is included. If two
  parts of an operation may each read a page on a guess, `loaders` allow one, and the rest is asked for by point reads.
- `first` is its variable's default; 100 without one.

Not in the model: rows that move while a list is read, failing calls, retries, cached responses, lists that do not say
whose their numbers are, pages cut shorter than 100, and the one PUT that an upstream with PATCH refuses.
"""

from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from graphql.language import OperationType, ast, print_ast

from gateway.dataloaders.planner import pages_to_read
from gateway.estimate.sizes import Sizes
from gateway.schema.selection import collect_fields, response_key
from gateway.upstream.resources import MAX_LIMIT, PageRequest, Size

DEFAULT_FIRST = 50
"""What `first` is if an operation does not say (`schema.queries`)."""

Fields = list[ast.FieldNode]
"""The fields of one response key."""
Fragments = Mapping[str, ast.FragmentDefinitionNode]

_WRAPPERS = frozenset({"edges", "node", "nodes", "phoneNumber"})
"""Fields between a list or payload and its objects; they cost nothing."""

_Key = Hashable


class Costliest(NamedTuple):
    """The field that costs most by itself: its path of response keys, and its REST calls in the worst case."""

    field: str
    calls: int


def worst_case(operation: ast.OperationDefinitionNode, fragments: Fragments, sizes: Sizes) -> int:
    """Return the most REST calls of an operation; its document must be valid, and `fragments` those it reaches."""
    return _calls(Reader(operation, fragments), sizes)


def costliest(operation: ast.OperationDefinitionNode, fragments: Fragments, sizes: Sizes) -> Costliest | None:
    """Return the field that costs most, without the fields below it; None if no field costs a call."""
    reader = Reader(operation, fragments)

    def without(fields: Iterable[Fields]) -> int:
        return _calls(Reader(operation, fragments, {id(node) for nodes in fields for node in nodes}), sizes)

    def walk(path: str, nodes: Iterable[ast.FieldNode | ast.OperationDefinitionNode]) -> Iterable[Costliest]:
        for key, fields in reader.below(nodes).items():
            below = [nested for nested in reader.below(fields).values() if nested[0].selection_set]
            yield Costliest(f"{path}{key}", without(below) - without([fields]))
            yield from walk(f"{path}{key}.", [node for node in fields if below])

    found = max(walk("", [operation]), key=lambda field: field.calls)
    return found if found.calls > 0 else None


def _calls(reader: "Reader", sizes: Sizes) -> int:
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


class Reader:
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
    """Agents, or numbers by their agents, and the fields that ask something of them."""

    of: str
    agents: frozenset[_Key]
    fields: Fields
    exact: bool = False
    """Whether there are as many as that, and not fewer."""

    @property
    def branch(self) -> _Key:
        """The list that they come from at worst."""
        return next((agent[0] for agent in self.agents if isinstance(agent, tuple)), None)


class _Batch(NamedTuple):
    """Keys of one loader that come together, in the worst case, and the size of the list that tells of them."""

    branch: _Key
    keys: int
    size: Size
    exact: bool
    listed: bool

    @property
    def guesses(self) -> bool:
        """Whether it may read a page on a guess."""
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


def _worst(loads: Sequence[Sequence[_Batch]], agents: int) -> int:
    """Return the most that the batches of all loaders cost, whatever is known and whichever of them fall together.

    `loaders` allow one guess at a time and none while an earlier one is lost, so where two branches of an operation
    may guess, all of one may cost point reads.
    """
    batches = [batch for load in loads for batch in load]
    few = [batch.keys for batch in batches if not batch.guesses]
    guessing = {batch.branch for batch in batches if batch.guesses}
    if len(guessing) + (sum(few) > 2) > 1 or any(batch.guesses and not batch.scanned for batch in batches):
        listed = [sum(batch.keys for batch in load if batch.listed) for load in loads]
        return sum(min(keys, agents) for keys in listed) + sum(batch.keys for batch in batches if not batch.listed) + 1
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
        total: rows in the list that a scan reads.
    """

    def __init__(self, total: int) -> None:
        self.batches: list[_Batch] = []
        self._size = Size(total, MAX_LIMIT)
        self._asked: set[_Key] = set()

    def ask(self, groups: Iterable["_Objects"], seen: Iterable[_Key] = (), *, listed: bool = True) -> None:
        """Load what one level asks for.

        Args:
            groups: keys that are certain to be in one batch.
            seen: keys that need no call.
            listed: whether all keys are in the list.
        """
        known = self._asked.union(seen)
        for group in groups:
            keys = len(group.agents - known)
            known |= group.agents
            if keys:
                exact = group.exact and keys == len(group.agents)
                self.batches.append(_Batch(group.branch, keys, self._size, exact, listed))
        self._asked |= known


class _Run:
    """One operation, or one field of a mutation, on its way down."""

    def __init__(self, reader: Reader, sizes: Sizes) -> None:
        self._reader = reader
        self._sizes = sizes
        self._pages: set[_Key] = set()
        self._writes = 0
        self._seen: set[_Key] = set()
        self._agents = _Loads(sizes.agents)
        self._numbers = _Loads(sizes.numbers)
        self._owned = _Loads(sizes.numbers)

    @property
    def calls(self) -> int:
        """REST calls so far."""
        loads = [load.batches for load in (self._agents, self._numbers, self._owned)]
        return self._writes + len(self._pages) + _worst(loads, self._sizes.agents)

    def start(self, roots: Iterable[Fields]) -> None:
        """Ask for the root fields, and for what is below them level by level."""
        level: list[_Objects] = []
        ids: dict[str, set[_Key]] = {"agent": set(), "phoneNumber": set(), "numbers": set()}
        for fields in roots:
            name = fields[0].name.value
            if name in ids:
                level.append(self._by_id(fields, ids))
            elif name in {"agents", "phoneNumbers"}:
                level.append(self._list(fields))
            elif self._reader.operation.operation is OperationType.MUTATION and name != "__typename":
                self._writes += 1
                level.append(_Objects("numbers", self._some(print_ast(fields[0]), 1), fields))
        # ids and lists go out together: neither knows yet what the other brings
        for load, name in ((self._agents, "agent"), (self._numbers, "phoneNumber"), (self._owned, "numbers")):
            load.ask([_Objects("ids", frozenset(ids[name]), [])], listed=False)
        self._seen |= ids["agent"].union(*(objects.agents for objects in level if objects.of == "listed"))
        while level:
            level = self._descend(level)

    def _by_id(self, fields: Fields, ids: dict[str, set[_Key]]) -> _Objects:
        name, key = fields[0].name.value, print_ast(arguments(fields[0])["id"])
        if name == "phoneNumber":
            ids[name].add(key)
            return _Objects("numbers", frozenset({("of", key)}), fields)
        names = self._reader.names(fields)
        ids["numbers" if "numbers" in names and names <= {"id", "numbers"} else "agent"].add(key)
        return _Objects("agents", frozenset({key}), fields)

    def _list(self, fields: Fields) -> _Objects:
        """Read a list's window."""
        reader, field, name = self._reader, fields[0], fields[0].name.value
        total = self._sizes.agents if name == "agents" else self._sizes.numbers
        first, text = reader.first(field), reader.given(field, "status", "search", "after", "first")
        self._pages.add((name, text, PageRequest(1, first)))
        if reader.given(field, "after") and first > 1 and first + total > MAX_LIMIT + 1:
            self._pages.add((name, text, PageRequest(2, first)))
        if name == "agents" and first > 2 >= total and self._reach_numbers(fields):
            self._pages.add("ahead")  # of numbers, read before it is known how few agents there are
        some = self._some(f"{name} {text}", min(first, total))
        if name == "phoneNumbers":
            return _Objects("numbers", some, fields)
        return _Objects("listed", some, fields, exact=not reader.given(field, "status", "search", "after"))

    def _reach_numbers(self, fields: Fields) -> bool:
        """Tell whether a list's agents are asked for their numbers."""
        names = {nodes[0].name.value: nodes for nodes in self._reader.below(fields).values()}
        return "numbers" in names or any(self._reach_numbers(names[name]) for name in names.keys() & _WRAPPERS)

    def _some(self, identity: str, count: int) -> frozenset[_Key]:
        """Return agents of a list, none of them another list's."""
        return frozenset((identity, at) for at in range(min(count, self._sizes.agents)))

    def _descend(self, level: list[_Objects]) -> list[_Objects]:
        """Load what objects are asked for, and return what it brings."""
        below: list[_Objects] = []
        while level:
            objects = level.pop()
            for fields in self._reader.below(objects.fields).values():
                name = fields[0].name.value
                if name in _WRAPPERS:
                    level.append(objects._replace(fields=fields))
                elif name == "numbers":
                    below.append(objects._replace(of="numbers", fields=fields))
                elif name == "agent" and self._reader.names(fields) - {"id"}:
                    below.append(objects._replace(of="agents", fields=fields))
        agents = [objects for objects in below if objects.of == "agents"]
        self._agents.ask(agents, self._seen)
        self._owned.ask([objects for objects in below if objects.of == "numbers"])
        self._seen.update(*(objects.agents for objects in agents))
        return below
