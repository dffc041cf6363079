"""Limits one document: tokens, fields, depth, aliases, root fields, directives, introspection.

The document is parsed but not validated, so fragments may be unknown, unused, duplicate or circular; validation
reports that. A spread counts everything in its fragment each time, but each fragment is read at most twice (outside
and inside introspection), so the time is linear in the document. No function recurses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from graphql.language import TokenKind, ast

from gateway.settings import Settings

# Levels below `__schema` or `__type`, which only the query root has. The query of graphql-js `getIntrospectionQuery`
# (GraphiQL, codegen) has 14 at its default typeDepth of 9. graphql-core's MaxIntrospectionDepthRule refuses a third
# nested list of fields or types.
INTROSPECTION_DEPTH = 20
INTROSPECTION_FIELDS = frozenset({"__schema", "__type"})

# graphql-core answers introspection object by object; a whole schema takes about 15 ms. Aliases multiply that, and
# nested aliases multiply each other. Tools use none, and about 230 fields.
MAX_SCHEMAS = 1
MAX_TYPES = 5
MAX_INTROSPECTION_ALIASES = 0
MAX_INTROSPECTION_FIELDS = 300

# Operations and fragments in one document: some rules walk each of them, with all the fragments that it uses.
MAX_DEFINITIONS = 100

# Characters of one name. Names are repeated in responses, in the paths and messages of errors and in compiled rows.
MAX_NAME = 128

# Nested lists and objects in one literal. Inputs of this schema nest once, graphql-core coerces literals
# recursively, and its parser fails at 200 levels.
LITERAL_DEPTH = 32

# Values in all lists and objects of one operation's literals: inputs of this schema have three fields, and an error
# repeats a whole literal.
LITERAL_VALUES = 300

# Characters allowed for each token allowed: documents have 4 to 20. The parser takes about 300 ms for a megabyte.
CHARACTERS_PER_TOKEN = 32

# Tokens allowed for each field allowed. Documents have 1.5 to 4, the long ones at least 3. A field costs several times
# as much as a token.
TOKENS_PER_FIELD = 3

# Counts stop here, so that doubled fragments do not make integers of thousands of bits.
CEILING = 10**9


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one document; counts of at least 1."""

    max_tokens: int = 2000
    max_depth: int = 10
    max_aliases: int = 30
    max_root_fields: int = 20
    max_directives: int = 50

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that the settings set."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


class LimitExceeded(Exception):
    """A document exceeds a limit; clients see the message.

    `setting` is the environment variable that sets the limit, None if it is a constant.
    """

    def __init__(self, what: str, found: int, allowed: int, setting: str | None = None) -> None:
        self.setting = setting
        count = f"{found} or more" if found >= CEILING else str(found)
        remedy = f", or have {setting} raised" if setting else ""
        super().__init__(f"The document has {count} {what}; the limit is {allowed}. Shorten or split it{remedy}.")


def check_text(text: str, limits: Limits) -> None:
    """Check a document before it is parsed.

    Raises:
        LimitExceeded: it is too long for the tokens allowed.
    """
    allowed = limits.max_tokens * CHARACTERS_PER_TOKEN
    if len(text) > allowed:
        raise LimitExceeded("characters", len(text), allowed, "GATEWAY_MAX_TOKENS")


class _Key(NamedTuple):
    """A fragment's name, and whether it is spread inside introspection."""

    name: str
    inside: bool


_SUMS = (
    "aliases",
    "directives",
    "literal_values",
    "introspection_fields",
    "introspection_aliases",
    "schemas",
    "types",
)
"""Counts that a fragment adds each time it is spread."""


@dataclass(slots=True)
class _Measure:
    """Counts of one definition: its own nodes, and those of its spreads when they are added."""

    fields: int = 0
    depth: int = 0
    introspection_depth: int = 0
    introspection_fields: int = 0
    introspection_aliases: int = 0
    schemas: int = 0
    types: int = 0
    literal_depth: int = 0
    literal_values: int = 0
    root_fields: int = 0
    aliases: int = 0
    directives: int = 0
    spreads: list[tuple[_Key, int]] = field(default_factory=list)

    def count(self, node: ast.FieldNode, level: int, *, inside: bool) -> None:
        """Count one field below `level` others."""
        self.fields += 1
        self.aliases += node.alias is not None
        if inside:
            self.introspection_depth = max(self.introspection_depth, level + 1)
            self.introspection_fields += 1
            self.introspection_aliases += node.alias is not None
        else:
            self.depth = max(self.depth, level + 1)
            self.root_fields += level == 0
            self.schemas += node.name.value == "__schema"
            self.types += node.name.value == "__type"

    def add(self, other: "_Measure", level: int, *, inside: bool) -> None:
        """Add the counts of a fragment that is spread below `level` fields."""
        if inside:
            self.introspection_depth = max(self.introspection_depth, level + other.introspection_depth)
        else:
            self.introspection_depth = max(self.introspection_depth, other.introspection_depth)
            self.depth = max(self.depth, level + other.depth)
            self.root_fields = min(CEILING, self.root_fields + (other.root_fields if level == 0 else 0))
        self.literal_depth = max(self.literal_depth, other.literal_depth)
        for name in _SUMS:
            setattr(self, name, min(CEILING, getattr(self, name) + getattr(other, name)))


