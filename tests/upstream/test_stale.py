"""Where the upstream fails or the quota is spent: an older answer, marked as such, or the error."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.harness import Gateway, errors_of, open_gateway

LIST = "{ phoneNumbers(first: 100) { nodes { id friendlyName } } }"
AGENTS = "{ agents(first: 100) { nodes { id name } } }"
OWNED = "{ agents(first: 100) { nodes { id numbers { id } } } }"


@pytest.fixture
async def stale() -> AsyncIterator[Gateway]:
    async with open_gateway(settings={"stale_if_error": "600"}) as gateway:
        yield gateway


async def warm(gateway: Gateway, *queries: str) -> None:
    for query in queries:
        await gateway.data(query)
    del gateway.upstream.calls[:]


def owned_by(agent_id: str) -> str:
    return f'{{ agent(id: "{agent_id}") {{ id numbers {{ id }} }} }}'


def number(number_id: str) -> str:
    return f'{{ phoneNumber(id: "{number_id}") {{ friendlyName }} }}'


@pytest.mark.parametrize(
    "fault",
    [
        httpx.Response(500),
        httpx.Response(503),
        httpx.Response(429),
        httpx.ReadTimeout(""),
        httpx.ConnectError(""),
        httpx.Response(200, content=b"<html>"),
    ],
    ids=["500", "503", "429", "timeout", "unreachable", "unreadable"],
)
async def test_where_the_upstream_fails_an_older_answer_is_served_and_marked(stale: Gateway, fault: Any) -> None:
    fresh = await stale.ask(LIST)
    stale.upstream.play("GET .*", fault)
    stale.clock.now += 100

    answer = await stale.ask(LIST)

    assert answer["data"] == fresh["data"]
    assert "errors" not in answer
    assert "stale" not in fresh["extensions"]["quota"]
    assert {name: answer["extensions"]["quota"][name] for name in ("stale", "age")} == {"stale": True, "age": 100}


@pytest.mark.parametrize(("status", "code"), [(401, "UNAUTHENTICATED"), (403, "FORBIDDEN"), (400, "BAD_USER_INPUT")])
async def test_what_the_upstream_refuses_is_never_answered_from_memory(stale: Gateway, status: int, code: str) -> None:
    await stale.data(LIST)
    stale.upstream.play("GET .*", httpx.Response(status))

    assert errors_of(await stale.ask(LIST)) == [(code, ["phoneNumbers"])]


async def test_a_number_that_is_gone_is_not_answered_from_memory(stale: Gateway) -> None:
    await stale.data(LIST)
    gone = next(iter(stale.workspaces["demo"].numbers))
    del stale.workspaces["demo"].numbers[gone]

    assert await stale.data(number(gone)) == {"phoneNumber": None}


async def test_where_the_quota_is_spent_an_older_answer_is_served_without_a_call() -> None:
    async with open_gateway(quota=2, settings={"stale_if_error": "600", "quota_reserve": "0"}) as gateway:
        await gateway.data(OWNED.replace("100", "50"))
        del gateway.upstream.calls[:]
        gateway.clock.now += 5
        agent = next(iter(gateway.workspaces["demo"].agents))

        answer = await gateway.ask(owned_by(agent))
        unknown = await gateway.ask(number("never-seen"))

        assert gateway.calls == []
    assert len(answer["data"]["agent"]["numbers"]) == 5
    assert answer["extensions"]["quota"]["age"] == 5
    assert errors_of(unknown) == [("RATE_LIMITED", ["phoneNumber"])]


async def test_where_a_sweep_fails_each_key_is_answered_from_memory_if_it_can_be(stale: Gateway) -> None:
    agents = list(stale.workspaces["demo"].agents)
    await warm(stale, AGENTS, owned_by(agents[1]))
    stale.upstream.play("GET /numbers.*", httpx.Response(503))

    answer = await stale.ask("{ agents(first: 3) { nodes { id numbers { id } } } }")

    assert [len(node["numbers"] or ()) for node in answer["data"]["agents"]["nodes"]] == [0, 4, 0]
    assert errors_of(answer) == [("UPSTREAM_UNAVAILABLE", ["agents", "nodes", i, "numbers"]) for i in (0, 2)]
    assert answer["extensions"]["quota"]["stale"] is True


async def test_numbers_by_id_are_answered_from_memory_if_they_can_be(stale: Gateway) -> None:
    some = list(stale.workspaces["demo"].numbers)[:3]
    await warm(stale, number(some[1]))
    stale.upstream.play("GET .*", httpx.Response(503))

    answer = await stale.ask(
        "{ " + " ".join(f'f{i}: phoneNumber(id: "{id_}") {{ id }}' for i, id_ in enumerate(some)) + " }"
    )

    assert answer["data"] == {"f0": None, "f1": {"id": some[1]}, "f2": None}
    assert errors_of(answer) == [("UPSTREAM_UNAVAILABLE", ["f0"]), ("UPSTREAM_UNAVAILABLE", ["f2"])]
    assert stale.calls == ["GET /numbers?page=1&limit=100"]


async def test_an_answer_that_is_too_old_or_not_wanted_is_not_served_in_an_error(stale: Gateway) -> None:
    await stale.data(LIST)
    stale.upstream.play("GET .*", httpx.Response(503))

    unwanted = await stale.ask(LIST, Cache_Control="no-cache")
    stale.clock.now += 601
    too_old = await stale.ask(LIST)

    assert errors_of(unwanted) == errors_of(too_old) == [("UPSTREAM_UNAVAILABLE", ["phoneNumbers"])]
