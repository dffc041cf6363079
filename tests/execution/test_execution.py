"""Compiled execution: what it covers, what it leaves to graphql-core, and that neither costs a call more."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import pytest
from graphql import parse

from gateway.dataloaders.loaders import Loader
from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.execution.documents import Document
from gateway.execution.engine import Engine
from gateway.execution.errors import RequestError
from gateway.execution.executor import MAX_CONDITIONS
from gateway.execution.limits import Limits
from gateway.execution.response import ResponseSize
from gateway.schema import GRAPHQL_SCHEMA
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream import errors
from gateway.upstream.client import Client
from tests.harness import UPSTREAM, Clock, Gateway, Recorder, errors_of, open_gateway

NESTED = "{ agents(first: 12) { nodes { name numbers { phoneNumber agent { name } } } } }"


class Bench:
    """An engine on the demo's sample workspace, without the HTTP door."""

    def __init__(self) -> None:
        clock = Clock()
        self.engine = Engine(Limits(), introspection=True)
        self.upstream = Recorder(create_demo({"demo": sample_workspace()}, clock=clock), clock)
        self._client = Client(load({}, {"upstream_url": UPSTREAM}), self.upstream, clock)

    async def run(self, text: str, variables: Mapping[str, Any] | None = None) -> Any:
        """Execute a document that must succeed, and return its data."""
        context = Context(await self._client.session("demo", "id"))
        result = await self.engine.execute(
            self.engine.prepare(text), None, dict(variables or {}), context, ResponseSize(2**24)
        )
        assert not result.errors, result.errors
        return msgspec.json.decode(msgspec.json.encode(result.data))

    @property
    def counts(self) -> tuple[int, int]:
        """Selections compiled, and fallen back, so far."""
        return self.engine.counts.compiled, self.engine.counts.fallen_back


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_answers_a_nested_query_in_one_go_and_one_batch_a_level(bench: Bench) -> None:
    data = await bench.run(NESTED)

    assert bench.upstream.calls == ["GET /agents?page=1&limit=12", "GET /numbers?page=1&limit=100"]
    assert sum(len(node["numbers"]) for node in data["agents"]["nodes"]) == 54
    assert bench.counts == (1, 0)


async def test_answers_the_same_where_it_is_switched_off(gateway: Gateway) -> None:
    async with open_gateway(settings={"compiled": "false"}) as plain:
        answers = [(await door.http.post("/graphql", json={"query": NESTED})).text for door in (gateway, plain)]

    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "text",
    [
        "{ agents(first: 3) { totalCount pageInfo { hasNextPage endCursor } edges { cursor node { id status } } } }",
        '{ n: phoneNumber(id: "nope") { id } a: agent(id: "nope") { __typename ...F } } fragment F on Agent { name }',
        "{ __typename agents(first: 2) @skip(if: false) { nodes { ... @include(if: false) { id } name } } }",
    ],
)
async def test_covers_connections_fragments_and_conditions(bench: Bench, text: str) -> None:
    await bench.run(text)

    assert bench.counts == (1, 0)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("{ __schema { queryType { name } } agents(first: 1) { totalCount } }", (1, 1)),
        ('{ __type(name: "Agent") { name fields { name } } }', (0, 1)),
        ("{ rateLimit { limit } agents(first: 1) { totalCount } }", (1, 1)),
        ("{ agents(first: 1) @skip(if: true) { totalCount } }", (0, 1)),
    ],
)
async def test_leaves_root_fields_it_does_not_cover_to_graphql_core(
    bench: Bench, text: str, counts: tuple[int, int]
) -> None:
    await bench.run(text)

    assert bench.counts == counts


async def test_evaluates_arguments_and_conditions_for_each_operation(bench: Bench) -> None:
    text = """query($first: Int!, $status: PhoneNumberStatus, $named: Boolean = true) {
        agents(first: $first) { nodes { name @include(if: $named) numbers(status: $status) { status } } } }"""

    plain = await bench.run(text, {"first": 12})
    active = await bench.run(text, {"first": 4, "status": "ACTIVE", "named": False})

    assert (len(plain["agents"]["nodes"]), len(active["agents"]["nodes"])) == (12, 4)
    assert {node.get("name", "") for node in active["agents"]["nodes"]} == {""}
    assert {number["status"] for node in active["agents"]["nodes"] for number in node["numbers"]} <= {"ACTIVE"}
    assert bench.counts == (2, 0)


