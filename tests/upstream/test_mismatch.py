"""Answers to another call: a proxy that answers twice, mixes up connections or repeats an older answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.demo.rest_api import Workspace, sample_workspace
from gateway.settings import load
from gateway.upstream.attempt import ENOUGH, LESS_SURE, MISSES, RECENT, RequestIds
from tests.harness import capture_logs, errors_of
from tests.raw_upstream import BOTH_LOOPS, REPEATED, MixedUp, RawUpstream, answer, id_of, listening, raw_upstream

LOOPS = BOTH_LOOPS
KEY = "key-of-the-tenant"
Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(params=["built-in", "httpx"])
def transport(request: pytest.FixtureRequest) -> httpx.AsyncBaseTransport | None:
    return None if request.param == "built-in" else httpx.AsyncHTTPTransport()


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as opened:
        yield opened


@asynccontextmanager
async def open_gateway(
    url: str, transport: httpx.AsyncBaseTransport | None, **settings: str
) -> AsyncIterator[tuple[Ask, httpx.AsyncClient]]:
    """Start a gateway on a REST API of real sockets."""
    app = create_app(load({}, {"upstream_url": url, **settings}), transport=transport)
    door = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=door, base_url="http://gateway") as http:

        async def ask(query: str, key: str = KEY) -> dict[str, Any]:
            response = await http.post("/graphql", json={"query": query}, headers={"X-API-Key": key})
            answered: dict[str, Any] = response.json()
            return answered

        yield ask, http


@pytest.fixture
async def ask(upstream: RawUpstream, transport: httpx.AsyncBaseTransport | None) -> AsyncIterator[Ask]:
    async with open_gateway(upstream.url, transport, cache_ttl="60") as (opened, _):
        yield opened


def agent(id_: str = "a1") -> dict[str, Any]:
    return {"id": id_, "name": id_, "status": "ACTIVE", "type": "custom", "createdAt": "1", "updatedAt": "2"}


def number(id_: str = "n1", **more: Any) -> dict[str, Any]:
    return {"id": id_, "phoneNumber": "+4930123456", "status": "assigned", "createdAt": "1", **more}


def page(*rows: dict[str, Any], page: int = 1, limit: int = 5, total: int = 1, **more: Any) -> dict[str, Any]:
    return {"data": list(rows), "pagination": {"page": page, "limit": limit, "total": total, **more}}


def ok(body: Any, *headers: str) -> bytes:
    return answer(json.dumps(body).encode(), "200 OK", *headers)


AGENT = '{ agent(id: "a1") { name } }'
NUMBER = '{ phoneNumber(id: "n1") { phoneNumber } }'
NUMBERS_OF = '{ agent(id: "a1") { numbers { id } } }'
AGENTS = "{ agents(first: 5) { nodes { name } } }"
NUMBERS = "{ phoneNumbers(first: 5, status: ACTIVE) { nodes { phoneNumber } } }"
SUSPENDED = "{ agents(first: 5, status: SUSPENDED) { nodes { name } } }"
ASSIGNED = "{ phoneNumbers(first: 5, status: ASSIGNED) { nodes { phoneNumber } } }"
UPDATE = 'mutation { updatePhoneNumber(id: "n1", input: {friendlyName: "x"}) { phoneNumber { id } } }'
ASSIGN = 'mutation { assignPhoneNumber(input: {phoneNumber: "+4930123456", agentId: "a1"}) { phoneNumber { id } } }'
DELETE = 'mutation { deletePhoneNumber(id: "n1") { deletedPhoneNumberId } }'

FOREIGN: dict[str, tuple[str, Any]] = {
    "another agent": (AGENT, agent("a9")),
    "another number": (NUMBER, number("n9")),
    "an agent for a number": (NUMBER, agent("a9")),
    "a list for an agent": (AGENT, page(agent())),
    "a list for a number": (NUMBER, {"data": []}),
    "another agent's numbers": (NUMBERS_OF, {"data": [number(agentId="a9")]}),
    "one number of another agent": (NUMBERS_OF, {"data": [number(agentId="a1"), number("n2", agentId="a9")]}),
    "numbers that bring another agent": (NUMBERS_OF, {"data": [number(agent={"id": "a9", "name": "A"})]}),
    "a number for an agent's": (NUMBERS_OF, number()),
    "agents for an agent's numbers": (NUMBERS_OF, page(agent())),
    "another page": (AGENTS, page(agent(), page=2)),
    "a larger page": (AGENTS, page(agent(), limit=50)),
    "another page, filtered": (NUMBERS, page(number(), page=2)),
    "a larger page, filtered": (NUMBERS, page(number(), limit=6)),
    "an agent for agents": (AGENTS, agent()),
    "numbers for agents": (AGENTS, page(number())),
    "an agent's numbers for a page": (NUMBERS, {"data": [number(agentId="a1"), number("n2", agentId="a1")]}),
    "agents for numbers": (NUMBERS, page(agent())),
    "a page of an agent's numbers": (NUMBERS_OF, page(number(agentId="a1"), total=2)),
    "a first page of an agent's numbers": (NUMBERS_OF, page(number(agentId="a1"), hasMore=True)),
    "a page of several of an agent's numbers": (NUMBERS_OF, page(number(agentId="a1"), totalPages=2)),
    "a later page for an agent's numbers": (NUMBERS_OF, page(number(agentId="a1"), page=2)),
    "agents of another status": (SUSPENDED, page(agent())),
    "numbers of another status": (NUMBERS, page(number(status="ACTIVE"), number("n2", status="inactive"), total=2)),
    "numbers of another status of the guide": (ASSIGNED, page(number(status="UNASSIGNED"))),
}


@pytest.mark.parametrize(("query", "body"), FOREIGN.values(), ids=FOREIGN)
async def test_an_answer_to_another_read_is_an_error_and_nothing_of_it_is_kept(
    upstream: RawUpstream, ask: Ask, query: str, body: Any
) -> None:
    quota = ["X-RateLimit-Limit: 77", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 9999999999"]
    upstream.play((ok(body, *quota, "X-Request-Id: another-tenants"), "keep"), (answer(b"", "500 Oops"), "keep"))

    with capture_logs() as logs:
        told = await ask(query)
    again = await ask(query)

    (error,) = told["errors"]
    assert error["extensions"] == {"code": "UPSTREAM_ERROR"}
    assert "another call" in error["message"]
    assert "limit" not in told["extensions"]["quota"]
    assert len(upstream.calls) == 2  # of which the second is not refused: no quota was believed
    assert again["errors"][0]["extensions"]["upstream"] == {"status": 500}
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["event"] == "mismatched_response"
    assert KEY not in str(logs)
    assert upstream.url not in str(logs)


WRITES: dict[str, tuple[str, Any]] = {
    "another number for an update": (UPDATE, number("n9")),
    "an agent for an update": (UPDATE, agent()),
    "a list for an update": (UPDATE, page(number())),
    "another number for a new one": (ASSIGN, number(phoneNumber="+4930123457")),
    "a list for a new one": (ASSIGN, page(number())),
    "another number for a delete": (DELETE, number("n9")),
    "a list for a delete": (DELETE, page(number())),
}


@pytest.mark.parametrize(("query", "body"), WRITES.values(), ids=WRITES)
async def test_a_write_with_the_answer_to_another_call_is_in_doubt(
    upstream: RawUpstream, ask: Ask, query: str, body: Any
) -> None:
    upstream.play((ok(body), "keep"))

    told = await ask(query)

    (error,) = told["errors"]
    assert error["extensions"] == {"code": "UPSTREAM_ERROR"}
    assert "The change may have been made" in error["message"]
    assert len(upstream.calls) == 1


FITTING: dict[str, tuple[str, Any]] = {
    "more keys": (AGENT, agent() | {"data": [1]}),
    "a smaller limit": (AGENTS, page(agent(), limit=2)),
    "whether there is more": (AGENTS, page(agent(), hasMore=False)),
    "no rows": (AGENTS, page(total=0)),
    "numbers without an agent's id": (NUMBERS_OF, {"data": [number()]}),
    "numbers with an agent's id of null": (NUMBERS_OF, {"data": [number(agentId=None), number("n2", agentId="a1")]}),
    "no numbers": (NUMBERS_OF, {"data": []}),
    "all numbers on one page": (NUMBERS_OF, page(number(agentId="a1"), totalPages=1, hasMore=False)),
    "no word of a page": (NUMBERS_OF, {"data": [number(agentId="a1")], "pagination": None}),
    "a status in another case": (SUSPENDED, page(agent() | {"status": "suspended"})),
    "a status that is not known": (SUSPENDED, page(agent() | {"status": "BUSY"})),
    "a status of the other set": (ASSIGNED, page(number(status="ACTIVE"))),
    "a status of the other set, the other way": (NUMBERS, page(number(status="unassigned"))),
    "an update": (UPDATE, number()),
    "a number with blanks": (ASSIGN, number("n7", phoneNumber="+49 30 123456")),
    "a number without its country": (ASSIGN, number("n7", phoneNumber="030123456")),
    "a delete that answers what it deleted": (DELETE, number()),
    "a delete that says so": (DELETE, {"deleted": True}),
}


@pytest.mark.parametrize(("query", "body"), FITTING.values(), ids=FITTING)
async def test_an_answer_that_may_be_the_requests_own_is_believed(
    upstream: RawUpstream, ask: Ask, query: str, body: Any
) -> None:
    upstream.play((ok(body), "keep"))

    assert "errors" not in await ask(query)


@pytest.mark.parametrize("body", [[], {"id": None}, {"data": 7}, {}])
async def test_an_answer_of_no_known_shape_closes_no_connection(upstream: RawUpstream, ask: Ask, body: Any) -> None:
    upstream.play((ok(body), "keep"))

    codes = [errors_of(await ask(AGENT)) for _ in range(2)]

    assert codes == [[("UPSTREAM_ERROR", ["agent"])]] * 2
    assert upstream.connections == 1


async def test_whoever_waits_for_the_same_gets_the_error_too(upstream: RawUpstream, ask: Ask) -> None:
    upstream.play((ok(agent("a9")), "keep"))

    answers = await asyncio.gather(ask(AGENT), ask(AGENT), ask(AGENT))

    assert [errors_of(told) for told in answers] == [[("UPSTREAM_ERROR", ["agent"])]] * 3


async def test_a_mismatch_closes_every_connection_that_was_open(upstream: RawUpstream) -> None:
    several = '{ a: agent(id: "a1") { name } b: agent(id: "a2") { name } }'
    upstream.play((ok(agent("a9")), "keep"))
    async with open_gateway(upstream.url, None) as (ask, http):
        first = await ask(several)
        opened = upstream.connections
        upstream.play((ok(agent("a1")), "keep"))
        again = [await ask(AGENT), await ask(AGENT)]
        metrics = (await http.get("/metrics")).text

    assert [code for code, _ in errors_of(first)] == ["UPSTREAM_ERROR"] * 2
    assert (opened, upstream.connections) == (2, 3)
    assert all("errors" not in told for told in again)
    assert "gateway_mismatched_answers_total 2.0" in metrics


async def test_a_read_under_way_beside_a_mismatch_is_sent_once_more(upstream: RawUpstream) -> None:
    async with open_gateway(upstream.url, None) as (ask, _):
        upstream.play((b"", "hang"), (ok(agent("a9")), "keep"), (ok(agent("a1")), "keep"))
        beside = asyncio.ensure_future(ask(AGENT))
        await upstream.seen.wait()
        foreign = await ask('{ agent(id: "a2") { name } }')
        told = await beside

    assert errors_of(foreign) == [("UPSTREAM_ERROR", ["agent"])]
    assert told["data"] == {"agent": {"name": "a1"}}
    assert upstream.calls == ["GET /agents/a1", "GET /agents/a2", "GET /agents/a1"]


async def test_every_call_has_a_request_id_of_its_own(upstream: RawUpstream, ask: Ask) -> None:
    upstream.play((answer(b"", "500 Oops"), "keep"))

    await ask('{ a: agent(id: "a1") { name } b: agent(id: "a2") { name } }')

    ids = {id_of(request) for request in upstream.requests}
    assert len(ids) == 2
    assert len({id_.rpartition(b"-")[0] for id_ in ids}) == 1


async def test_the_request_id_of_another_call_is_never_believed(upstream: RawUpstream, ask: Ask) -> None:
    upstream.play((ok(agent(), REPEATED), "keep"))
    await ask(AGENT)
    earlier = id_of(upstream.requests[0]).decode()

    upstream.play((ok(agent("a2"), f"X-Request-Id: {earlier}"), "keep"))
    told = await ask('{ agent(id: "a2") { name } }')

    assert errors_of(told) == [("UPSTREAM_ERROR", ["agent"])]
    assert earlier not in json.dumps(told)


async def test_an_upstream_that_repeats_request_ids_is_expected_to_go_on(upstream: RawUpstream, ask: Ask) -> None:
    upstream.play((answer(b"", "404 None", REPEATED), "keep"))
    before = [await ask(f'{{ agent(id: "b{i}") {{ name }} }}') for i in range(ENOUGH)]

    upstream.play((ok(agent(), "X-Request-Id: its"), "keep"))
    told = await ask(AGENT)

    assert all("errors" not in each for each in before)
    assert errors_of(told) == [("UPSTREAM_ERROR", ["agent"])]


def test_a_request_id_is_insisted_on_once_it_was_repeated_often_enough() -> None:
    ids = RequestIds()
    for _ in range(ENOUGH - 1):
        mark = ids.next()
        assert ids.fits(mark, 200, f"r-{mark}")
    seldom = [ids.fits("m", 200, "theirs"), ids.fits("m", 200, None)]

    for _ in range(ENOUGH):
        mark = ids.next()
        assert ids.fits(mark, 200, f"r-{mark}, theirs")
    often = [ids.fits("m", 200, "theirs"), ids.fits("m", 200, None), ids.fits("m", 404, "theirs")]

    assert (seldom, often) == ([True, True], [False] * 3)


def test_a_proxys_own_page_of_an_error_fits_and_proves_nothing() -> None:
    ids = RequestIds()
    for _ in range(ENOUGH):
        mark = ids.next()
        assert ids.fits(ids.next(), 503, "theirs")
        assert ids.fits(ids.next(), 403, None)
        assert ids.fits(mark, 200, mark)

    assert ids.fits(ids.next(), 502, None)
    assert ids.fits(ids.next(), 404, None)
    assert not ids.fits(ids.next(), 503, mark)
    assert not ids.fits(ids.next(), 200, None)


def test_an_upstream_that_stops_repeating_ids_is_believed_later() -> None:
    ids = RequestIds()

    def repeat(times: int) -> None:
        for _ in range(times):
            mark = ids.next()
            assert ids.fits(mark, 200, mark)

    def misses() -> list[bool]:
        return [ids.fits(ids.next(), 200, "theirs") for _ in range(MISSES + 1)]

    repeat(ENOUGH)
    assert misses() == [False] * MISSES + [True]
    repeat(ENOUGH)
    assert misses() == [True] * (MISSES + 1)
    repeat(ENOUGH * LESS_SURE)
    assert misses() == [False] * MISSES + [True]


def test_a_second_copy_is_refused_if_the_upstream_gives_each_response_an_id() -> None:
    ids = RequestIds()

    believed = [ids.fits(ids.next(), 200, f"theirs-{i}") for i in range(ENOUGH)]
    copies = [ids.fits(ids.next(), status, "theirs-3") for status in (200, 403)]

    assert (believed, copies) == ([True] * ENOUGH, [False, False])
    assert ids.fits(ids.next(), 200, "theirs-new")
    assert ids.fits(ids.next(), 200, None)


def test_an_upstream_whose_ids_are_not_unique_is_believed() -> None:
    constant, for_each_connection = RequestIds(), RequestIds()

    assert all(constant.fits(constant.next(), 200, "always") for _ in range(3 * ENOUGH))
    assert all(for_each_connection.fits("m", 200, f"connection-{i}") for i in range(ENOUGH))
    again = [for_each_connection.fits("m", 200, f"connection-{i % ENOUGH}") for i in range(3 * ENOUGH)]
    assert again == [False] * MISSES + [True] * (3 * ENOUGH - MISSES)


def test_ids_of_long_ago_are_forgotten() -> None:
    ids = RequestIds()

    for i in range(RECENT + 1):
        assert ids.fits(ids.next(), 200, f"theirs-{i}")

    assert not ids.fits(ids.next(), 200, "theirs-1")
    assert ids.fits(ids.next(), 200, "theirs-0")


def test_a_few_faults_far_apart_do_not_end_the_insisting() -> None:
    ids = RequestIds()

    for _ in range(3 * MISSES):
        for _ in range(ENOUGH):
            mark = ids.next()
            assert ids.fits(mark, 200, mark)
        assert not ids.fits(ids.next(), 200, "theirs")


TENANTS, ROUNDS = 8, 20


def drawn(space: Workspace, turn: int) -> list[tuple[str, Any]]:
    """Queries of one tenant and what each must answer."""
    agents, numbers = list(space.agents.values()), list(space.numbers.values())
    own, other = agents[turn % len(agents)], numbers[turn % len(numbers)]
    of_agent = [{"id": each["id"]} for each in numbers if each.get("agentId") == own["id"]]
    return [
        ("{ agents(first: 5) { nodes { id } } }", {"agents": {"nodes": [{"id": each["id"]} for each in agents[:5]]}}),
        (f'{{ agent(id: "{own["id"]}") {{ name }} }}', {"agent": {"name": own["name"]}}),
        (f'{{ agent(id: "{own["id"]}") {{ numbers {{ id }} }} }}', {"agent": {"numbers": of_agent}}),
        (f'{{ phoneNumber(id: "{other["id"]}") {{ id }} }}', {"phoneNumber": {"id": other["id"]}}),
        (
            "{ phoneNumbers(first: 5) { nodes { phoneNumber } } }",
            {"phoneNumbers": {"nodes": [{"phoneNumber": each["phoneNumber"]} for each in numbers[:5]]}},
        ),
    ]


@pytest.mark.parametrize(
    ("connections", "repeats"),
    [(64, True), (64, False), (4, True), (4, False), (1, False)],
    ids=["ids repeated", "ids of its own", "few connections", "few, ids of its own", "one, ids of its own"],
)
async def test_no_tenant_sees_anothers_data_if_responses_come_one_call_late(
    connections: int,
    repeats: bool,  # noqa: FBT001
) -> None:
    spaces = {f"key-{i}": sample_workspace(agents=9, numbers=30, prefix=f"t{i}") for i in range(TENANTS)}
    mixed = MixedUp(spaces, every=0, repeats=repeats)
    async with (
        listening(mixed) as url,
        open_gateway(url, None, upstream_connections=str(connections)) as (ask, _),
    ):
        for key in [*spaces] * 2:
            await ask("{ agents(first: 1) { totalCount } }", key)
        mixed.every, failed, wrong = 20, 0, 0

        async def caller(key: str) -> None:
            nonlocal failed, wrong
            for turn in range(ROUNDS):
                asked = drawn(spaces[key], turn)
                for (_, expected), told in zip(
                    asked, await asyncio.gather(*(ask(query, key) for query, _ in asked)), strict=True
                ):
                    failed += "errors" in told
                    wrong += "errors" not in told and told["data"] != expected

        await asyncio.gather(*map(caller, spaces))

    assert mixed.late > 3
    assert (wrong, failed < TENANTS * ROUNDS) == (0, True)  # of five times as many


async def test_no_tenant_sees_anothers_agents_if_its_workspace_is_known() -> None:
    query = "{ agents(first: 5) { nodes { id } } }"
    spaces = {f"key-{i}": sample_workspace(agents=9, numbers=9, prefix=f"t{i}") for i in range(TENANTS)}
    mixed = MixedUp(spaces, every=0, repeats=False)
    async with listening(mixed) as url, open_gateway(url, None, upstream_connections="4") as (ask, _):
        for key in spaces:
            await ask(query, key)
        mixed.every = 20

        async def caller(key: str) -> list[dict[str, Any]]:
            return [await ask(query, key) for _ in range(3 * ROUNDS)]

        told = dict(zip(spaces, await asyncio.gather(*map(caller, spaces)), strict=True))

    ids = {key: [{"id": agent_id} for agent_id in list(space.agents)[:5]] for key, space in spaces.items()}
    good = [(each["data"]["agents"]["nodes"], ids[key]) for key in spaces for each in told[key] if "errors" not in each]
    assert mixed.late > 3
    assert all(seen == own for seen, own in good)
    assert len(good) > TENANTS * ROUNDS


def workspace(id_: str | None, *more: str) -> bytes:
    return ok(
        page(agent() | {"workspaceId": id_}, *(agent(f"b{i}") | {"workspaceId": at} for i, at in enumerate(more)))
    )


async def answered(upstream: RawUpstream, *responses: bytes) -> list[bool]:
    """Which responses to one tenant are not refused."""
    upstream.play(*((response, "keep") for response in responses))
    async with open_gateway(upstream.url, None) as (ask, _):
        return ["errors" not in await ask(AGENTS) for _ in responses]


async def test_a_response_of_another_workspace_is_refused(upstream: RawUpstream) -> None:
    first, other, unnamed = workspace("w1"), workspace("w2"), workspace(None)

    with capture_logs() as logs:
        believed = await answered(upstream, first, other, first, other, unnamed, other, first)

    assert believed == [True, False, True, False, True, False, True]
    assert {line["field"] for line in logs if line["event"] == "mismatched_response"} == {"workspaceId"}


async def test_another_workspace_is_believed_once_every_response_names_it(upstream: RawUpstream) -> None:
    other = workspace("w2")

    believed = await answered(upstream, workspace("w1"), other, other, other, other, workspace("w1"), other)

    assert believed == [True, False, False, False, True, False, True]


async def test_a_response_that_repeats_its_request_id_tells_the_workspace(upstream: RawUpstream) -> None:
    verified = ok(page(agent() | {"workspaceId": "w2"}), REPEATED)

    believed = await answered(upstream, workspace("w1"), verified, workspace("w1"), workspace("w2"))

    assert believed == [True, True, False, True]


async def test_a_response_with_rows_of_several_workspaces_is_believed(upstream: RawUpstream) -> None:
    believed = await answered(upstream, workspace("w1"), workspace("w2", "w1"), workspace("w1", "w2"))

    assert believed == [True] * 3


async def test_an_embedded_agent_names_the_workspace_of_a_list_of_numbers(upstream: RawUpstream) -> None:
    whole = agent() | {"description": None}
    listed = [ok(page(number(agent=whole | {"workspaceId": id_}))) for id_ in ("w1", "w2")]
    upstream.play(*((response, "keep") for response in listed))
    async with open_gateway(upstream.url, None) as (ask, _):
        told = [await ask(NUMBERS), await ask(NUMBERS)]

    assert ["errors" in each for each in told] == [False, True]
