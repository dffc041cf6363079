"""What an operation may spend, what its key has left, and the bill: every REST call accounted for."""

import asyncio
from collections.abc import Iterable
from email.utils import formatdate
from itertools import islice
from typing import Any

import httpx
import pytest

from gateway.demo.rest_api import sample_workspace
from gateway.upstream.quota import FIRST_PAUSE
from tests.harness import Gateway, capture_logs, errors_of, open_gateway, spent
from tests.plain import late, through

WIDE = {"max_aliases": "2000", "max_root_fields": "2000", "max_tokens": "50000"}
LIST = "{ phoneNumbers(first: 50) { nodes { id } } }"
OWNED = "{ agents(first: 100) { nodes { id numbers { id } } } }"
SEVERAL = "{ agents { totalCount } phoneNumbers { totalCount } }"
EMPTY = {"data": [], "pagination": {"page": 1, "limit": 50, "total": 0}}
CALL = "GET /numbers?page=1&limit=50"
DELETE = "mutation($id: ID!) { deletePhoneNumber(id: $id) { deletedPhoneNumberId } }"


def aliases(ids: list[str], field: str = "agent", selection: str = "name") -> str:
    return "{ " + " ".join(f'f{i}: {field}(id: "{id_}") {{ {selection} }}' for i, id_ in enumerate(ids)) + " }"


def limits(remaining: int, *, reset: float, limit: int = 1000, **more: str) -> dict[str, str]:
    told = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
    return {name: str(value) for name, value in told.items()} | {name.replace("_", "-"): more[name] for name in more}


def bill(answer: dict[str, Any]) -> dict[str, Any]:
    """What was spent, and what was saved, as far as it is not nought."""
    quota = answer["extensions"]["quota"]
    return {"spent": quota["spent"]} | {name: count for name, count in quota["saved"].items() if count}


def over_budget(fields: Iterable[int]) -> list[tuple[str, list[str | int] | None]]:
    """The errors of fields over the budget: a hundred with their paths, then one that counts the rest."""
    shown: list[tuple[str, list[str | int] | None]] = [
        ("REQUEST_LIMIT_EXCEEDED", [f"f{i}"]) for i in islice(fields, 100)
    ]
    return [*shown, ("REQUEST_LIMIT_EXCEEDED", None)]


async def test_a_thousand_aliases_of_other_agents_spend_the_budget_and_no_more() -> None:
    space = sample_workspace(agents=3000)
    ids = list(space.agents)[::3]
    async with open_gateway(workspaces={"demo": space}, settings=WIDE | {"max_rest_calls": "20"}) as gateway:
        answer = await gateway.ask(aliases(ids))

        calls = gateway.calls
    late = [i for i in range(1000) if answer["data"][f"f{i}"] is None]
    assert len(calls) == spent(answer) == 20
    assert len(late) == 1000 - 34 - 19  # page 1 of the list had 34 of them, and told that it is too long
    assert errors_of(answer) == over_budget(late)
    assert all(answer["data"][f"f{i}"] == {"name": space.agents[ids[i]]["name"]} for i in {*range(1000)} - {*late})


async def test_a_thousand_aliases_of_one_agent_spend_one_call() -> None:
    async with open_gateway(settings=WIDE) as gateway:
        id_ = next(iter(gateway.workspaces["demo"].agents))

        answer = await gateway.ask(aliases([id_] * 1000))

        assert gateway.calls == [f"GET /agents/{id_}"]
    assert (spent(answer), len(answer["data"])) == (1, 1000)


async def test_a_thousand_agents_that_do_not_exist_spend_the_budget_at_most() -> None:
    async with open_gateway(settings=WIDE) as gateway:
        answer = await gateway.ask(aliases([f"nobody-{i}" for i in range(1000)]))

        calls = gateway.calls
    assert len(calls) == spent(answer) == 100
    assert set(answer["data"].values()) == {None}
    assert errors_of(answer) == over_budget(range(99, 1000))


async def test_nested_loads_over_the_budget_are_partial_data_at_their_own_paths() -> None:
    space = sample_workspace(agents=5, numbers=900)
    async with open_gateway(workspaces={"demo": space}, settings={"max_rest_calls": "4"}) as gateway:
        answer = await gateway.ask(OWNED)

        calls = gateway.calls
    nodes = answer["data"]["agents"]["nodes"]
    assert calls == ["GET /agents?page=1&limit=100", "GET /numbers?page=1&limit=100", *_numbers_of(space.agents, 2)]
    assert [len(node["numbers"] or ()) for node in nodes] == [180, 180, 0, 0, 0]
    assert errors_of(answer) == [("REQUEST_LIMIT_EXCEEDED", ["agents", "nodes", i, "numbers"]) for i in (2, 3, 4)]
    assert bill(answer) == {"spent": 4}


def _numbers_of(agents: dict[str, Any], count: int) -> list[str]:
    return [f"GET /agents/{id_}/numbers" for id_ in list(agents)[:count]]