async def test_takes_a_variables_default_and_the_arguments_where_there_is_neither_value_nor_default(
    bench: Bench,
) -> None:
    text = """query($three: Int! = 3, $first: Int, $search: String = "nobody") {
        a: agents(first: $three, search: $search) { totalCount nodes { id } }
        b: agents(first: $first) { totalCount } }"""

    left = await bench.run(text)
    given = await bench.run(text, {"three": 2, "first": 1, "search": None})

    assert (left["a"], left["b"]["totalCount"]) == ({"totalCount": 0, "nodes": []}, 12)
    assert (len(given["a"]["nodes"]), given["b"]["totalCount"]) == (2, 12)
    assert bench.upstream.calls == [
        *("GET /agents?page=1&limit=3&search=nobody", "GET /agents?page=1&limit=50"),
        *("GET /agents?page=1&limit=2", "GET /agents?page=1&limit=1"),
    ]
    assert bench.counts == (2, 0)


async def test_runs_the_one_of_several_operations_that_is_named(gateway: Gateway) -> None:
    text = "query A { agents(first: 1) { totalCount } } query B { phoneNumbers(first: 1) { totalCount } }"

    for name, field in [("A", "agents"), ("B", "phoneNumbers"), ("A", "agents")]:
        answer = await gateway.http.post("/graphql", json={"query": text, "operationName": name})
        assert [*answer.json()["data"]] == [field]


async def test_two_lists_reached_at_once_share_their_batches(bench: Bench) -> None:
    await bench.run(
        """{ a: agents(first: 3) { nodes { numbers { id agent { name } } } }
             b: agents(first: 3) { edges { node { x: numbers(status: ACTIVE) { id } y: numbers { id } } } } }"""
    )

    assert bench.upstream.calls == ["GET /agents?page=1&limit=3", "GET /numbers?page=1&limit=100"]


async def test_an_agents_id_alone_costs_nothing_whatever_it_is_wrapped_in(bench: Bench) -> None:
    text = """query($more: Boolean!) { phoneNumbers(first: 50) { nodes {
        agent { __typename ...F ... on Agent { name @include(if: $more) } } } } } fragment F on Agent { x: id }"""

    data = await bench.run(text, {"more": False})

    assert bench.upstream.calls == ["GET /numbers?page=1&limit=50"]
    assert {"__typename", "x"} in [set(node["agent"] or ()) for node in data["phoneNumbers"]["nodes"]]


async def test_one_failing_list_keeps_its_siblings_and_is_told_once(gateway: Gateway) -> None:
    agents = (await gateway.data("{ agents(first: 2) { nodes { id } } }"))["agents"]["nodes"]
    gateway.upstream.play(f"GET /agents/{agents[1]['id']}/numbers", httpx.Response(500))
    assert gateway.calls

    answer = await gateway.ask("{ agents(first: 2) { nodes { id numbers { id } } } }")

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["agents", "nodes", 1, "numbers"])]
    assert [node["numbers"] is None for node in answer["data"]["agents"]["nodes"]] == [False, True]
    assert gateway.calls == ["GET /agents?page=1&limit=2", *(f"GET /agents/{agent['id']}/numbers" for agent in agents)]


async def test_a_write_is_sent_once_though_its_payload_falls_back(gateway: Gateway) -> None:
    number = (await gateway.data("{ phoneNumbers(first: 1) { nodes { id agent { id } } } }"))["phoneNumbers"]["nodes"][
        0
    ]
    gateway.upstream.play("GET /agents/.*", httpx.Response(500))
    assert gateway.calls

    answer = await gateway.ask(
        'mutation($id: ID!) { updatePhoneNumber(id: $id, input: { friendlyName: "x" }) {'
        " phoneNumber { friendlyName agent { name numbers { id } } } } }",
        {"id": number["id"]},
    )

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["updatePhoneNumber", "phoneNumber", "agent"])]
    assert gateway.calls == [f"PUT /numbers/{number['id']}", f"GET /agents/{number['agent']['id']}"]


