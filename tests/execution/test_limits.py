"""The caps on one document: what counts, what does not, and that no document makes counting slow."""

import re
from collections.abc import Iterator
from itertools import chain

import pytest
from graphql import get_introspection_query
from graphql.language import ast, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.execution.limits import CEILING, INTROSPECTION_DEPTH, LITERAL_DEPTH, LimitExceeded, Limits, check_document

MANY = 10**12
UNLIMITED = Limits(MANY, MANY, MANY, MANY, MANY)


def doubled(count: int, leaf: str) -> str:
    """Fragments that each spread the next one twice: 2 ** count leaves."""
    chained = (f"fragment F{i} on Q {{ ...F{i + 1} ...F{i + 1} }}" for i in range(count))
    return "\n".join(["{ ...F0 }", *chained, f"fragment F{count} on Q {{ {leaf} }}"])


def refusal(text: str, limits: Limits = UNLIMITED) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        check_document(parse(text), limits)
    return caught.value


def check(text: str, limits: Limits) -> None:
    """Check a document against the caps that have a setting, which come before the others."""
    try:
        check_document(parse(text), limits)
    except LimitExceeded as error:
        assert error.setting is None, error  # noqa: PT017 - none is expected, and some are let pass


def only(setting: str, allowed: int) -> Limits:
    """Limits with one cap."""
    caps = {name: allowed if f"GATEWAY_{name.upper()}" == setting else MANY for name in Limits.__slots__}
    return Limits(**caps)


@pytest.mark.parametrize(
    ("setting", "found", "text"),
    [
        ("GATEWAY_MAX_DEPTH", 2, "{ a { b } }"),
        ("GATEWAY_MAX_DEPTH", 2, "{ a { ... on A { ... @include(if: true) { b } } } }"),
        ("GATEWAY_MAX_DEPTH", 4, "{ a { ...F } } fragment F on A { b { ...G } } fragment G on B { c { d } }"),
        ("GATEWAY_MAX_DEPTH", 3, "query A { a } query B { a { b { c } } }"),
        ("GATEWAY_MAX_DEPTH", 1, "{ __schema { types { name } } }"),
        ("GATEWAY_MAX_ALIASES", 3, "{ x: a { y: b } a z: a }"),
        ("GATEWAY_MAX_ALIASES", 4, "{ a { ...F ...F } } fragment F on A { x: b { y: c } }"),
        ("GATEWAY_MAX_ROOT_FIELDS", 3, "mutation { a { b c } d a }"),
        ("GATEWAY_MAX_ROOT_FIELDS", 3, "{ ...F ... { ...F } b { ...F } } fragment F on Q { a { b } }"),
        ("GATEWAY_MAX_ROOT_FIELDS", 3, "{ __typename __schema { types { name } ...F } a } fragment F on S { a b }"),
        ("GATEWAY_MAX_ROOT_FIELDS", 2, "query A { a } query B { a b } { a }"),
        ("GATEWAY_MAX_DIRECTIVES", 4, "query ($a: Int @a) @b { a @c { ... @d { b } } }"),
        ("GATEWAY_MAX_DIRECTIVES", 6, "{ ...F @a ...F @a } fragment F on Q @b { c @d }"),
        ("GATEWAY_MAX_TOKENS", 6, "{ a { b } }"),
    ],
)
def test_allows_what_is_at_a_limit_and_refuses_what_is_above(setting: str, found: int, text: str) -> None:
    check_document(parse(text), only(setting, found))

    error = refusal(text, only(setting, found - 1))

    assert error.setting == setting
    assert f"has {found} " in str(error)


def test_names_the_limit_the_value_and_the_remedy() -> None:
    error = refusal("{ a { b { c } } }", Limits(max_depth=2))

    assert str(error) == (
        "The document has 3 levels of depth; the limit is 2. Shorten or split it, or have GATEWAY_MAX_DEPTH raised."
    )


@pytest.mark.parametrize(
    "text",
    [
        "query Q($first: Int = 50) { agents(first: $first) { nodes { id numbers { phoneNumber } } totalCount } }",
        "{ a: agent(id: 1) { ...A } b: agent(id: 2) { ...A } } fragment A on Agent { id numbers { id agent { id } } }",
        "{ agents(search: [[{a: [1, {b: $c}]}]]) { nodes { id @skip(if: false) } } }",
        get_introspection_query(),
        get_introspection_query(
            specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True
        ),
        "query I { ...Root } fragment Root on Query { ... on Query { __schema { types { name } } } }",
    ],
)
def test_allows_everyday_documents_and_the_standard_introspection_by_default(text: str) -> None:
    check_document(parse(text), Limits())


