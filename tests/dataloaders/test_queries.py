"""Queries, and the REST calls that they cost, as exact lists."""

import httpx
import pytest

from tests.harness import Gateway, errors_of, open_gateway, spent
from tests.plain import aliased, pages

NESTED = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
NAMED = "query($n: Int!) { phoneNumbers(first: $n) { nodes { id agent { name } } } }"
HOSTILE = ["", ".", "..", "a/b", "../x", "%2e", "%2e%2e", "a%2fb", "a" * 129, "ü", "a b", "a\nb", "a\x00", "a?b", "a#b"]


async def test_agents_with_nested_numbers_cost_two_calls(gateway: Gateway) -> None:
    answer = await gateway.ask(NESTED)

    assert gateway.calls == ["GET /agents?page=1&limit=50", "GET /numbers?page=1&limit=100"]
    assert spent(answer) == 2
    numbers = [number for node in answer["data"]["agents"]["nodes"] for number in node["numbers"]]
    assert len(numbers) == 54
    assert all(
        number["agent"]["name"] == node["name"]
        for node in answer["data"]["agents"]["nodes"]
        for number in node["numbers"]
    )


@pytest.mark.parametrize(
    ("selection", "variables"),
    [
        ("agent { id }", {}),
        ("a: agent { i: id } b: agent { __typename j: id }", {}),
        ("agent { ...A } } } } fragment A on Agent { ...B } fragment B on Agent { id __typename", {}),
        ("agent { ... on Agent { id } ... @include(if: true) { id } }", {}),
        ("agent { id name @include(if: $no) }", {"no": False}),
        ("agent { id name @skip(if: $yes) ... @skip(if: true) { status } }", {"yes": True}),
        ("agent { id ...A @include(if: $no) } } } } fragment A on Agent { name", {}),
        ("agent { id name @include(if: true) @skip(if: true) }", {}),
        ("agent { id name @skip(if: false) @include(if: false) }", {}),
        ("agent { id } ... @include(if: $no) { agent { name } }", {"no": False}),
        ("agent { __typename }", {}),
    ],
)
async def test_an_agents_id_is_free(gateway: Gateway, selection: str, variables: dict[str, bool]) -> None:
    head = "query($yes: Boolean! = true, $no: Boolean! = false) { always: __typename @skip(if: $yes) @include(if: $no)"

    document = f"{head} phoneNumbers(first: 20) {{ nodes {{ {selection}"
    await gateway.data(document + " } } }" if "fragment" not in document else document + " }", variables)

    assert gateway.calls == ["GET /numbers?page=1&limit=20"]


@pytest.mark.parametrize(
    "selection",
    [
        "agent { id } agent { name }",
        "agent { id name @include(if: $yes) }",
        "agent { ...A } } } } fragment A on Agent { id ... @skip(if: false) { name }",
        "a: agent { id } b: agent { name }",
        "agent { id } ... { agent { name } }",
    ],
)
async def test_one_more_field_of_the_agent_is_loaded(gateway: Gateway, selection: str) -> None:
    head = "query($yes: Boolean! = true) { a: __typename @include(if: $yes)"
    document = f"{head} phoneNumbers(first: 1) {{ nodes {{ {selection}"
    data = await gateway.data(document + " } } }" if "fragment" not in document else document + " }")

    owner = next(iter(gateway.workspaces["demo"].agents.values()))
    assert gateway.calls == ["GET /numbers?page=1&limit=1", f"GET /agents/{owner['id']}"]
    node = data["phoneNumbers"]["nodes"][0]
    assert owner["name"] in [agent.get("name") for agent in node.values()]


async def test_an_unassigned_number_has_no_agent(gateway: Gateway) -> None:
    id_ = list(gateway.workspaces["demo"].numbers)[9]

    data = await gateway.data(f'{{ phoneNumber(id: "{id_}") {{ a: agent {{ id }} b: agent {{ name }} }} }}')

    assert data == {"phoneNumber": {"a": None, "b": None}}
    assert gateway.calls == [f"GET /numbers/{id_}"]


async def test_an_agent_with_only_id_and_numbers_costs_one_call(gateway: Gateway) -> None:
    id_ = next(iter(gateway.workspaces["demo"].agents))

    data = await gateway.data(f'{{ agent(id: "{id_}") {{ __typename id numbers {{ id agent {{ id }} }} }} }}')

    assert gateway.calls == [f"GET /agents/{id_}/numbers"]
    assert [number["agent"] for number in data["agent"]["numbers"]] == [{"id": id_}] * 5


@pytest.mark.parametrize("selection", ["id", "name", "__typename", "id numbers { id }", "name numbers { id }"])
async def test_another_tenants_agent_is_null(gateway: Gateway, selection: str) -> None:
    foreign = next(iter(gateway.workspaces["demo-2"].agents))

    data = await gateway.data(f'{{ agent(id: "{foreign}") {{ {selection} }} }}')

    assert data == {"agent": None}
    assert len(gateway.calls) == 1


