"""Estimates the REST calls of an operation from its document and the sizes of two lists. Pure.

`check` calls it for `gateway check`; nothing that serves a request does. An operation is walked level by level, as
it would run, and `planner` is asked about each batch that comes up; nothing is executed. The model:

- A list at the root is one call; with `after`, two in the worst case (a window that no page covers), and one where a
  caller pages on by the same `first`. The same list asked for twice is one list.
- `agent(id)` and `phoneNumber(id)` are one call each, and a batch for the planner where there are several.
- Nested numbers of K agents and nested agents of K numbers are what the planner says; an agent of whom only `id` is
  selected, and one that the operation has seen, are free. Each mutation is one call and what is nested below it.
- Worst: nothing is known, every number has another agent, lists side by side have nothing in common, a list with a
  filter or a cursor may be of any length, an id may name nothing, and what a variable could include is included. Where
  two parts of an operation might each read a page on a guess, `loaders` allow one, and the rest is asked for singly.
- Typical: totals are known, lists side by side are of the same rows, and variables have their defaults.

In both, `first` is the variable's default where it is a variable; without one it is 100 at worst, and typically 50.
Not in the model: rows that move while a sweep reads, failing calls, retries, remembered answers, lists that do not say
whose their numbers are, pages cut shorter than 100, and the one PUT that an upstream with PATCH refuses.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from graphql.language import OperationType, ast, print_ast

from gateway.dataloaders.planner import pages_to_read
from gateway.estimate.asked import Asked, Fields, arguments
from gateway.upstream.paging import MAX_LIMIT, PageRequest, Size

_WRAPPERS = frozenset({"edges", "node", "nodes", "phoneNumber"})
"""Fields between a list or payload and its objects; they cost nothing."""

_Key = Hashable


class Sizes(NamedTuple):
    """The rows of a workspace's two lists."""

    agents: int
    numbers: int


class Cost(NamedTuple):
    """REST calls of one operation."""

    worst: int
    typical: int


def estimate(
    operation: ast.OperationDefinitionNode, fragments: Mapping[str, ast.FragmentDefinitionNode], sizes: Sizes
) -> Cost:
    """Return what an operation costs; its document must be valid, and `fragments` those it reaches."""
    return Cost(*(_calls(Asked(operation, fragments, worst=worst), sizes) for worst in (True, False)))


