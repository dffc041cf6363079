"""Documents that cost as much as the limits allow: one text for each kind of work that a document can make.

Each fills what its kind may hold at the default limits, and some go above, to be refused early.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

TOKENS = 1990

DOCUMENTS: dict[str, str] = {}
"""Hostile documents by kind."""
VARIABLES: dict[str, tuple[str, dict[str, Any]]] = {}
"""Documents with hostile variables, by kind."""


def filled(piece: Callable[[int], str], tokens: int, spent: int = 20) -> str:
    """Repeat a piece of so many tokens as often as the limit on tokens allows."""
    return " ".join(map(piece, range((TOKENS - spent) // tokens)))


def of_agents(selections: str) -> str:
    return f"{{ agents {{ nodes {{ {selections} }} }} }}"


def chained(count: int, type_: str, spreads: Callable[[int], Iterator[int]], leaf: str) -> str:
    """Fragments that spread others by their number, the last one with a leaf."""
    bodies = ((" ".join(f"...F{at}" for at in spreads(n)) if n < count else leaf) for n in range(count + 1))
    return " ".join(f"fragment F{n} on {type_} {{ {body} }}" for n, body in enumerate(bodies))


def type_selection(levels: int, wrapped: int) -> str:
    """Select all that introspection tells of a type, its fields' types included."""
    here = "name description kind"
    if levels:
        below = type_selection(levels - 1, 2)
        arguments = f"args(includeDeprecated: true) {{ name defaultValue type {{ {type_selection(0, 2)} }} }}"
        here += f" fields(includeDeprecated: true) {{ name description {arguments} type {{ {below} }} }}"
    return here + (f" ofType {{ {type_selection(levels, wrapped - 1)} }}" if wrapped else "")


