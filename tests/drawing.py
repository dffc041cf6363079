"""Documents drawn at random over the real schema, valid and within `LIMITS`; for differential tests."""

import re
import zlib
from random import Random
from typing import Any

from graphql import GraphQLField, GraphQLNamedType, GraphQLObjectType, get_named_type, is_leaf_type

from gateway.execution.limits import Limits
from gateway.execution.validation import MAX_NESTED_LISTS
from gateway.schema import GRAPHQL_SCHEMA

LIMITS = Limits(max_aliases=1000)
_TOKEN = re.compile(r'"[^"]*"|\w+|[^\s\w]')
_LARGEST = 50
"""Tokens of a field, a fragment or the operation's head, without what is below it."""

_TYPES: dict[str, GraphQLNamedType] = GRAPHQL_SCHEMA.type_map
_LITERALS = {
    "id": ['"a0"', '"a1"', '"a3"', '"n2"', '"n7"', '"gone"', '"../a1"'],
    "first": ["1", "2", "3", "4", "100", "0"],
    "after": ["null", '"junk"', '"MToyMzQ1"'],
    "search": ["null", '"agent 1"', '"nobody"'],
    "status": ["ACTIVE", "INACTIVE", "UNKNOWN", "null"],
}
_INPUTS = [
    'assignPhoneNumber(input: {phoneNumber: "+491", agentId: "a1"})',
    'assignPhoneNumber(input: {phoneNumber: "+492", agentId: "a2", friendlyName: "new"})',
    'updatePhoneNumber(id: "n1", input: {friendlyName: null})',
    'updatePhoneNumber(id: "n2", input: {agentId: "a3", status: INACTIVE})',
    'updatePhoneNumber(id: "n3", input: {})',
    'updatePhoneNumber(id: "gone", input: {agentId: null})',
    'deletePhoneNumber(id: "n4")',
    'deletePhoneNumber(id: "gone")',
]
_VARIABLES: dict[str, tuple[str, list[Any]]] = {
    "s": ("Boolean!", [True, False]),
    "u": ("Boolean = true", [True, False]),
    "id": ("ID!", ["a1", "a4", "n3", "gone"]),
    "first": ("Int", [1, 3, 5]),
    "after": ("String", [None, "junk"]),
    "search": ('String = "agent 1"', [None, "agent"]),
    "AgentStatus": ("AgentStatus = ACTIVE", [None, "ACTIVE", "SUSPENDED"]),
    "PhoneNumberStatus": ("PhoneNumberStatus", [None, "ACTIVE", "ASSIGNED", "UNKNOWN"]),
}