async def test_another_tenants_number_is_null(gateway: Gateway) -> None:
    foreign = next(iter(gateway.workspaces["demo-2"].numbers))

    data = await gateway.data(f'{{ phoneNumber(id: "{foreign}") {{ id agent {{ name }} }} }}')

    assert data == {"phoneNumber": None}
    assert gateway.calls == [f"GET /numbers/{foreign}"]


async def test_foreign_and_own_objects_in_one_operation_keep_apart(gateway: Gateway) -> None:
    own, foreign = list(gateway.workspaces["demo"].agents)[:3], list(gateway.workspaces["demo-2"].agents)[:2]

    data = await gateway.data(aliased("agent", [*own, *foreign], "id name"))

    assert [data[f"q{i}"] is None for i in range(5)] == [False, False, False, True, True]
    assert gateway.calls == ["GET /agents?page=1&limit=100", *(f"GET /agents/{id_}" for id_ in foreign)]


async def test_an_agent_whose_numbers_fail_is_kept(gateway: Gateway) -> None:
    id_ = next(iter(gateway.workspaces["demo"].agents))
    gateway.upstream.play("GET /agents/.*", httpx.Response(500))

    answer = await gateway.ask(f'{{ agent(id: "{id_}") {{ id numbers {{ id }} }} }}')

    assert answer["data"] == {"agent": {"id": id_, "numbers": None}}
    assert errors_of(answer) == [("UPSTREAM_ERROR", ["agent", "numbers"])]
    assert gateway.calls == [f"GET /agents/{id_}/numbers"]


async def test_a_list_primes_its_members(gateway: Gateway) -> None:
    agents, numbers = (list(kind) for kind in (gateway.workspaces["demo"].agents, gateway.workspaces["demo"].numbers))
    await gateway.data("{ agents(first: 12) { nodes { id } } phoneNumbers(first: 60) { nodes { agent { name } } } }")
    assert sorted(gateway.calls)[:1] == ["GET /agents?page=1&limit=12"]

    data = await gateway.data(NAMED, {"n": 60})

    assert gateway.calls == ["GET /numbers?page=1&limit=60", "GET /agents?page=1&limit=100"]
    assert len(data["phoneNumbers"]["nodes"]) == len(numbers) == 5 * len(agents)


async def test_a_nested_walk_back_and_forth_is_primed(gateway: Gateway) -> None:
    walk = "{ agents(first: 50) { nodes { numbers { agent { name numbers { id agent { status } } } } } } }"

    await gateway.data(walk)

    assert gateway.calls == ["GET /agents?page=1&limit=50", *pages(1)]


@pytest.mark.parametrize(
    ("embed", "calls"),
    [("none", ["GET /agents?page=1&limit=100"]), ("partial", ["GET /agents?page=1&limit=100"]), ("whole", [])],
)
async def test_a_whole_embedded_agent_needs_no_call(embed: str, calls: list[str]) -> None:
    async with open_gateway(embed_agent=embed) as gateway:
        data = await gateway.data(NAMED, {"n": 60})

        answered = gateway.calls
        agents = gateway.workspaces["demo"].agents
    if embed == "whole":  # one that leaves out its description may be a part of itself
        calls = [f"GET /agents/{id_}" for id_, agent in agents.items() if "description" not in agent]
        assert len(calls) == 1
    names = {agent["name"] for agent in gateway.workspaces["demo"].agents.values()}
    assert answered == ["GET /numbers?page=1&limit=60", *calls]
    assert {node["agent"]["name"] for node in data["phoneNumbers"]["nodes"] if node["agent"]} == names


async def test_one_number_by_many_names_costs_one_call(gateway: Gateway) -> None:
    id_ = next(iter(gateway.workspaces["demo"].numbers))

    data = await gateway.data(aliased("phoneNumber", [id_] * 20, "id"))

    assert data == {f"q{i}": {"id": id_} for i in range(20)}
    assert gateway.calls == [f"GET /numbers/{id_}"]


async def test_numbers_of_one_state_are_picked_without_a_further_call(gateway: Gateway) -> None:
    ask = "{ agents(first: 12) { nodes { a: numbers(status: ASSIGNED) { status } b: numbers(status: INACTIVE) { id }"
    ask += " all: numbers { id } none: numbers(status: null) { id } } } }"

    nodes = (await gateway.data(ask))["agents"]["nodes"]

    assert gateway.calls == ["GET /agents?page=1&limit=12", *pages(1)]
    assert {number["status"] for node in nodes for number in node["a"]} == {"ASSIGNED"}
    assert sum(len(node["b"]) for node in nodes) > 0
    assert all(len(node["a"]) + len(node["b"]) == len(node["all"]) for node in nodes)
    assert all(node["all"] == node["none"] for node in nodes)


