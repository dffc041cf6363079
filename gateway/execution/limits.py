"""The static caps on one document: tokens, fields, depth, aliases, root fields, directives, introspection.

`endpoint` calls `check_document` after parsing and before validation, so a document may hold anything the
grammar allows: unknown, unused, duplicate and circular fragments are left for validation to name.
A spread counts all that its fragment holds, as often as it is spread, yet each fragment is read at most
twice (outside and inside introspection): time is linear in the document, however often it doubles.
Nothing here recurses. Bytes are counted where the body is read, tokens a first time by the parser.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from graphql.language import TokenKind, ast

from gateway.settings import Settings

# Levels below `__schema` or `__type`, which only the query root has. What graphql-js `getIntrospectionQuery`
# writes (GraphiQL, codegen) has 14 at its default typeDepth of 9. Circles below them are cut shorter by
# graphql-core's MaxIntrospectionDepthRule: it refuses a third nested list of fields or types.
INTROSPECTION_DEPTH = 20
INTROSPECTION_FIELDS = frozenset({"__schema", "__type"})

# An introspection is answered by graphql-core, object by object, and a whole schema takes some 15 ms: aliases
# multiply that, and those inside each other multiply each other. Tools use none, and write some 230 fields.
MAX_SCHEMAS = 1
MAX_TYPES = 5
MAX_INTROSPECTION_ALIASES = 0
MAX_INTROSPECTION_FIELDS = 300

# Operations and fragments in one document: some rules walk each of them, with all that it reaches.
MAX_DEFINITIONS = 100

# Characters of one name. Names are repeated in answers, in the paths and messages of errors and in compiled rows.
MAX_NAME = 128

# Lists and objects inside each other in one literal. Inputs of this schema nest once, graphql-core coerces
# literals recursively, and its parser gives up below 200 such levels.
LITERAL_DEPTH = 32

# Values in all lists and objects of one operation's literals: inputs of this schema have three fields, and an error
# repeats a whole literal.
LITERAL_VALUES = 300

# Characters of text for each token allowed: documents have 4 to 20. The parser reads a megabyte in some 300 ms.
CHARACTERS_PER_TOKEN = 32

# Tokens allowed for each field allowed, at the least: documents have 1.5 to 4, and the large ones at their end. A
# field costs several times what a token does.
TOKENS_PER_FIELD = 3

# Counts stop here, so that doubled fragments do not grow into integers of thousands of bits.
CEILING = 10**9


@dataclass(frozen=True, slots=True)
class Limits:
    """The caps on one document; all are counts, each 1 or more."""

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
    """A document is larger than a cap allows; the message may be shown to callers.

    `setting` is the environment variable that sets the cap, None where the cap is a constant.
    """

    def __init__(self, what: str, found: int, allowed: int, setting: str | None = None) -> None:
        self.setting = setting
        count = f"{found} or more" if found >= CEILING else str(found)
        remedy = f", or have {setting} raised" if setting else ""
        super().__init__(f"The document has {count} {what}; the limit is {allowed}. Shorten or split it{remedy}.")


def check_text(text: str, limits: Limits) -> None:
    """Check a document before it is parsed.

    Raises:
        LimitExceeded: it is longer than its tokens could be.
    """
    allowed = limits.max_tokens * CHARACTERS_PER_TOKEN
    if len(text) > allowed:
        raise LimitExceeded("characters", len(text), allowed, "GATEWAY_MAX_TOKENS")


class _Key(NamedTuple):
    """A fragment's name, and whether it is spread below an introspection field."""

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
"""What a fragment adds as often as it is spread."""


@dataclass(slots=True)
class _Measure:
    """What one definition holds: its own nodes, and those of its spreads once they are added."""

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
        """Count one field that stands below `level` others."""
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
        """Add what a fragment holds that is spread below `level` fields."""
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
    """Measure a definition's own nodes and note its spreads with the level they stand at."""
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
    """Measures a document's operations, remembering its fragments."""

    def __init__(self, document: ast.DocumentNode) -> None:
        nodes = document.definitions
        self._fragments = {node.name.value: node for node in nodes if isinstance(node, ast.FragmentDefinitionNode)}
        self._measures: dict[_Key, _Measure] = {}
        self.fields = 0
        """Fields that were read: those of a fragment count once, however often it is spread."""

    def measure(self, operation: ast.OperationDefinitionNode) -> _Measure:
        """Read the operation and the fragments it reaches, and add these up deepest first."""
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
        # A fragment that does not exist, or that is met again inside itself, has no measure and adds nothing.
        for key, level in measure.spreads:
            if key in self._measures:
                measure.add(self._measures[key], level, inside=key.inside)
        return measure


def check_document(document: ast.DocumentNode, limits: Limits) -> None:
    """Refuse a document that is too large to validate or run, in time linear in its size.

    Each operation counts for itself; only their fields are added up. Depth is levels of fields: fragments add none,
    and it starts anew below `__schema` and `__type`, against `INTROSPECTION_DEPTH`. What no operation reaches is not
    counted: unused fragments and type definitions are refused by validation.

    Raises:
        LimitExceeded: for the first cap exceeded.
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