MERGED = {
    "leaves": of_agents("id " * 660),
    "objects": of_agents("numbers { id } " * 330),
    "leaves, above": of_agents("id " * 1950),
    "objects, above": of_agents("numbers { id } " * 480),
    "objects with arguments": of_agents(filled(lambda _: "numbers(status: ACTIVE) { id }", 9)),
    "spreads of one fragment": f"{of_agents('...F ' * 660)} fragment F on Agent {{ id }}",
    "inline fragments": of_agents("... { id } " * 320),
    "nested inline fragments": of_agents(("... { " * 40 + "id " + "} " * 40) * 11),
    "a fragment twenty times": "{ "
    + " ".join(f"a{n}: agents {{ nodes {{ ...F }} }}" for n in range(20))
    + f" }} fragment F on Agent {{ {'id ' * 45} }}",
    "conflicts": of_agents("numbers { id: phoneNumber id } " + "numbers(status: ACTIVE) { id } " * 180),
    "a mesh of fragments": "{ ...F0 } " + chained(40, "Query", lambda n: iter(range(n + 1, min(n + 3, 41))), "a"),
}
INTROSPECTION = {
    "20 schemas": "{ "
    + " ".join(f"a{n}: __schema {{ types {{ ...T }} }}" for n in range(20))
    + f" }} fragment T on __Type {{ {type_selection(1, 0)} }}",
    "aliases below": "{ __schema { "
    + " ".join(f"a{n}: types {{ ...T }}" for n in range(29))
    + f" }} }} fragment T on __Type {{ {type_selection(1, 0)} }}",
    "all of one schema": f"{{ __schema {{ types {{ {type_selection(1, 0)} }} }} }}",
    "deep": f"{{ __schema {{ types {{ {type_selection(2, 0)} }} }} }}",
    "types": "{ "
    + " ".join(f'a{n}: __type(name: "Query") {{ ...T }}' for n in range(5))
    + f" }} fragment T on __Type {{ {type_selection(1, 0)} }}",
    "one field often": "{ __schema { queryType { " + "name " * 480 + "} } }",
}
OFTEN = {
    "operations": filled(lambda n: f"query Q{n} {{ __typename }}", 5),
    "operations of one name": " ".join(["query Q { __typename }"] * 50),
    "anonymous operations": " ".join(["{ __typename }"] * 50),
    "operations with one fragment": " ".join(f"query Q{n} {{ ...F }}" for n in range(50))
    + f" fragment F on Query {of_agents('id ' * 900)}",
    "subscriptions": " ".join(f"subscription S{n} {{ a }}" for n in range(50)),
    "unused fragments": "{ __typename } " + " ".join(f"fragment F{n} on Query {{ __typename }}" for n in range(99)),
    "unused fragments, above": "{ __typename } " + filled(lambda n: f"fragment F{n} on Query {{ __typename }}", 7),
    "unused chain": "{ __typename } " + chained(200, "Query", lambda n: iter([n + 1]), "a"),
    "chain": "{ ...F0 } " + chained(200, "Query", lambda n: iter([n + 1]), "__typename"),
    "circles": of_agents("id ...F0") + " " + chained(24, "Agent", lambda n: iter([*range(n), *range(n + 1, 24)]), "id"),
    "unknown fragments": of_agents(filled(lambda n: f"...F{n}", 2)),
    "unknown fields": of_agents(" ".join(f"descriptio{n}" for n in range(950))),
    "unknown arguments": f"{{ agents({filled(lambda n: f'statu{n}: 1', 3)}) {{ totalCount }} }}",
    "one argument": f"{{ agents({'first: 1 ' * 650}) {{ totalCount }} }}",
    "arguments of a directive": f"{{ __typename @skip({'if: true ' * 650}) }}",
    "one directive": f"{{ __typename {'@skip(if: true) ' * 50} }}",
    "one directive, unused": f"{{ __typename }} fragment F on Query {{ __typename {'@skip(if: true) ' * 320} }}",
    "unknown directives": f"{{ __typename {' '.join(f'@skib{n}' for n in range(50))} }}",
    "unused variables": f"query Q({filled(lambda n: f'$v{n}: Int', 4)}) {{ __typename }}",
    "variables of one name": f"query Q({'$v: Int ' * 490}) {{ __typename }}",
    "variables of unknown types": f"query Q({filled(lambda n: f'$v{n}: PhoneNumberStatuz', 4)}) {{ __typename }}",
    "undefined variables": of_agents(filled(lambda n: f"numbers(status: $v{n}) {{ id }}", 10)),
    "variables of the wrong type": "query Q($v: [[Int]]) " + of_agents("numbers(status: $v) { id } " * 190),
    "subselections of leaves": of_agents("id { a } " * 480),
    "type definitions": filled(lambda n: f"type T{n} {{ a: Int }}", 7),
    "directive definitions": "{ __typename } " + filled(lambda n: f"directive @d{n} on FIELD", 5),
}
LITERALS = {
    "list": f"{{ agents(search: [{'1 ' * 1900}]) {{ totalCount }} }}",
    "strings": "{ agents(search: [" + '"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" ' * 1900 + "]) { totalCount } }",
    "fields of an input": "mutation { assignPhoneNumber(input: {"
    + " ".join(f"phoneNumbe{n}: 1" for n in range(299))
    + "}) { a } }",
    "fields of an input, above": "mutation { assignPhoneNumber(input: {"
    + filled(lambda n: f"phoneNumbe{n}: 1", 3)
    + "}) { a } }",
    "one field of an input": f"mutation {{ assignPhoneNumber(input: {{{'phoneNumber: 1 ' * 650}}}) {{ a }} }}",
    "inputs": f"mutation {{ assignPhoneNumber(input: [{'{a: {b: 1}} ' * 210}]) {{ a }} }}",
    "nested": f"{{ agents(search: {'[' * 32}1{']' * 32}) {{ totalCount }} }}",
}
LONG = {
    "string": f'{{ agents(first: "{"x" * 63_900}") {{ totalCount }} }}',
    "block string": f'{{ agents(search: """{chr(10) * 63_900}""") {{ totalCount }} }}',
    "indented block string": '{ agents(search: """' + "\n x" * 21_000 + '""") { totalCount } }',
    "escapes": '{ agents(search: "' + "\\u00e9" * 10_600 + '") { totalCount } }',
    "number": f"{{ agents(first: {'9' * 63_900}) {{ totalCount }} }}",
    "field": of_agents("description" * 5_500),
    "enum value": f"{{ agents(status: {'ACTIVE' * 10_000}) {{ totalCount }} }}",
    "type": f"{{ ... on {'PhoneNumber' * 5_500} {{ id }} }}",
    "aliases": "{ " + " ".join(f"{'a' * 2000}{n}: agent(id: {n}) {{ id }}" for n in range(20)) + " }",
    "comments": "#\n" * 31_000 + "{ __typename }",
    "blank lines": "\n" * 63_000 + "{ ? }",
}
for _group, _kinds in {
    "merged": MERGED,
    "introspection": INTROSPECTION,
    "often": OFTEN,
    "literal": LITERALS,
    "long": LONG,
}.items():
    DOCUMENTS |= {f"{_group}: {_kind}": _text for _kind, _text in _kinds.items()}

ASSIGN = "mutation($i: AssignPhoneNumberInput!) { assignPhoneNumber(input: $i) { phoneNumber { id } } }"
LISTED = "query($v: AgentStatus) { agents(status: $v) { nodes { id } } }"
VARIABLES |= {
    "unknown fields": (ASSIGN, {"i": {f"k{n}": 1 for n in range(60_000)}}),
    "a long field": (ASSIGN, {"i": {"phoneNumbe" * 90_000: 1}}),
    "a long enum value": (LISTED, {"v": "ACTIV" * 180_000}),
    "a list": ("query($v: [ID!]) { agents { totalCount } }", {"v": [1.5] * 200_000}),
    "a deep list": (LISTED, {"v": [[[[[[[[[[1]]]]]]]]]]}),
    "a long integer": ("query($v: Int) { agents(first: $v) { totalCount } }", {"v": 10**4000}),
}


def all_kinds() -> Mapping[str, tuple[str, dict[str, Any]]]:
    """Return every kind: its document and its variables."""
    documents: dict[str, tuple[str, dict[str, Any]]] = {kind: (text, {}) for kind, text in DOCUMENTS.items()}
    return documents | {f"variables: {kind}": pair for kind, pair in VARIABLES.items()}