@pytest.mark.parametrize(
    ("text", "extra"),
    [
        ("{ __schema %s }", 0),
        ("{ a: __type(name: 1) %s }", 0),
        ("{ __schema { ...F } } fragment F on T %s", 0),
        ("{ __schema { types { ...F } } } fragment F on T %s", 1),
        ("{ ...F } fragment F on Query { __schema %s }", 0),
        ("{ __schema { __schema %s } }", 1),
    ],
)
def test_bounds_circular_introspection_by_its_own_depth(text: str, extra: int) -> None:
    def nested(levels: int) -> str:
        return text % ("{ fields " * levels + "}" * levels)

    check_document(parse(nested(INTROSPECTION_DEPTH - extra)), Limits(max_depth=1))
    error = refusal(nested(INTROSPECTION_DEPTH - extra + 1))

    assert error.setting is None
    assert "has 21 levels of introspection depth; the limit is 20." in str(error)


def test_a_fragment_read_inside_introspection_still_counts_as_ordinary_outside() -> None:
    text = "{ __schema { ...F } a { ...F } } fragment F on T { b { c { d } } }"

    error = refusal(text, Limits(max_depth=3))

    assert "has 4 levels of depth" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "{ a(x: %s) }",
        "{ a @b(x: %s) }",
        "query ($v: V = %s) { a }",
        "query ($v: V @a(x: %s)) { a }",
        "{ a { ...F } } fragment F on A { ... { b(x: 1, y: %s) } }",
    ],
)
@pytest.mark.parametrize(("opening", "closing", "levels"), [("[", "]", 1), ("{k: ", "}", 1), ("[1, {k: ", "}]", 2)])
def test_bounds_the_nesting_of_lists_and_objects_in_a_literal(
    text: str, opening: str, closing: str, levels: int
) -> None:
    def literal(count: int) -> str:
        return text % (opening * count + "1" + closing * count)

    check_document(parse(literal(LITERAL_DEPTH // levels)), UNLIMITED)
    error = refusal(literal(LITERAL_DEPTH // levels + 1))

    assert error.setting is None
    assert f"has {LITERAL_DEPTH + levels} levels of lists and objects in one literal" in str(error)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{ a: __schema { types { name } } b: __schema { types { name } } }",
            "2 fields named __schema; the limit is 1.",
        ),
        ("{ ...F ... { ...F } } fragment F on Query { __schema { a } }", "2 fields named __schema; the limit is 1."),
        ("{ " + " ".join(f"a{n}: __type(name: 1) {{ name }}" for n in range(6)) + " }", "6 fields named __type"),
        ("{ __schema { a: types { name } } }", "1 aliases inside introspection; the limit is 0."),
        ("{ __type(name: 1) { ...F ...F } } fragment F on T { b: a }", "2 aliases inside introspection"),
        ("{ __schema { " + "a " * 301 + "} }", "301 fields inside introspection; the limit is 300."),
        ("{ a { ...F ...F } } fragment F on A { " + "a " * 666 + "}", "667 fields; the limit is 666."),
        (" ".join(f"query Q{n} {{ a {{ {'b ' * 6} }} }}" for n in range(96)), "672 fields; the limit is 666."),
        (" ".join(f"query Q{n} {{ a }}" for n in range(101)), "101 operations and fragments; the limit is 100."),
        ("{ a }" + " ".join(f"fragment F{n} on A {{ a }}" for n in range(100)), "101 operations and fragments"),
        ("{ " + "a" * 129 + ": b }", "129 characters in one name; the limit is 128."),
        ("query ($a: " + "A" * 129 + ") { a }", "129 characters in one name"),
        ("{ a(b: [" + "1 " * 301 + "]) }", "301 values in lists and objects; the limit is 300."),
        ("{ " + "a(b: {c: 1 d: [2]}) " * 101 + "}", "303 values in lists and objects"),
    ],
)
def test_bounds_what_no_setting_raises(text: str, problem: str) -> None:
    error = refusal(text, Limits(max_root_fields=MANY, max_tokens=2000))

    assert problem in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "{ __schema { types { name } } a: __type(name: 1) { name } b: __type(name: 2) { enumValues { name } } }",
        "{ " + "a" * 128 + ': b(c: "' + "d" * 5_000 + '") }',
        " ".join(f"query Q{n} {{ a {{ b c d e f }} }}" for n in range(100)),
        "{ a { " + "b " * 665 + "} }",
    ],
)
def test_allows_what_is_at_the_limits_that_no_setting_raises(text: str) -> None:
    check_document(parse(text), Limits())


