"""The linear rule for fields that share a response name, held against graphql-core's own."""

import re

import pytest
from graphql import GraphQLSchema, OverlappingFieldsCanBeMergedRule, parse, validate
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.execution.validation import SameFieldsMerge
from gateway.schema import GRAPHQL_SCHEMA
from tests.harness import Gateway, open_gateway

CORE: GraphQLSchema = GRAPHQL_SCHEMA


def selection(names: list[str], depth: int) -> st.SearchStrategy[str]:
    """Draw a selection set on Agent or PhoneNumber: few names, so that many meet."""
    below = ["phoneNumber", "id"] if "numbers" in names else ["name", "numbers"]
    leaf = st.sampled_from([name for name in names if name not in {"numbers", "agent"}] + ["x: id", "x: __typename"])
    options = [leaf]
    if depth:
        inner = selection([*below, "agent"] if "numbers" in names else [*below, "id"], depth - 1)
        opener = (
            st.sampled_from(["numbers", "numbers(status: ACTIVE)", "numbers(status: INACTIVE)", "y: numbers"])
            if "numbers" in names
            else st.sampled_from(["agent", "z: agent"])
        )
        options.append(st.tuples(opener, inner).map(lambda pair: f"{pair[0]} {pair[1]}"))
        fragment = "...A" if "numbers" in names else "...P"
        options += [st.just(fragment), selection(names, depth - 1).map(lambda text: f"... {text}")]
    return st.lists(st.one_of(options), min_size=1, max_size=4).map(lambda parts: "{ " + " ".join(parts) + " }")


AGENT = ["id", "name", "numbers"]
NUMBER = ["id", "phoneNumber", "agent"]


@settings(max_examples=400, deadline=None)
@given(selection(AGENT, 3), selection(AGENT, 2), selection(NUMBER, 2))
def test_says_what_graphql_core_says(root: str, on_agent: str, on_number: str) -> None:
    used = 'b: agent(id: "b") { ...A } c: phoneNumber(id: "c") { ...P }'
    text = f'{{ agent(id: "a") {root} {used} }} fragment A on Agent {on_agent} fragment P on PhoneNumber {on_number}'
    document = parse(text)

    ours = [error for error in validate(CORE, document, [SameFieldsMerge]) if "conflict" in error.message]
    theirs = validate(CORE, document, [OverlappingFieldsCanBeMergedRule])

    assert bool(ours) == bool(theirs), (text, [str(error) for error in theirs])


def test_names_the_fields_that_conflict() -> None:
    document = parse('{ a: agent(id: "1") { id } a: agent(id: "2") { id } rateLimit { x: limit x: remaining } }')

    messages = [error.message for error in validate(CORE, document, [SameFieldsMerge])]

    advice = " Use different aliases on the fields to fetch both if this was intentional."
    assert messages == [
        f"Fields 'a' conflict because they have differing arguments.{advice}",
        f"Fields 'x' conflict because 'limit' and 'remaining' are different fields.{advice}",
    ]


def test_unknown_and_circular_fragments_end() -> None:
    document = parse("{ agents { nodes { ...F ...Gone } } } fragment F on Agent { numbers { agent { ...F ...F id } } }")

    messages = [error.message for error in validate(CORE, document, [SameFieldsMerge])]

    assert not any("conflict" in message for message in messages)


@pytest.mark.parametrize(
    "text",
    [
        '{ agent(id: "a") { nam } }',
        "{ agnts { totalCount } }",
        "{ agents(statu: ACTIVE) { totalCount } }",
        "{ agents(status: ACTIV) { totalCount } }",
        "{ ...F } fragment F on Quer { __typename }",
        'mutation { updatePhoneNumber(id: "x", input: { agentI: "x" }) { phoneNumber { id } } }',
        "query ($status: AgentStatus) { agents(status: $status) { totalCount } }",
    ],
)
async def test_names_are_suggested_only_where_introspection_tells_them_anyway(text: str) -> None:
    messages = {}
    for on in ("true", "false"):
        async with open_gateway(settings={"introspection": on}) as gateway:
            answer = await gateway.ask(text, {"status": "ACTIV"})
            messages[on] = " ".join(error["message"] for error in answer["errors"])

    assert "Did you mean" in messages["true"]
    assert "Did you mean" not in messages["false"]