class Drawing:
    """One document: its `text`, and `variables` that fit it (now and then one that is left out or null).

    A variable may have a default, and a nullable one may stand where null is refused but a default would do.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._used: set[str] = set()
        self._fragments: list[str] = []
        self._tokens = self._root_fields = self._directives = 0
        if random.random() < 0.12:
            root = " ".join(
                f"m{at}: {field} {self._selection(self._payload(field), 4, 0)}"
                for at, field in enumerate(random.sample(_INPUTS, random.randint(1, 3)))
            )
            kind, body = "mutation", f"{{ {root} }}"
        else:
            kind, body = "query", self._selection(_TYPES["Query"], random.choice([3, 3, 4, 4, 5, 7, 10]), 0)
        names = sorted(self._used)
        declared = ", ".join(f"${name}: {_VARIABLES[name][0]}" for name in names)
        self.text = f"{kind}{f'({declared})' if declared else ''} {body} {' '.join(self._fragments)}"
        self.variables: dict[str, Any] = {name: random.choice(_VARIABLES[name][1]) for name in names}
        if "u" in self.variables and random.random() < 0.2:
            self.variables.pop("u")
        elif "u" in self.variables and random.random() < 0.05:
            self.variables["u"] = None

    def others(self) -> dict[str, Any]:
        """Draw other variables: each may be left out, null or of a wrong type too."""
        odd = [None, "odd", 7, [True]]
        drawn = {name: self._random.choice([*_VARIABLES[name][1] * 3, *odd]) for name in sorted(self._used)}
        return {name: value for name, value in drawn.items() if self._random.random() < 0.85}

    def _payload(self, field: str) -> GraphQLNamedType:
        name = field.partition("(")[0]
        return _TYPES[name[0].upper() + name[1:] + "Payload"]

    def _selection(self, type_: GraphQLNamedType, depth: int, lists: int) -> str:
        """Draw a selection set of at most `depth` levels inside `lists`; the deeper they may get, the fewer fields."""
        assert isinstance(type_, GraphQLObjectType)
        parts = [self._part(type_, depth, lists) for _ in range(self._random.randint(1, 2 if depth > 4 else 4))]
        return f"{{ {' '.join(filter(None, parts)) or self._counted(type_, '__typename')} }}"

    def _part(self, type_: GraphQLObjectType, depth: int, lists: int) -> str:
        drawn = self._random.random()
        if self._tokens > LIMITS.max_tokens - 3 * _LARGEST:
            return ""
        if type_.name == "Query" and self._root_fields == LIMITS.max_root_fields:
            return ""
        if drawn < 0.06:
            return self._counted(type_, f"{self._alias('__typename', 0.3)}__typename{self._directive()}")
        if drawn < 0.22:
            self._tokens += _LARGEST // 2
        if drawn < 0.14:
            condition = self._random.choice(["", f" on {type_.name}"])
            return f"...{condition}{self._directive()} {self._selection(type_, depth, lists)}"
        if drawn < 0.22:
            body = self._selection(type_, depth, lists)
            self._fragments.append(f"fragment F{len(self._fragments)} on {type_.name} {body}")
            return f"...F{len(self._fragments) - 1}{self._directive()}"
        name = self._random.choice([*type_.fields, *(name for name in type_.fields if name in {"numbers", "agent"})])
        return self._field(name, type_, depth, lists)

    def _field(self, name: str, type_: GraphQLObjectType, depth: int, lists: int) -> str:
        field = type_.fields[name]
        below = get_named_type(field.type)
        leaf = is_leaf_type(below)
        lists += name == "numbers"
        if not leaf and (depth < 2 or lists > MAX_NESTED_LISTS):
            return ""
        arguments = self._arguments(field)
        # one key never means two things: validation would refuse it
        alias = f"k{zlib.crc32(arguments.encode()) % 1000}_{name}: " if arguments else self._alias(name, 0.1)
        text = self._counted(type_, f"{alias}{name}{arguments}{self._directive()}")
        return text if leaf else f"{text} {self._selection(below, depth - 1, lists)}"

    def _counted(self, type_: GraphQLObjectType, field: str) -> str:
        """Return a field as it is, and count it and its tokens, with those of the braces below it."""
        self._tokens += len(_TOKEN.findall(field)) + 2
        self._root_fields += type_.name == "Query"
        return field

    def _alias(self, name: str, chance: float) -> str:
        return f"{self._random.choice('xy')}_{name}: " if self._random.random() < chance else ""

    def _arguments(self, field: GraphQLField) -> str:
        given = []
        for name, argument in field.args.items():
            drawn = self._random.random()
            if name == "id" or drawn < 0.3:
                variable = _variable(name, get_named_type(argument.type).name)
                given.append(f"{name}: {self._use(variable) if drawn < 0.1 else self._random.choice(_LITERALS[name])}")
        return f"({', '.join(given)})" if given else ""

    def _directive(self) -> str:
        drawn = self._random.random()
        if drawn > 0.12 or self._directives == LIMITS.max_directives:
            return ""
        self._directives += 1
        condition = self._use(self._random.choice("su")) if drawn < 0.1 else self._random.choice(["true", "false"])
        return f" @{self._random.choice(['skip', 'include'])}(if: {condition})"

    def _use(self, variable: str) -> str:
        self._used.add(variable)
        return f"${variable}"


def _variable(name: str, type_: str) -> str:
    return type_ if name == "status" else name