def _read(definition: ast.ExecutableDefinitionNode, *, inside: bool = False) -> _Measure:
    """Count a definition's own nodes, and list its spreads with their levels."""
    measure = _Measure()
    variables = definition.variable_definitions or ()
    values: list[ast.ValueNode] = [variable.default_value for variable in variables if variable.default_value]
    directives = [*(definition.directives or ())]
    directives.extend(directive for variable in variables for directive in variable.directives or ())
    todo = [(definition.selection_set, 0, inside)]
    while todo:
        selection_set, level, within = todo.pop()
        for node in selection_set.selections:
            directives.extend(node.directives or ())
            if isinstance(node, ast.FragmentSpreadNode):
                measure.spreads.append((_Key(node.name.value, within), level))
            if isinstance(node, ast.InlineFragmentNode):
                todo.append((node.selection_set, level, within))
            if isinstance(node, ast.FieldNode):
                measure.count(node, level, inside=within)
                values.extend(argument.value for argument in node.arguments or ())
                if node.selection_set:
                    enters = not within and node.name.value in INTROSPECTION_FIELDS
                    todo.append((node.selection_set, 0 if enters else level + 1, within or enters))
    values.extend(argument.value for directive in directives for argument in directive.arguments or ())
    measure.directives = len(directives)
    measure.literal_depth, measure.literal_values = _literals(values)
    return measure


def _literals(values: Sequence[ast.ValueNode]) -> tuple[int, int]:
    """Return how deep lists and objects nest in literals, and how many values these hold."""
    depth, count = 0, 0
    while nests := [value for value in values if isinstance(value, ast.ListValueNode | ast.ObjectValueNode)]:
        depth += 1
        lists = [value for nest in nests if isinstance(nest, ast.ListValueNode) for value in nest.values]
        objects = [node.value for nest in nests if isinstance(nest, ast.ObjectValueNode) for node in nest.fields]
        values = lists + objects
        count += len(values)
    return depth, count


class _Meter:
    """Counts a document's operations; each fragment is counted once and remembered."""

    def __init__(self, document: ast.DocumentNode) -> None:
        nodes = document.definitions
        self._fragments = {node.name.value: node for node in nodes if isinstance(node, ast.FragmentDefinitionNode)}
        self._measures: dict[_Key, _Measure] = {}
        self.fields = 0
        """Fields that were read: those of a fragment once, however often it is spread."""

    def measure(self, operation: ast.OperationDefinitionNode) -> _Measure:
        """Count an operation and the fragments that it uses, the deepest first."""
        total = _read(operation)
        self.fields += total.fields
        opened: dict[_Key, _Measure] = {}
        todo = [(key, False) for key, _ in total.spreads]
        while todo:
            key, complete = todo.pop()
            if complete:
                self._measures[key] = self._expand(opened[key])
            elif key.name in self._fragments and key not in self._measures and key not in opened:
                opened[key] = _read(self._fragments[key.name], inside=key.inside)
                self.fields += opened[key].fields
                todo.append((key, True))
                todo.extend((spread, False) for spread, _ in opened[key].spreads)
        return self._expand(total)

    def _expand(self, measure: _Measure) -> _Measure:
        # a fragment that does not exist, or that is used inside itself, adds nothing
        for key, level in measure.spreads:
            if key in self._measures:
                measure.add(self._measures[key], level, inside=key.inside)
        return measure


def check_document(document: ast.DocumentNode, limits: Limits) -> None:
    """Refuse a document that is too large, in time linear in its size.

    Each operation is counted on its own, except for the total of fields. Depth is levels of fields; fragments add
    none. Below `__schema` and `__type` it starts again and is compared with `INTROSPECTION_DEPTH`. Definitions that no
    operation uses are not counted; validation refuses them.

    Raises:
        LimitExceeded: for the first limit that is exceeded.
    """
    if document.token_count > limits.max_tokens:
        raise LimitExceeded("tokens", document.token_count, limits.max_tokens, "GATEWAY_MAX_TOKENS")
    longest = _longest_name(document)
    if longest > MAX_NAME:
        raise LimitExceeded("characters in one name", longest, MAX_NAME)
    meter = _Meter(document)
    for node in document.definitions:
        if isinstance(node, ast.OperationDefinitionNode):
            _check(meter.measure(node), limits)
    if len(document.definitions) > MAX_DEFINITIONS:
        raise LimitExceeded("operations and fragments", len(document.definitions), MAX_DEFINITIONS)
    if meter.fields > (allowed := limits.max_tokens // TOKENS_PER_FIELD):
        raise LimitExceeded("fields", meter.fields, allowed, "GATEWAY_MAX_TOKENS")


def _longest_name(document: ast.DocumentNode) -> int:
    token = document.loc.start_token if document.loc else None
    longest = 0
    while token:
        if token.kind is TokenKind.NAME:
            longest = max(longest, token.end - token.start)
        token = token.next
    return longest


def _check(found: _Measure, limits: Limits) -> None:
    for what, count, allowed, setting in (
        ("levels of depth", found.depth, limits.max_depth, "GATEWAY_MAX_DEPTH"),
        ("aliases", found.aliases, limits.max_aliases, "GATEWAY_MAX_ALIASES"),
        ("root fields", found.root_fields, limits.max_root_fields, "GATEWAY_MAX_ROOT_FIELDS"),
        ("directives", found.directives, limits.max_directives, "GATEWAY_MAX_DIRECTIVES"),
        ("fields inside introspection", found.introspection_fields, MAX_INTROSPECTION_FIELDS, None),
        ("fields named __schema", found.schemas, MAX_SCHEMAS, None),
        ("fields named __type", found.types, MAX_TYPES, None),
        ("aliases inside introspection", found.introspection_aliases, MAX_INTROSPECTION_ALIASES, None),
        ("levels of introspection depth", found.introspection_depth, INTROSPECTION_DEPTH, None),
        ("levels of lists and objects in one literal", found.literal_depth, LITERAL_DEPTH, None),
        ("values in lists and objects", found.literal_values, LITERAL_VALUES, None),
    ):
        if count > allowed:
            raise LimitExceeded(what, count, allowed, setting)
