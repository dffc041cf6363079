"""`gateway check`: the worst case holds against what operations really spend, the typical case is what they spend."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from graphql import parse
from graphql.language import ast

from gateway.cli import main
from gateway.demo.rest_api import Workspace, sample_workspace
from gateway.estimate.typical import Typical
from gateway.estimate.worst_case import DEFAULT_FIRST, costliest, worst_case
from gateway.schema import GRAPHQL_SCHEMA
from tests.harness import open_gateway

ROW = "id name numbers { phoneNumber }"
TOO_MANY = (
    "The document has 21 root fields; the limit is 20. Shorten or split it, or have GATEWAY_MAX_ROOT_FIELDS raised."
)
OWNER = "{ phoneNumber { agent { name } } }"
TOTALS = "{ agents(first: 100) { totalCount } phoneNumbers(first: 100) { totalCount } }"

QUERIES = {
    "list": "{ agents(first: 20) { nodes { id name } } }",
    "nested": "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }",
    "edges": "{ agents { edges { cursor node { name numbers(status: ACTIVE) { id } } } pageInfo { hasNextPage } } }",
    "filtered": "{ agents(first: 50, status: ACTIVE) { nodes { name numbers { id } } } }",
    "same list": "{ a: agents(first: 5) { nodes { name } } b: agents(first: 5) { nodes { id } totalCount } }",
    "two lists": "{ a: agents(first: 50) { nodes { name } } b: agents(first: 20) { nodes { numbers { id } } } }",
    "numbers": "{ phoneNumbers(first: 100) { nodes { agent { name } } } }",
    "numbers of agents of numbers": "{ phoneNumbers(first: 100) { nodes { agent { name numbers { id } } } } }",
    "ids for free": "{ phoneNumbers(first: 100) { nodes { a: agent { id __typename } ...F } } }"
    " fragment F on PhoneNumber { agent { ... on Agent { id } } }",
    "agent": 'query { agent(id: "A0") { ' + ROW + " } }",
    "agent's numbers": '{ agent(id: "A0") { id numbers { id } } }',
    "agent's numbers and name": '{ agent(id: "A0") { id numbers { id agent { name } } } }',
    "agents by id": "{" + " ".join(f'a{i}: agent(id: "A{i}") {{ {ROW} }}' for i in range(6)) + "}",
    "agents' numbers by id": "{"
    + " ".join(f'a{i}: agent(id: "A{i}") {{ id numbers {{ id }} }}' for i in range(6))
    + "}",
    "one agent often": "{" + " ".join(f'a{i}: agent(id: "A0") {{ name }}' for i in range(9)) + "}",
    "number": '{ phoneNumber(id: "N0") { id agent { name } } }',
    "numbers by id": "{" + " ".join(f'n{i}: phoneNumber(id: "N{i}") {{ id }}' for i in range(5)) + "}",
    "agents of numbers by id": "{" + " ".join(f'n{i}: phoneNumber(id: "N{i}") {{ ...F }}' for i in range(3)) + "}"
    " fragment F on PhoneNumber { agent { name } }",
    "excluded": "{ agents @include(if: true) { nodes { name numbers @skip(if: true) { id } } } }",
    "nothing": "{ __typename rateLimit { remaining } }",
    "side by side": "{ agents(first: 50) { nodes { numbers { id } } }"
    " phoneNumbers(first: 50) { nodes { agent { name } } } }",
    "rename": 'mutation { updatePhoneNumber(id: "N0", input: {friendlyName: "x"}) { phoneNumber { agent { name } } } }',
    "two writes": 'mutation { a: updatePhoneNumber(id: "N0", input: {friendlyName: "x"}) { phoneNumber { id } }'
    ' b: updatePhoneNumber(id: "N1", input: {status: ACTIVE}) { phoneNumber { agent { id } } } __typename }',
}


def parsed(text: str) -> tuple[ast.DocumentNode, ast.OperationDefinitionNode, dict[str, ast.FragmentDefinitionNode]]:
    document = parse(text)
    operation, *rest = document.definitions
    assert isinstance(operation, ast.OperationDefinitionNode)
    return document, operation, {node.name.value: node for node in rest if isinstance(node, ast.FragmentDefinitionNode)}


def worst_of(text: str, agents: int = 40, numbers: int = 90) -> int:
    _, operation, fragments = parsed(text)
    return worst_case(operation, fragments, {"agents": agents, "numbers": numbers})


async def typical_of(text: str, agents: int = 40, numbers: int = 90) -> int:
    return await Typical({"agents": agents, "numbers": numbers}).calls(parsed(text)[0])


def named(text: str, workspace: Workspace) -> str:
    """Put real ids in place of A0, A1, … and N0, N1, …"""
    for letter, objects in (("A", workspace.agents), ("N", workspace.numbers)):
        for i, id_ in enumerate([*objects][:9]):
            text = text.replace(f'"{letter}{i}"', f'"{id_}"')
    return text


@pytest.mark.parametrize(("agents", "numbers"), [(1, 250), (2, 250), (12, 60), (40, 90), (150, 90), (250, 400)])
@pytest.mark.parametrize("query", QUERIES)
async def test_no_operation_spends_more_than_its_worst_case(query: str, agents: int, numbers: int) -> None:
    workspace = sample_workspace(agents=agents, numbers=numbers)
    text = named(QUERIES[query], workspace)

    async with open_gateway(workspaces={"demo": workspace}, settings={"max_rest_calls": "1000"}) as gateway:
        await gateway.data(text)
        first = len(gateway.calls)

    assert first <= worst_of(text, agents, numbers)


@pytest.mark.parametrize(("agents", "numbers"), [(12, 60), (40, 90), (150, 90), (250, 400)])
@pytest.mark.parametrize("query", QUERIES)
async def test_an_operation_spends_what_is_typical_once_totals_are_known(query: str, agents: int, numbers: int) -> None:
    workspace = sample_workspace(agents=agents, numbers=numbers)
    text = named(QUERIES[query], workspace)

    async with open_gateway(workspaces={"demo": workspace}, settings={"max_rest_calls": "1000"}) as gateway:
        await gateway.data(TOTALS)
        assert len(gateway.calls) == 2
        await gateway.data(text)

        assert len(gateway.calls) == await typical_of(QUERIES[query], agents, numbers)


@pytest.mark.parametrize(
    ("text", "agents", "numbers", "cost"),
    [
        (QUERIES["nested"], 12, 60, (2, 2)),
        (QUERIES["nested"], 500, 2000, (21, 21)),
        (QUERIES["nested"], 500, 20_000, (52, 51)),
        (QUERIES["numbers"], 500, 2000, (6, 6)),
        (QUERIES["agents' numbers by id"], 500, 2000, (7, 6)),
        ("query($f: Int!) { agents(first: $f) { nodes { numbers { id } } } }", 90, 900, (10, 10)),
        ("query($f: Int! = 5) { agents(first: $f) { nodes { numbers { id } } } }", 90, 900, (7, 6)),
        ("query($c: String) { agents(after: $c) { nodes { id } } }", 90, 90, (2, 1)),
        ("query($c: String) { agents(after: $c) { nodes { id } } }", 40, 90, (1, 1)),
        ('{ agents(first: 1, after: "x") { nodes { id } } }', 400, 90, (1, 1)),
        ("{ agents(after: null, status: null) { nodes { id } } }", 400, 90, (1, 1)),
        ("query($i: Boolean!) { agents { nodes { numbers @include(if: $i) { id } } } }", 40, 90, (2, 2)),
        ("query($i: Boolean! = false) { agents { nodes { numbers @include(if: $i) { id } } } }", 40, 90, (2, 1)),
        ("query($i: Boolean! = true) { agents { nodes { numbers @skip(if: $i) { id } } } }", 40, 90, (2, 1)),
        (QUERIES["agents of numbers by id"], 500, 900, (7, 6)),
        (QUERIES["edges"], 2, 300, (4, 3)),
        (QUERIES["list"], 2, 300, (1, 1)),
    ],
)  # fmt: skip
async def test_costs_by_example(text: str, agents: int, numbers: int, cost: tuple[int, int]) -> None:
    assert (worst_of(text, agents, numbers), await typical_of(text, agents, numbers)) == cost


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (QUERIES["nested"], "agents.nodes.numbers"),
        ("{ few: agents(first: 2) { nodes { id } } all: agents { nodes { n: numbers { id } } } }", "all.nodes.n"),
        (QUERIES["numbers"], "phoneNumbers.nodes.agent"),
        (QUERIES["rename"], "updatePhoneNumber"),
        (QUERIES["nothing"], None),
    ],
)
def test_names_the_field_that_costs_most(text: str, field: str | None) -> None:
    _, operation, fragments = parsed(text)

    found = costliest(operation, fragments, {"agents": 500, "numbers": 2000})

    assert (found and found.field) == field


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("query($id: ID!) { agent(id: $id) { name numbers { id agent { name } } } }", 2),
        ("query($a: ID!, $b: ID!) { a: agent(id: $a) { name } b: agent(id: $b) { name } c: agent(id: $a) { id } }", 1),
        ('{ agents(first: 50, search: "zzz") { nodes { numbers { id } } } }', 2),
        ("query($s: String!, $c: String!) { agents(search: $s, after: $c) { nodes { numbers { id } } } }", 2),
        ("query($s: AgentStatus!, $f: Int!) { agents(status: $s, first: $f) { nodes { name } } }", 1),
        ("query($b: Boolean!) { agents { nodes { name numbers @skip(if: $b) { id } } } }", 1),
        ("mutation($i: AssignPhoneNumberInput!) { assignPhoneNumber(input: $i) { phoneNumber { id } } }", 1),
        (f'mutation($n: String!) {{ assignPhoneNumber(input: {{phoneNumber: $n, agentId: "x"}}) {OWNER} }}', 2),
        ("mutation($i: UpdatePhoneNumberInput!) { updatePhoneNumber(id: 1, input: $i) { phoneNumber { id } } }", 1),
        (f"mutation($n: ID!) {{ updatePhoneNumber(id: $n, input: {{agentId: null}}) {OWNER} }}", 1),
        ("mutation($n: ID!) { deletePhoneNumber(id: $n) { deletedPhoneNumberId } }", 1),
    ],
)  # fmt: skip
async def test_fills_in_what_only_a_client_knows(text: str, calls: int) -> None:
    assert await typical_of(text) == calls


def test_a_list_is_taken_for_as_long_as_the_schema_says() -> None:
    assert GRAPHQL_SCHEMA.query_type
    assert GRAPHQL_SCHEMA.query_type.fields["agents"].args["first"].default_value == DEFAULT_FIRST


def check(folder: Path, files: Mapping[str, str], *options: str, **environ: str) -> Result:
    for name, text in files.items():
        (folder / name).write_text(text)
    return CliRunner().invoke(main, ["check", *(str(folder / name) for name in files), *options], env=environ)


def test_check_prints_what_each_operation_costs(tmp_path: Path) -> None:
    text = "query Rows { agents { nodes { name numbers { id } } } }\n\n{ rateLimit { remaining } }"

    result = check(tmp_path, {"a.graphql": text}, "--agents", "40", "--numbers", "90")

    assert result.exit_code == 0
    assert [line.replace(f"{tmp_path}/", "") for line in result.output.splitlines()] == [
        "REST calls with 40 agents and 90 numbers; the budget is 100.",
        "",
        "  worst  typical  operation  costs most  where",
        "      2        2  Rows       agents      a.graphql:1",
        "      0        0  (query)    -           a.graphql:3",
        "",
        "All within the budget.",
    ]


def test_check_fails_an_operation_over_the_budget(tmp_path: Path) -> None:
    files = {"a.graphql": QUERIES["nested"]}

    strict = check(tmp_path, files, "--max-rest-calls", "1")
    spacious = check(tmp_path, files, GATEWAY_MAX_REST_CALLS="3")

    assert strict.exit_code == 1
    assert "a.graphql:1   over budget" in strict.output
    assert strict.output.endswith("1 over budget, 0 problems.\n")
    assert spacious.exit_code == 0


def test_check_takes_fragments_from_any_file(tmp_path: Path) -> None:
    files = {
        "query.graphql": "query Rows { agents { nodes { ...Row ...Row } } }",
        "row.graphql": "fragment Row on Agent { name numbers { ...Number } } fragment Number on PhoneNumber { id }",
    }

    result = check(tmp_path, files, "--numbers", "90", "--json")

    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["budget"] == 100
    assert report["operations"] == [
        {"file": str(tmp_path / "query.graphql"), "line": 1, "type": "query", "name": "Rows", "worst": 2, "typical": 2,
         "costliest": "agents", "withinBudget": True}
    ]  # fmt: skip


def test_check_names_the_place_of_each_problem(tmp_path: Path) -> None:
    files = {
        "syntax.graphql": "query {",
        "schema.graphql": "query Wrong {\n  agents { nodes { ...Row } }\n}",
        "row.graphql": "fragment Row on Agent {\n  nam\n}",
        "limits.graphql": "query Large {" + " ".join(f"a{i}: rateLimit {{ limit }}" for i in range(21)) + "}",
        "missing.graphql": "{ agents { nodes { ...Nowhere } } }",
    }

    result = check(tmp_path, files)

    assert result.exit_code == 1
    lines = result.output.replace(f"{tmp_path}/", "").splitlines()
    assert lines[2:] == [
        "syntax.graphql:1:8: Syntax Error: Expected Name, found <EOF>.",
        "row.graphql:2:3: Cannot query field 'nam' on type 'Agent'. Did you mean 'name'?",
        f"limits.graphql:1:1: {TOO_MANY}",
        "missing.graphql:1:23: Unknown fragment 'Nowhere'.",
        "0 over budget, 4 problems.",
    ]


def test_check_takes_globs_folders_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("deep/a.graphql", "deep/er/b.gql", "deep/er/c.txt", "d.graphql"):
        (tmp_path / name).write_text(f"query {Path(name).stem.upper()} {{ __typename }}")

    def names(*patterns: str, text: str = "") -> list[str]:
        result = CliRunner().invoke(main, ["check", "--json", *patterns], input=text)
        return [found["name"] for found in json.loads(result.output)["operations"]]

    assert names(str(tmp_path / "deep")) == ["A", "B"]
    assert names(f"{tmp_path}/**/*.gr*") == ["D", "A"]
    assert names(f"{tmp_path}/*.graphql", f"{tmp_path}/d.graphql", "-", text="query S { __typename }") == ["D", "S"]


@pytest.mark.parametrize("pattern", ["nowhere.graphql", "*.graphql", "."])
def test_check_says_which_pattern_leads_to_no_file(tmp_path: Path, pattern: str) -> None:
    result = CliRunner().invoke(main, ["check", f"{tmp_path}/{pattern}"])

    assert result.exit_code == 1
    assert f"{pattern}: there is no such file, and no .graphql or .gql file below it." in result.output


def test_check_says_which_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop.graphql").symlink_to(tmp_path / "loop.graphql")

    result = CliRunner().invoke(main, ["check", f"{tmp_path}/*.graphql"])

    assert result.exit_code == 1
    assert "loop.graphql: Too many levels of symbolic links." in result.output


def test_check_refuses_two_operations_of_one_name(tmp_path: Path) -> None:
    files = {"a.graphql": "query Same { __typename }", "b.graphql": "\nquery Same { rateLimit { limit } }"}

    result = check(tmp_path, files)

    assert result.exit_code == 1
    assert f"b.graphql:2:1: An operation named 'Same' is also at {tmp_path}/a.graphql:1; rename" in result.output


def test_check_fails_where_there_is_nothing_to_check(tmp_path: Path) -> None:
    result = check(tmp_path, {"row.graphql": "fragment Row on Agent { name }"})

    assert result.exit_code == 1
    assert "There is no operation in these files." in result.output


def test_check_tells_settings_that_cannot_be_used(tmp_path: Path) -> None:
    result = check(tmp_path, {"a.graphql": "{ __typename }"}, "--max-rest-calls", "many")

    assert result.exit_code == 1
    assert "GATEWAY_MAX_REST_CALLS: must be a whole number" in result.output