SECRET = re.compile(
    r"(?<![a-z])(Query|Mutation|Agent\w*|PhoneNumber\w*|UpdatePhone\w+|AssignPhone\w+|agentId|friendlyName|input|INACTIVE)\b"
)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("{ nothing }", {}),
        ("{ agents { nothing } }", {}),
        ("{ agents }", {}),
        ("{ agents(statu: 1) { totalCount } }", {}),
        ("{ agent { id } }", {}),
        ("{ agents(status: SLEEPY) { totalCount } }", {}),
        ("{ agents(status: 1) { totalCount } }", {}),
        ("{ agents { nodes { numbers } } }", {}),
        ("{ agents { nodes { numbers(status: 1) { agent } } } }", {}),
        ("query ($v: Int) { agents(status: $v) { totalCount } }", {}),
        ("mutation { assignPhoneNumber }", {}),
        ("mutation { assignPhoneNumber(input: {}) { __typename } }", {}),
        ("mutation { assignPhoneNumber(input: 1) { __typename } }", {}),
        ("mutation { assignPhoneNumber(input: {x: 1, phoneNumber: null}) { __typename } }", {}),
        ("mutation { updatePhoneNumber(id: 1, input: null) { __typename } }", {}),
        ("{ ...F } fragment F on Quary { id }", {}),
        ("{ ... on String { id } }", {}),
        ("query ($v: AgentStatuz) { agents(status: $v) { totalCount } }", {}),
        ("subscription { agents }", {}),
        ("query ($s: AgentStatus) { agents(status: $s) { totalCount } }", {"s": "it's SLEEPY"}),
        ("query ($s: AgentStatus) { agents(status: $s) { totalCount } }", {"s": ["x"]}),
        ("mutation ($i: AssignPhoneNumberInput!) { assignPhoneNumber(input: $i) { __typename } }", {"i": {"x": 1}}),
        ("mutation ($i: AssignPhoneNumberInput!) { assignPhoneNumber(input: $i) { __typename } }", {}),
        ("query ($n: Int) { agents(first: $n) { totalCount } }", {"n": None}),
    ],
)
async def test_errors_name_nothing_that_only_introspection_tells(text: str, variables: dict[str, object]) -> None:
    async with open_gateway(settings={"introspection": "false"}) as gateway:
        errors = (await gateway.ask(text, variables))["errors"]
    async with open_gateway() as gateway:
        told = (await gateway.ask(text, variables))["errors"]

    known = set(re.findall(r"\w+", text))
    assert [name for error in errors for name in SECRET.findall(error["message"]) if name not in known] == []
    assert [error["extensions"] for error in errors] == [error["extensions"] for error in told]
    assert len(errors) <= 5


async def test_a_mistake_made_often_is_told_once(gateway: Gateway) -> None:
    answer = await gateway.ask("{ __typename " + "@skip(if: false) " * 50 + "}")

    assert [error["message"] for error in answer["errors"]] == [
        "The directive '@skip' can only be used once at this location."
    ]


@pytest.mark.parametrize("text", ["{ __schema { queryType { name } } }", '{ __type(name: "Agent") { name } }'])
async def test_introspection_is_refused_where_it_is_off(text: str) -> None:
    async with open_gateway(settings={"introspection": "false"}) as gateway:
        answer = await gateway.ask(text)
        typename = await gateway.data("{ __typename }")

    assert {error["extensions"]["code"] for error in answer["errors"]} == {"GRAPHQL_VALIDATION_FAILED"}
    assert "data" not in answer
    assert typename == {"__typename": "Query"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{ __typename " + "x " * 2000 + "}", "more than 2000 tokens"),
        ("{ __typename }" + " " * 64_000, "64014 characters; the limit is 64000"),
        ("{ " + "agent(id: 1) { numbers { " * 6 + "id" + " } }" * 6 + " }", "levels of depth"),
    ],
)
async def test_a_document_over_a_limit_is_too_large(text: str, problem: str) -> None:
    async with open_gateway() as gateway:
        answer = await gateway.ask(text)

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["OPERATION_TOO_LARGE"]
    assert problem in answer["errors"][0]["message"]


WALK = "{ numbers { agent { numbers { agent { BELOW } } } } }"


@pytest.mark.parametrize(
    ("text", "refusals"),
    [
        (f"{{ agents {{ nodes {WALK.replace('BELOW', 'name')} }} }}", 0),
        (f"{{ agents {{ nodes {WALK.replace('BELOW', 'numbers { id }')} }} }}", 1),
        (f"{{ agents {{ nodes {WALK.replace('BELOW', '...F')} }} }} fragment F on Agent {{ numbers {{ id }} }}", 1),
    ],
)
async def test_numbers_nest_twice_since_answers_grow_with_their_power(text: str, refusals: int) -> None:
    async with open_gateway() as gateway:
        answer = await gateway.ask(text)

    assert str(answer.get("errors")).count("nested more than 2 times") == refusals