def _calls(asked: "Asked", sizes: Sizes) -> int:
    """Run an operation through the model; the fields of a mutation run one after the other, each on its own."""
    fields = list(asked.below([asked.operation]).values())
    together = [[field] for field in fields] if asked.operation.operation is OperationType.MUTATION else [fields]
    total = 0
    for root in together:
        run = _Run(asked, sizes)
        run.start(root)
        total += run.calls
    return total


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
    def swept(self) -> bool:
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
    may guess, all of one may be asked for singly.
    """
    batches = [batch for load in loads for batch in load]
    few = [batch.keys for batch in batches if not batch.guesses]
    guessing = {batch.branch for batch in batches if batch.guesses}
    if len(guessing) + (sum(few) > 2) > 1 or any(batch.guesses and not batch.swept for batch in batches):
        listed = [sum(batch.keys for batch in load if batch.listed) for load in loads]
        return sum(min(keys, agents) for keys in listed) + sum(batch.keys for batch in batches if not batch.listed) + 1
    most = max((batch.size.pages for batch in batches), default=0)
    alone = len(batches) == 1
    swept = (
        batch.size.pages if batch.exact and alone else min(batch.keys, max(2, most)) for batch in batches if batch.swept
    )
    return sum(few) + sum(swept) + (sum(few) > 2 and most > 1)


class _Loads:
    """The calls of one loader, as they typically are: pages of its list, and single ones.

    Args:
        name: of the list that a sweep reads.
        total: rows in it.
        pages: of all lists, as far as the operation has read them.
    """

    def __init__(self, name: str, total: int, pages: set[_Key]) -> None:
        self.batches: list[_Batch] = []
        """What was asked for, as the worst case has it."""
        self.complete = False
        """Whether the whole list has been seen."""
        self.singles = 0
        self._name = name
        self._size = Size(total, MAX_LIMIT)
        self._pages = pages
        self._asked: set[_Key] = set()

    def ask(
        self, groups: Iterable["_Objects"], seen: Iterable[_Key] = (), *, listed: bool = True, singly: bool = False
    ) -> None:
        """Load what one level asks for.

        Args:
            groups: keys that are certain to be in one batch; typically all of them are.
            seen: keys that need no call.
            listed: whether all keys are in the list.
            singly: whether the list is not worth a look.
        """
        known, fresh = self._asked.union(seen), 0
        for group in groups:
            keys = len(group.agents - known)
            known |= group.agents
            fresh += keys
            if keys:
                exact = group.exact and keys == len(group.agents)
                self.batches.append(_Batch(group.branch, keys, self._size, exact, listed))
        self._asked |= known
        if singly or not self.sweep(fresh):
            self.singles += fresh

    def sweep(self, keys: int) -> bool:
        """Read the list where so many keys are worth it; tell whether it is known in full."""
        read = 0 if self.complete else _read(keys, self._size, known=True)
        self._pages.update((self._name, "", PageRequest(page + 1, MAX_LIMIT)) for page in range(read))
        self.complete |= read > 0
        return self.complete


class _Run:
    """One operation, or one field of a mutation, on its way down."""

    def __init__(self, asked: Asked, sizes: Sizes) -> None:
        self._asked = asked
        self._sizes = sizes
        self._pages: set[_Key] = set()
        self._writes = 0
        self._seen: set[_Key] = set()
        self._whole: set[str] = set()
        """Lists that one page has told in full."""
        swept: set[_Key] = set() if asked.worst else self._pages
        self._agents = _Loads("agents", sizes.agents, swept)
        self._numbers = _Loads("phoneNumbers", sizes.numbers, swept)
        self._owned = _Loads("phoneNumbers", sizes.numbers, swept)

    @property
    def calls(self) -> int:
        """REST calls so far."""
        loads = (self._agents, self._numbers, self._owned)
        if self._asked.worst:
            spent = _worst([load.batches for load in loads], self._sizes.agents)
        else:
            spent = sum(load.singles for load in loads)
        return self._writes + len(self._pages) + spent

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
            elif self._asked.operation.operation is OperationType.MUTATION and name != "__typename":
                self._writes += 1
                level.append(_Objects("numbers", self._some(print_ast(fields[0]), 1), fields))
        # ids and lists go out together: neither knows yet what the other brings
        self._agents.ask([_Objects("ids", frozenset(ids["agent"]), [])], listed=False)
        self._numbers.ask([_Objects("ids", frozenset(ids["phoneNumber"]), [])], listed=False)
        # numbers of agents that nobody has seen: half of the calls may go into seeing them
        seen = self._agents.sweep(len(ids["numbers"]) // 2)
        self._owned.ask([_Objects("ids", frozenset(ids["numbers"]), [])], listed=False, singly=not seen)
        self._seen |= ids["agent"].union(*(objects.agents for objects in level if objects.of == "listed"))
        self._agents.complete |= "agents" in self._whole
        self._owned.complete |= "phoneNumbers" in self._whole
        while level:
            level = self._descend(level)

    def _by_id(self, fields: Fields, ids: dict[str, set[_Key]]) -> _Objects:
        name, key = fields[0].name.value, print_ast(arguments(fields[0])["id"])
        if name == "phoneNumber":
            ids[name].add(key)
            return _Objects("numbers", frozenset({("of", key)}), fields)
        names = self._asked.names(fields)
        ids["numbers" if "numbers" in names and names <= {"id", "numbers"} else "agent"].add(key)
        return _Objects("agents", frozenset({key}), fields)

    def _list(self, fields: Fields) -> _Objects:
        """Read a list's window."""
        asked, field, name = self._asked, fields[0], fields[0].name.value
        total = self._sizes.agents if name == "agents" else self._sizes.numbers
        first, filters = asked.first(field), asked.given(field, "status", "search")
        text = asked.given(field, "status", "search", "after", *(["first"] if asked.worst else []))
        self._pages.add((name, text, PageRequest(1, first)))
        if asked.worst and asked.given(field, "after") and first > 1 and first + total > MAX_LIMIT + 1:
            self._pages.add((name, text, PageRequest(2, first)))
        if asked.worst and name == "agents" and first > 2 >= total and self._reach_numbers(fields):
            self._pages.add("ahead")  # of numbers, read before it is known how few agents there are
        if not asked.worst and not filters and first >= total:
            self._whole.add(name)
        some = self._some(f"{name} {text}", min(first, total))
        if name == "phoneNumbers":
            return _Objects("numbers", some, fields)
        return _Objects("listed", some, fields, exact=not asked.given(field, "status", "search", "after"))

    def _reach_numbers(self, fields: Fields) -> bool:
        """Tell whether a list's agents are asked for their numbers."""
        names = {nodes[0].name.value: nodes for nodes in self._asked.below(fields).values()}
        return "numbers" in names or any(self._reach_numbers(names[name]) for name in names.keys() & _WRAPPERS)

    def _some(self, identity: str, count: int) -> frozenset[_Key]:
        """Return agents of a list: at worst nobody else's, typically the first of the workspace."""
        some = range(min(count, self._sizes.agents))
        return frozenset((identity, at) for at in some) if self._asked.worst else frozenset(some)

    def _descend(self, level: list[_Objects]) -> list[_Objects]:
        """Load what objects are asked for, and return what it brings."""
        below: list[_Objects] = []
        while level:
            objects = level.pop()
            for fields in self._asked.below(objects.fields).values():
                name = fields[0].name.value
                if name in _WRAPPERS:
                    level.append(objects._replace(fields=fields))
                elif name == "numbers":
                    below.append(objects._replace(of="numbers", fields=fields))
                elif name == "agent" and self._asked.names(fields) - {"id"}:
                    below.append(objects._replace(of="agents", fields=fields))
        agents = [objects for objects in below if objects.of == "agents"]
        self._agents.ask(agents, self._seen)
        self._owned.ask([objects for objects in below if objects.of == "numbers"])
        self._seen.update(*(objects.agents for objects in agents))
        return below