async def test_a_retried_call_counts_twice_where_the_upstream_may_have_counted_it(gateway: Gateway) -> None:
    answers = []
    for failure in (httpx.ConnectError(""), httpx.ReadError("")):
        gateway.upstream.play("GET .*", failure, httpx.Response(404))
        answers.append(await gateway.ask('{ agent(id: "a") { name } }'))

    assert gateway.calls == ["GET /agents/a"] * 4
    assert [spent(answer) for answer in answers] == [1, 2]


async def test_the_budget_is_not_exceeded_by_a_second_attempt() -> None:
    async with open_gateway(settings={"max_rest_calls": "1"}) as gateway:
        gateway.upstream.play("GET .*", httpx.ReadError(""))

        answer = await gateway.ask(LIST)

        assert gateway.calls == [CALL]
    assert (errors_of(answer), spent(answer)) == ([("UPSTREAM_UNAVAILABLE", ["phoneNumbers"])], 1)


async def test_a_spent_quota_is_refused_without_a_call_until_the_reset() -> None:
    async with open_gateway(quota=1) as gateway:
        await gateway.data(LIST)

        refused = await gateway.ask(LIST)
        gateway.clock.now += 3599
        still = await gateway.ask(LIST)
        gateway.clock.now += 1
        passed = await gateway.ask(LIST)

        assert gateway.calls == [CALL, CALL]
    assert errors_of(refused) == errors_of(still) == [("RATE_LIMITED", ["phoneNumbers"])]
    assert [answer["errors"][0]["extensions"]["retryAfter"] for answer in (refused, still)] == [3600, 1]
    assert "errors" not in passed


async def test_a_429_is_believed_and_never_tried_again(gateway: Gateway) -> None:
    gateway.upstream.play("GET .*", httpx.Response(429, headers=limits(900, reset=gateway.clock.now + 90)))

    answers = [await gateway.ask(LIST) for _ in range(3)]

    assert gateway.calls == [CALL]
    assert [errors_of(answer) for answer in answers] == [[("RATE_LIMITED", ["phoneNumbers"])]] * 3
    assert {answer["errors"][0]["extensions"]["retryAfter"] for answer in answers} == {90}


async def test_a_429_of_a_short_throttle_does_not_close_the_rest_of_the_hour(gateway: Gateway) -> None:
    headers = limits(900, reset=gateway.clock.now + 3000, Retry_After="2")
    gateway.upstream.play("GET .*", httpx.Response(429, headers=headers), httpx.Response(404))

    await gateway.ask(LIST)
    refused = await gateway.ask(LIST)
    gateway.clock.now += 2
    await gateway.ask(LIST)

    assert refused["errors"][0]["extensions"]["retryAfter"] == 2
    assert gateway.calls == [CALL, CALL]


@pytest.mark.parametrize("status", [200, 429])
async def test_a_quota_that_was_called_spent_by_mistake_is_probed_by_one_call(status: int) -> None:
    async with open_gateway(settings={"quota_reserve": "0"}) as gateway:
        mistaken = limits(0, reset=gateway.clock.now + 3600)
        gateway.upstream.play("GET .*", httpx.Response(status, json=EMPTY, headers=mistaken), through(gateway, late))
        await gateway.ask(LIST)

        refused = await gateway.ask(LIST)
        gateway.clock.now += FIRST_PAUSE
        probed = await asyncio.gather(*(gateway.ask(SEVERAL) for _ in range(3)))
        calls = gateway.calls
        opened = await gateway.ask(SEVERAL)

        assert len(gateway.calls) == 2
    assert errors_of(refused) == [("RATE_LIMITED", ["phoneNumbers"])]
    assert calls == [CALL, "GET /agents?page=1&limit=50"]
    assert all(answer["data"]["agents"] for answer in probed)
    assert "errors" not in opened


async def test_a_429_that_says_nothing_leaves_the_known_limit_as_it_was(gateway: Gateway) -> None:
    await gateway.data(LIST)
    gateway.upstream.play("GET .*", httpx.Response(429))

    await gateway.ask(LIST)
    answer = await gateway.ask("{ rateLimit { limit remaining } }")

    assert answer == {"data": {"rateLimit": {"limit": 1000, "remaining": 0}}}


@pytest.mark.parametrize("off", [-600, 600])
async def test_a_clock_that_is_off_neither_locks_a_key_out_nor_lets_it_run_on(gateway: Gateway, off: int) -> None:
    upstream_now = gateway.clock.now + off
    told = limits(0, reset=upstream_now + 120, Date=formatdate(upstream_now, usegmt=True))
    gateway.upstream.play("GET .*", httpx.Response(404, headers=told))

    for pause in (0, 119, 1):
        gateway.clock.now += pause
        await gateway.ask(LIST)

    assert gateway.calls == [CALL, CALL]