async def test_a_mutations_payload_is_compiled_and_its_root_is_not_counted(bench: Bench) -> None:
    number = (await bench.run("{ phoneNumbers(first: 1) { nodes { id } } }"))["phoneNumbers"]["nodes"][0]

    await bench.run(
        'mutation($id: ID!) { updatePhoneNumber(id: $id, input: { friendlyName: "x" }) { phoneNumber { id } } }', number
    )

    assert bench.counts == (2, 0)


@pytest.mark.parametrize("variables", [{"n": "many"}, {"n": None}, {}, None])
async def test_variables_that_do_not_fit_are_graphql_cores_to_refuse(
    gateway: Gateway, variables: dict[str, Any] | None
) -> None:
    answer = await gateway.ask("query($n: Int!) { agents(first: $n) { totalCount } }", variables)

    assert errors_of(answer) == [("BAD_USER_INPUT", None)]
    assert gateway.calls == []


async def test_refuses_an_operation_that_the_document_does_not_have(bench: Bench) -> None:
    with pytest.raises(RequestError):
        bench.engine.prepare("query A { __typename }").plans(GRAPHQL_SCHEMA, "B")


def test_keeps_what_is_compiled_for_a_bounded_number_of_conditions() -> None:
    names = [f"v{at}" for at in range(6)]
    declared = ", ".join(f"${name}: Boolean{'!' * (at % 2)}" for at, name in enumerate(names))
    document = parse(f"query({declared}, $other: [Int!]) {{ a }}")
    plans = Document(document).plans(GRAPHQL_SCHEMA, None)

    kept = [plans.under({name: bool(bits >> at & 1) for at, name in enumerate(names)}) for bits in range(64)]

    assert len({id(selections) for selections in kept}) == 64
    assert plans.combinations == MAX_CONDITIONS
    assert plans.under({**dict.fromkeys(names, True), "other": [1]}) is kept[-1]


class Source:
    """What a loader fetches from: writes batches down, and answers when it is opened."""

    def __init__(self, *fails: BaseException) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.opened = asyncio.Event(), asyncio.Event()
        self._fails = list(fails)

    async def fetch(self, keys: list[str]) -> Sequence[str | Exception]:
        self.batches.append(keys)
        self.begun.set()
        await self.opened.wait()
        if self._fails:
            raise self._fails.pop()
        return [KeyError(key) if key == "odd" else key.upper() for key in keys]


async def test_a_batch_of_keys_is_loaded_and_remembered_with_single_keys() -> None:
    source = Source()
    source.opened.set()
    loader: Loader[str, str] = Loader(source.fetch)

    one, many = await asyncio.gather(loader.load("a"), loader.load_batch(["b", "a", "odd", "b"]))
    again = await loader.load_batch(["odd", "a"])

    assert (one, many[:2], many[3]) == ("A", ["B", "A"], "B")
    assert (again[0], again[1]) == (many[2], "A")
    assert isinstance(many[2], KeyError)
    assert [sorted(batch) for batch in source.batches] == [["a", "b", "odd"]]


async def test_who_waits_for_a_batch_and_leaves_takes_nothing_from_the_others() -> None:
    source = Source()
    loader: Loader[str, str] = Loader(source.fetch)
    leaves, stays = (asyncio.ensure_future(loader.load_batch(["a", "odd"])) for _ in range(2))
    await source.begun.wait()

    leaves.cancel()
    await asyncio.wait((leaves,))
    source.opened.set()

    assert (await stays)[0] == await loader.load("a") == "A"
    assert leaves.cancelled()
    assert source.batches == [["a", "odd"]]


async def test_a_call_cancelled_from_below_fails_its_keys_for_good() -> None:
    source = Source(asyncio.CancelledError())
    source.opened.set()
    loader: Loader[str, str] = Loader(source.fetch)

    first, again = await loader.load_batch(["a"]), await loader.load_batch(["a"])

    assert first == again
    assert isinstance(first[0], errors.Unavailable)
    assert source.batches == [["a"]]
