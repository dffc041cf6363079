"""Batches: singles or a sweep, whichever costs less, and never a wrong answer for being cheap."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway.demo.rest_api import sample_workspace
from tests.harness import Fault, Gateway, errors_of, open_gateway
from tests.plain import NUMBER_PAGES, OWNED, aliased, late, pages, plain, singles, through


@pytest.mark.parametrize(
    ("known", "keys", "numbers", "calls"),
    [
        (False, 1, 10, "singles"),
        (False, 2, 10, "singles"),
        (False, 3, 10, pages(1)),
        (False, 3, 100, pages(1)),
        (False, 3, 300, pages(1, 2, 3)),
        (False, 3, 301, [*pages(1), "singles"]),
        (False, 12, 1200, pages(*range(1, 13))),
        (False, 12, 1201, [*pages(1), "singles"]),
        (True, 1, 10, "singles"),
        (True, 2, 100, pages(1)),
        (True, 2, 101, "singles"),
        (True, 12, 1100, pages(*range(1, 12))),
        (True, 12, 1101, "singles"),
    ],
)
async def test_a_batch_is_swept_or_asked_singly_whichever_is_cheaper(
    *, known: bool, keys: int, numbers: int, calls: Any
) -> None:
    workspace = sample_workspace(agents=keys, numbers=numbers)
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        if known:
            await gateway.data("{ phoneNumbers(first: 1) { totalCount } }")
        del gateway.upstream.calls[:]

        data = await gateway.data(OWNED, {"n": keys})
        answered = gateway.calls

    expected = [calls] if calls == "singles" else calls
    flat = [call for part in expected for call in (singles(workspace, keys) if part == "singles" else [part])]
    assert answered == [f"GET /agents?page=1&limit={keys}", *flat]
    assert len(flat) <= keys + (not known)
    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])


async def test_one_of_a_hundred_nested_loads_failing_leaves_ninety_nine() -> None:
    workspace = sample_workspace(agents=100, numbers=1000)
    async with open_gateway(workspaces={"demo": workspace}, settings={"max_rest_calls": "200"}) as gateway:
        gateway.upstream.play(NUMBER_PAGES, httpx.Response(500))
        gateway.upstream.play(singles(workspace, 42)[-1], httpx.Response(500, json={"error": {"message": "secret"}}))

        answer = await gateway.ask(OWNED, {"n": 100})
        calls = gateway.calls

    nodes = answer["data"]["agents"]["nodes"]
    assert [i for i, node in enumerate(nodes) if node["numbers"] is None] == [41]
    assert errors_of(answer) == [("UPSTREAM_ERROR", ["agents", "nodes", 41, "numbers"])]
    assert all(node["numbers"] in (None, plain(workspace, node["id"])) for node in nodes)
    assert calls == ["GET /agents?page=1&limit=100", *pages(1), *singles(workspace, 100)]


@pytest.mark.parametrize("dialect", [{"has_more": True}, {"embed_agent": "partial"}, {"max_limit": 25, "clamp": True}])
async def test_nested_numbers_are_the_same_in_every_dialect(dialect: dict[str, Any]) -> None:
    async with open_gateway(**dialect) as gateway:
        data = await gateway.data(OWNED, {"n": 12})

        calls = gateway.calls
    workspace = gateway.workspaces["demo"]
    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])
    more = pages(2, 3, limit=25) if "clamp" in dialect else []
    assert calls == ["GET /agents?page=1&limit=12", *pages(1), *more]


async def test_a_page_size_of_the_upstreams_own_is_remembered_whatever_small_pages_say() -> None:
    workspace = sample_workspace(agents=5, numbers=300)
    async with open_gateway(workspaces={"demo": workspace}, max_limit=30, clamp=True) as gateway:
        await gateway.data(OWNED, {"n": 5})
        await gateway.data("{ phoneNumbers(first: 10) { totalCount } }")
        del gateway.upstream.calls[:]

        await gateway.data(OWNED, {"n": 5})
        calls = gateway.calls

    assert calls == ["GET /agents?page=1&limit=5", *singles(workspace, 5)]


async def test_a_list_that_leaves_out_whose_its_numbers_are_costs_one_call_more_at_most() -> None:
    workspace = sample_workspace(agents=5, numbers=300)
    listed = [{k: v for k, v in n.items() if k != "agentId"} for n in workspace.numbers.values()]
    body = {"data": listed[:100], "pagination": {"page": 1, "limit": 100, "total": 300}}
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        gateway.upstream.play(NUMBER_PAGES, httpx.Response(200, json=body))

        first = await gateway.data(OWNED, {"n": 5})
        calls = gateway.calls
        again = await gateway.data(OWNED, {"n": 5})
        calls_again = gateway.calls

    assert first == again
    assert all(node["numbers"] == plain(workspace, node["id"]) for node in first["agents"]["nodes"])
    assert calls == ["GET /agents?page=1&limit=5", *pages(1), *singles(workspace, 5)]
    assert len(calls_again) <= len(calls)


async def test_a_list_that_leaves_out_whose_its_numbers_are_does_not_unassign_them(gateway: Gateway) -> None:
    numbers = gateway.workspaces["demo"].numbers.values()
    listed = [{k: v for k, v in n.items() if k != "agentId"} for n in numbers]
    body = {"data": listed, "pagination": {"page": 1, "limit": 100, "total": 60}}
    gateway.upstream.play(NUMBER_PAGES, httpx.Response(200, json=body))
    ids, owners = list(gateway.workspaces["demo"].numbers)[:3], [n["agentId"] for n in numbers][:3]

    data = await gateway.data(aliased("phoneNumber", ids, "agent { id }"))

    assert [data[f"q{i}"]["agent"] for i in range(3)] == [{"id": owner} for owner in owners]
    assert len(gateway.calls) <= 4


async def test_rows_that_move_while_a_sweep_reads_are_asked_for_singly() -> None:
    workspace = sample_workspace(agents=5, numbers=201)
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        moved = next(iter(workspace.numbers))
        gateway.upstream.play("GET /numbers[?]page=2&.*", through(gateway, lambda: workspace.numbers.pop(moved, None)))

        data = await gateway.data(OWNED, {"n": 5})
        calls = gateway.calls

    assert calls == ["GET /agents?page=1&limit=5", *pages(1, 2, 3), *singles(workspace, 5)]
    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])


async def test_a_sweep_whose_rows_repeat_does_not_count() -> None:
    workspace = sample_workspace(agents=5, numbers=200)
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        rows = list(workspace.numbers.values())
        body = {"data": [*rows[50:150]], "pagination": {"page": 2, "limit": 100, "total": 200}}
        gateway.upstream.play("GET /numbers[?]page=2&.*", httpx.Response(200, json=body))

        data = await gateway.data(OWNED, {"n": 5})
        calls = gateway.calls

    assert calls == ["GET /agents?page=1&limit=5", *pages(1, 2), *singles(workspace, 5)]
    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])


async def test_an_agents_numbers_keep_their_order_however_they_arrive() -> None:
    workspace = sample_workspace(agents=5, numbers=300)
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        gateway.upstream.play("GET /numbers[?]page=2&.*", through(gateway, late))

        data = await gateway.data(OWNED, {"n": 5})

    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])


async def test_an_agents_numbers_keep_their_order_where_some_were_seen_before(gateway: Gateway) -> None:
    workspace = gateway.workspaces["demo"]
    last = list(workspace.numbers)[50]
    ask = f'{{ phoneNumber(id: "{last}") {{ agent {{ numbers {{ id }} }} }}'
    ask += " agents(first: 12) { nodes { id numbers { id } } } }"

    data = await gateway.data(ask)

    assert all(node["numbers"] == plain(workspace, node["id"]) for node in data["agents"]["nodes"])


async def test_a_sweep_that_fails_leaves_it_to_single_calls(gateway: Gateway) -> None:
    gateway.upstream.play(NUMBER_PAGES, httpx.Response(403, json={"error": {"message": "no", "code": "FORBIDDEN"}}))

    data = await gateway.data(OWNED, {"n": 4})

    workspace = gateway.workspaces["demo"]
    assert gateway.calls == ["GET /agents?page=1&limit=4", *pages(1), *singles(workspace, 4)]
    assert all(len(node["numbers"]) == 5 or node["numbers"] for node in data["agents"]["nodes"])


@pytest.mark.parametrize("fault", [httpx.Response(401), httpx.Response(500), httpx.ConnectError("x")])
async def test_a_list_of_agents_that_cannot_be_read_costs_one_page_of_numbers_beside_it_at_most(fault: Fault) -> None:
    workspace = sample_workspace(agents=100, numbers=900)
    async with open_gateway(workspaces={"demo": workspace}) as gateway:
        await gateway.data(OWNED, {"n": 100})
        del gateway.upstream.calls[:]
        gateway.upstream.play("GET /agents.*", fault)

        answer = await gateway.ask(OWNED, {"n": 100})
        calls = gateway.calls

    assert answer["data"] == {"agents": None}
    assert sum(call.startswith("GET /numbers") for call in calls) <= 1


async def test_a_list_that_nobody_matches_does_not_wait_for_numbers(gateway: Gateway) -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    gateway.upstream.play("GET /numbers.*", never)

    data = await gateway.data('{ agents(search: "nobody at all") { nodes { numbers { id } } } }')

    assert data == {"agents": {"nodes": []}}
    assert gateway.calls == ["GET /agents?page=1&limit=50&search=nobody+at+all", *pages(1)]


@pytest.mark.parametrize(
    ("status", "code"), [(429, "RATE_LIMITED"), (401, "UNAUTHENTICATED"), (402, "PAYMENT_REQUIRED")]
)
async def test_a_sweep_that_no_single_call_would_survive_is_not_repeated_singly(
    gateway: Gateway, status: int, code: str
) -> None:
    gateway.upstream.play(NUMBER_PAGES, httpx.Response(status))

    answer = await gateway.ask(OWNED, {"n": 4})

    assert gateway.calls == ["GET /agents?page=1&limit=4", *pages(1)]
    assert errors_of(answer) == [(code, ["agents", "nodes", i, "numbers"]) for i in range(4)]


async def test_agents_nobody_has_seen_are_asked_for_singly_since_a_number_may_name_one_that_is_gone(
    gateway: Gateway,
) -> None:
    ids = list(gateway.workspaces["demo"].agents)[:3]

    data = await gateway.data(aliased("agent", ids, "id numbers { id }"))

    assert gateway.calls == [f"GET /agents/{id_}/numbers" for id_ in ids]
    assert [data[f"q{i}"]["numbers"] for i in range(3)] == [plain(gateway.workspaces["demo"], id_) for id_ in ids]


async def test_agents_without_numbers_have_an_empty_list_and_cost_nothing_more() -> None:
    async with open_gateway(workspaces={"demo": sample_workspace(agents=20, numbers=4)}) as gateway:
        data = await gateway.data(OWNED, {"n": 20})

        calls = gateway.calls
    assert calls == ["GET /agents?page=1&limit=20", *pages(1)]
    assert [len(node["numbers"]) for node in data["agents"]["nodes"]] == [1] * 4 + [0] * 16