@pytest.mark.parametrize("count", [25, 1000])
@pytest.mark.parametrize(
    ("leaf", "setting"),
    [
        ("x: a", "GATEWAY_MAX_ALIASES"),
        ("a", "GATEWAY_MAX_ROOT_FIELDS"),
        ("a @d", "GATEWAY_MAX_DIRECTIVES"),
        ("... @d { a }", "GATEWAY_MAX_DIRECTIVES"),
    ],
)
def test_counts_doubled_fragments_without_expanding_them(count: int, leaf: str, setting: str) -> None:
    error = refusal(doubled(count, leaf), only(setting, 30))

    assert error.setting == setting
    assert f"has {2**count if 2**count < CEILING else f'{CEILING} or more'} " in str(error)


class Counted(tuple[ast.SelectionNode, ...]):
    """Selections that count how often they are read."""

    __slots__ = ()
    reads = 0

    def __iter__(self) -> Iterator[ast.SelectionNode]:
        for node in super().__iter__():
            Counted.reads += 1
            yield node


def test_reads_a_fragment_once_for_ordinary_fields_and_once_for_introspection() -> None:
    count = 200
    document = parse("query B { ...F0 } { a { ...F0 } __schema { ...F0 } ...F0 } " + doubled(count, "a"))
    for definition in document.definitions:
        assert isinstance(definition, ast.ExecutableDefinitionNode)
        object.__setattr__(definition.selection_set, "selections", Counted(definition.selection_set.selections))

    Counted.reads = 0
    with pytest.raises(LimitExceeded, match="fields inside introspection"):
        check_document(document, UNLIMITED)

    in_operations, in_fragments = 1 + 3, 2 * count + 1
    assert Counted.reads == in_operations + 2 * in_fragments


def test_finds_depth_hidden_in_a_chain_of_thousands_of_fragments() -> None:
    count = 3000
    chained = (f"fragment F{i} on Q {{ a {{ ...F{i + 1} }} }}" for i in reversed(range(count)))

    error = refusal(f"{{ ...F0 }} {' '.join(chained)}", only("GATEWAY_MAX_DEPTH", 10))

    assert f"has {count} levels of depth" in str(error)


def test_survives_nesting_far_beyond_what_the_parser_lets_through() -> None:
    name = ast.NameNode(value="a")
    value: ast.ValueNode = ast.IntValueNode(value="1")
    node = ast.FieldNode(name=name)
    for _ in range(5_000):
        value = ast.ListValueNode(values=(value,))
        node = ast.FieldNode(name=name, selection_set=ast.SelectionSetNode(selections=(node,)))
    node = ast.FieldNode(
        name=name, arguments=(ast.ArgumentNode(name=name, value=value),), selection_set=node.selection_set
    )
    operation = ast.OperationDefinitionNode(
        operation=ast.OperationType.QUERY, selection_set=ast.SelectionSetNode(selections=(node,))
    )

    with pytest.raises(LimitExceeded, match="5001 levels of depth"):
        check_document(ast.DocumentNode(definitions=(operation,)), Limits())
    with pytest.raises(LimitExceeded, match="5000 levels of lists"):
        check_document(ast.DocumentNode(definitions=(operation,)), UNLIMITED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ a " + "@d " * 10_000 + "}", "10000 directives"),
        ("{ a { " + "x: b " * 1_000 + "} }", "1000 aliases"),
        ("{ " + "a " * 10_000 + "}", "10000 root fields"),
        ("{ " + "a { " * 100 + "b" + " }" * 100 + " }", "101 levels of depth"),
        ("query A { a } " * 500 + "query B { x: a " + "y: a " * 30 + "}", "31 aliases"),
    ],
)
def test_refuses_large_documents(text: str, message: str) -> None:
    error = refusal(text, Limits(max_tokens=MANY))

    assert f"has {message}" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "{ ...F } fragment F on Q { x: a y: a ...F ...F }",
        "{ ...F } fragment F on Q { x: a { ...G } } fragment G on A { y: b { ...F ...G } }",
        "{ ...F } fragment F on Q { ...G ...G } fragment G on Q { ...H ...H } fragment H on Q { ...F ...F x: a }",
        "{ x: a ...Unknown ...F } fragment F on Q { x: a ...Unknown }",
        "{ x: a y: a } fragment Unused on Q { a: b b: c ...Unused }",
        "{ ...F } fragment F on Q { a: b b: c c: d } fragment F on Q { x: a y: b }",
        "{ x: a y: a } type T @a @b @c { a: Int }",
    ],
    ids=["self", "mutual", "threefold", "unknown", "unused", "duplicate", "type definition"],
)
def test_leaves_what_is_invalid_to_validation_but_counts_what_it_can(text: str) -> None:
    check_document(parse(text), Limits(max_aliases=4, max_depth=2))

    error = refusal(text, Limits(max_aliases=1))

    assert error.setting == "GATEWAY_MAX_ALIASES"