@pytest.mark.parametrize("off", [-600, 600])
async def test_without_a_date_a_clock_that_is_off_locks_a_key_out_for_no_longer_than_a_window(
    gateway: Gateway, off: int
) -> None:
    gateway.upstream.play("GET .*", httpx.Response(404, headers=limits(0, reset=gateway.clock.now + off + 3600)))

    await gateway.ask(LIST)
    gateway.clock.now += 3600
    await gateway.ask(LIST)

    assert gateway.calls == [CALL, CALL]


async def test_below_the_reserve_single_reads_and_writes_pass_and_the_rest_is_refused() -> None:
    space = sample_workspace(agents=5, numbers=900)
    async with open_gateway(workspaces={"demo": space}, quota=60, settings={"quota_reserve": "58"}) as gateway:
        first, last = next(iter(space.numbers)), next(reversed(space.numbers))
        await gateway.data(LIST)

        fan_out = await gateway.ask(OWNED)
        single = await gateway.ask(f'{{ phoneNumber(id: "{first}") {{ id }} }}')
        write = await gateway.ask(DELETE, {"id": last})

        assert gateway.calls == [
            CALL, "GET /agents?page=1&limit=100", f"GET /numbers/{first}", f"DELETE /numbers/{last}",
        ]  # fmt: skip
    assert errors_of(fan_out) == [("RATE_LIMITED", ["agents", "nodes", i, "numbers"]) for i in range(5)]
    assert "kept for single reads and writes" in fan_out["errors"][0]["message"]
    assert len(fan_out["data"]["agents"]["nodes"]) == 5
    assert "errors" not in single
    assert "errors" not in write


async def test_a_reserve_above_the_limit_is_warned_of_once() -> None:
    with capture_logs() as logs:
        async with open_gateway(quota=20, settings={"quota_reserve": "50"}) as gateway:
            for _ in range(2):
                await gateway.ask(OWNED)

    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["event"], entry["reserve"], entry["limit"]) for entry in warnings] == [
        ("quota_reserve_above_limit", 50, 20)
    ]


async def test_a_refused_call_is_no_longer_under_way() -> None:
    async with open_gateway(quota=3, settings={"quota_reserve": "0", "max_rest_calls": "1000"}) as gateway:
        gateway.upstream.play("GET .*", httpx.ConnectError(""))
        for _ in range(10):
            await gateway.ask(LIST)
        gateway.upstream._faults.clear()

        answers = [await gateway.ask(LIST) for _ in range(4)]

    assert [len(errors_of(answer)) for answer in answers] == [0, 0, 0, 1]


async def test_the_rate_limit_is_known_after_the_first_call_and_asking_for_it_costs_none(gateway: Gateway) -> None:
    ask = "{ rateLimit { limit remaining resetAt } }"
    before = await gateway.ask(ask)
    await gateway.data(LIST)
    del gateway.upstream.calls[:]

    after = await gateway.ask(ask)

    assert before == {"data": {"rateLimit": None}}
    assert after == {"data": {"rateLimit": {"limit": 1000, "remaining": 999, "resetAt": "2027-01-15T09:00:00Z"}}}
    assert gateway.calls == []


async def test_the_bill_tells_what_the_key_has_left(gateway: Gateway) -> None:
    answer = await gateway.ask(LIST)

    assert answer["extensions"]["quota"] == {
        "spent": 1,
        "saved": {"swept": 0, "primed": 0, "coalesced": 0, "cached": 0},
        "limit": 1000,
        "remaining": 999,
        "resetAt": "2027-01-15T09:00:00Z",
    }


async def test_worked_example_swept(gateway: Gateway) -> None:
    answer = await gateway.ask(OWNED)

    assert len(gateway.calls) == 2
    assert bill(answer) == {"spent": 2, "swept": 11}  # 12 agents' numbers on one page


async def test_worked_example_primed(gateway: Gateway) -> None:
    answer = await gateway.ask("{ agents(first: 3) { nodes { numbers { agent { name } } } } }")

    assert len(gateway.calls) == 2
    assert bill(answer) == {"spent": 2, "swept": 2, "primed": 3}  # the numbers' 3 agents had been listed


async def test_worked_example_agent_ids_are_free(gateway: Gateway) -> None:
    answer = await gateway.ask("{ phoneNumbers(first: 20) { nodes { agent { id } } } }")

    assert len(gateway.calls) == 1
    assert bill(answer) == {"spent": 1, "primed": 11}


async def test_worked_example_cached() -> None:
    async with open_gateway(settings={"cache_ttl": "30"}) as gateway:
        await gateway.data(LIST)
        del gateway.upstream.calls[:]

        answer = await gateway.ask(LIST)

        assert gateway.calls == []
    assert bill(answer) == {"spent": 0, "cached": 1}


async def test_an_answer_that_touched_nothing_has_no_bill(gateway: Gateway) -> None:
    assert await gateway.ask("{ __typename }") == {"data": {"__typename": "Query"}}
    assert "extensions" not in await gateway.ask(LIST, key=None)
    assert gateway.calls == []