@pytest.mark.parametrize("id_", HOSTILE)
@pytest.mark.parametrize(
    "field",
    [
        "agent(id: $id) { id }",
        "agent(id: $id) { id numbers { id } }",
        "phoneNumber(id: $id) { id }",
    ],
)
async def test_a_hostile_id_is_refused_without_a_call(gateway: Gateway, field: str, id_: str) -> None:
    answer = await gateway.ask(f"query($id: ID!) {{ it: {field} }}", {"id": id_})

    assert answer["data"] == {"it": None}
    assert errors_of(answer) == [("BAD_USER_INPUT", ["it"])]
    assert gateway.calls == []


@pytest.mark.parametrize("id_", ["a" * 128, "a.b", "...", "a:b", "~", "a@b", "-", "_", "5"])
async def test_an_odd_but_possible_id_reaches_the_upstream_quoted(gateway: Gateway, id_: str) -> None:
    data = await gateway.data("query($id: ID!) { phoneNumber(id: $id) { id } }", {"id": id_})

    assert data == {"phoneNumber": None}
    assert gateway.calls == [f"GET /numbers/{id_.replace(':', '%3A').replace('@', '%40')}"]


@pytest.mark.parametrize(
    "field",
    ["agents(status: UNKNOWN) { totalCount }", "phoneNumbers(status: UNKNOWN) { totalCount }"],
)
async def test_unknown_cannot_be_asked_for(gateway: Gateway, field: str) -> None:
    answer = await gateway.ask(f"{{ it: {field} }}")

    assert errors_of(answer) == [("BAD_USER_INPUT", ["it"])]
    assert gateway.calls == []


async def test_unknown_cannot_be_picked_of_an_agents_numbers(gateway: Gateway) -> None:
    answer = await gateway.ask("{ agents(first: 3) { nodes { id numbers(status: UNKNOWN) { id } } } }")

    assert errors_of(answer) == [("BAD_USER_INPUT", ["agents", "nodes", i, "numbers"]) for i in range(3)]
    assert gateway.calls == ["GET /agents?page=1&limit=3", "GET /numbers?page=1&limit=100"]  # both asked for at once


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("ACTIVE", "ACTIVE"),
        ("Assigned", "ASSIGNED"),
        ("UNASSIGNED", "UNASSIGNED"),
        ("porting", "UNKNOWN"),
        ("", "UNKNOWN"),
    ],
)
async def test_a_state_is_shown_whatever_its_case_and_unknown_where_it_is_new(
    gateway: Gateway, sent: str, shown: str
) -> None:
    numbers = gateway.workspaces["demo"].numbers
    numbers[next(iter(numbers))]["status"] = sent

    data = await gateway.data("{ phoneNumbers(first: 2) { nodes { status } } }")

    assert data["phoneNumbers"]["nodes"] == [{"status": shown}, {"status": "ASSIGNED"}]


async def test_filters_reach_the_upstream_in_its_own_spelling(gateway: Gateway) -> None:
    await gateway.data("{ phoneNumbers(status: UNASSIGNED) { totalCount } }")
    await gateway.data('{ agents(status: SUSPENDED, search: "") { totalCount } }')
    await gateway.data("query($s: AgentStatus) { agents(status: $s, search: null) { totalCount } }", {"s": None})

    assert gateway.calls == [
        "GET /numbers?page=1&limit=50&status=unassigned",
        "GET /agents?page=1&limit=50&status=SUSPENDED",
        "GET /agents?page=1&limit=50",
    ]


async def test_what_is_known_of_the_quota_costs_nothing(gateway: Gateway) -> None:
    ask = "{ rateLimit { limit remaining resetAt } }"
    assert (await gateway.data(ask), gateway.calls) == ({"rateLimit": None}, [])
    await gateway.data("{ agents { totalCount } }")

    known = (await gateway.data(ask))["rateLimit"]

    assert (known["limit"], known["remaining"]) == (1000, 999)
    assert known["resetAt"].startswith("2027-01-15T09:00:0")
    assert gateway.calls == ["GET /agents?page=1&limit=50"]


async def test_every_field_is_passed_on_as_the_upstream_wrote_it(gateway: Gateway) -> None:
    fields = "id name description status type workspaceId createdAt updatedAt"
    nodes = (await gateway.data(f"{{ agents {{ nodes {{ {fields} }} }} }}"))["agents"]["nodes"]

    for node, agent in zip(nodes, gateway.workspaces["demo"].agents.values(), strict=True):
        assert node == {name: agent.get(name) for name in fields.split()} | {"type": str(agent["type"]).upper()}