DIRECTIVES = st.sampled_from(["", "", " @d", " @d @e"])
LEAVES = st.builds("{}{}".format, st.sampled_from(["a", "x: b", "c(l: [[1]])", "...F0", "...F1", "...F2"]), DIRECTIVES)
PARENTS = st.sampled_from(["a", "x: b", "__schema", "y: __type", "... on T", "..."])
BODIES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        "{}{} {{ {} }}".format, PARENTS, DIRECTIVES, st.lists(inner, min_size=1, max_size=3).map(" ".join)
    ),
    max_leaves=8,
)


def written(operation: str, fragments: list[str], *, circular: bool = False) -> str:
    """Join bodies to a document; unless circular, each fragment spreads only later and unknown ones."""

    def shifted(body: str, by: int) -> str:
        return body if circular else re.sub(r"F(\d)", lambda spread: f"F{int(spread[1]) + by}", body)

    bodies = [f"fragment F{i} on T @f {{ {shifted(body, i + 1)} }}" for i, body in enumerate(fragments)]
    return " ".join([f"{{ {operation} }}", *reversed(bodies)])


def expansion(
    fragments: dict[str, ast.FragmentDefinitionNode], within: ast.SelectionSetNode, level: int = 0, root: str = ""
) -> Iterator[tuple[str, int]]:
    """Name each thing to count of a selection set, with its level, by writing every spread out in full."""
    for node in within.selections:
        yield from (("directive", 0) for _ in node.directives or ())
        if isinstance(node, ast.FieldNode):
            yield ("introspection" if root else "field", level + 1)
            yield from [("alias", 0)] * (node.alias is not None)
            enters = not root and node.name.value.startswith("__")
            if node.selection_set:
                inner = (0, node.name.value) if enters else (level + 1, root)
                yield from expansion(fragments, node.selection_set, *inner)
        elif isinstance(node, ast.InlineFragmentNode):
            yield from expansion(fragments, node.selection_set, level, root)
        elif isinstance(node, ast.FragmentSpreadNode) and node.name.value in fragments:
            yield ("directive", 0)
            yield from expansion(fragments, fragments[node.name.value].selection_set, level, root)


@settings(deadline=None)
@given(BODIES, st.lists(BODIES, max_size=4))
def test_agrees_with_expanding_every_spread(body: str, bodies: list[str]) -> None:
    text = written(body, bodies)
    operation, *others = parse(text).definitions
    assert isinstance(operation, ast.OperationDefinitionNode)
    fragments = {node.name.value: node for node in others if isinstance(node, ast.FragmentDefinitionNode)}
    found = list(expansion(fragments, operation.selection_set))
    expected = {
        "GATEWAY_MAX_DEPTH": max(chain([0], (level for what, level in found if what == "field"))),
        "GATEWAY_MAX_ALIASES": found.count(("alias", 0)),
        "GATEWAY_MAX_ROOT_FIELDS": found.count(("field", 1)),
        "GATEWAY_MAX_DIRECTIVES": found.count(("directive", 0)),
    }

    for setting, count in expected.items():
        check(text, only(setting, count))
        assert count == 0 or refusal(text, only(setting, count - 1)).setting == setting


@settings(deadline=None)
@given(BODIES, st.lists(BODIES, min_size=1, max_size=4))
def test_ends_whatever_circles_the_fragments_form(body: str, bodies: list[str]) -> None:
    text = written(f"{body} z: a", bodies, circular=True)

    error = refusal(text, only("GATEWAY_MAX_ALIASES", 0))

    assert error.setting == "GATEWAY_MAX_ALIASES"
