"""Numbers that are listed without `agentId`: never null where there is an agent, in the fewest calls that can tell."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.dataloaders.identity_map import SAMPLES
from gateway.upstream.resources import SIZES_LAST
from tests.harness import Clock, Recorder, open_gateway
from tests.upstream.test_repair import Rest, agent, asking, number, without

PAGE, AGENTS_PAGE = "GET /numbers?page=1&limit=50", "GET /agents?page=1&limit=50"
LIST = "{ phoneNumbers { nodes { id agent { id } } } }"
OWNED = "{ agents { nodes { id numbers { id } } } }"
OWNERS = ["a0", None, "a1", "a2", None, "a0"]


class Silent(Rest):
    """Lists the numbers without `agentId` where `leaves_out` says so; a number itself tells it."""

    def __init__(self, leaves_out: Callable[[dict[str, Any]], bool]) -> None:
        super().__init__([agent(i) for i in range(3)], [number(i, owner) for i, owner in enumerate(OWNERS)])
        self.leaves_out = leaves_out

    def __call__(self, call: str) -> bytes:
        if not call.startswith("GET /numbers?"):
            return super().__call__(call)
        numbers = self.lists["numbers"]
        self.lists["numbers"] = [without(row, "agentId") if self.leaves_out(row) else row for row in numbers]
        try:
            return super().__call__(call)
        finally:
            self.lists["numbers"] = numbers


class Scripted(httpx.AsyncBaseTransport):
    """Answers as a scripted REST API does, and records the calls."""

    def __init__(self, rest: Callable[[str], bytes], recorder: Recorder) -> None:
        self._rest = rest
        self._recorder = recorder

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = f"{request.method} {request.url.raw_path.decode().removeprefix('/api/v1')}"
        self._recorder.calls.append(call)
        return httpx.Response(200, content=self._rest(call).partition(b"\r\n\r\n")[2])


def reads(*numbers: int) -> list[str]:
    return [f"GET /numbers/n{i}" for i in numbers]


def shown(owners: list[str | None]) -> list[dict[str, Any]]:
    return [{"id": f"n{i}", "agent": owner and {"id": owner}} for i, owner in enumerate(owners)]


def always(_: object) -> bool:
    return True


def null(row: dict[str, str | None]) -> bool:
    return row["agentId"] is None


def one(row: dict[str, str | None]) -> bool:
    return row["id"] == "n3"


def some(row: dict[str, str | None]) -> bool:
    return row["id"] in {"n1", "n3", "n5"}


@pytest.mark.parametrize(
    ("leaves_out", "first", "again"),
    [
        (always, reads(0, 1, 2, 3, 4, 5), reads(0, 1, 2, 3, 4, 5)),
        (null, reads(1, 4), reads(1, 4)),
        (one, reads(3), reads(3)),
        (some, reads(1, 3, 5), reads(1, 3, 5)),
    ],
)
@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_number_that_a_list_says_nothing_of_is_asked_for(
    compiled: str, leaves_out: Callable[[Any], bool], first: list[str], again: list[str]
) -> None:
    async with asking(Silent(leaves_out), compiled=compiled) as (ask, upstream):
        told = await ask(LIST)
        calls = upstream.calls
        repeated = await ask(LIST)

    assert told["data"] == repeated["data"] == {"phoneNumbers": {"nodes": shown(OWNERS)}}
    assert [calls[0], *sorted(calls[1:])] == [PAGE, *first]
    assert sorted(upstream.calls[len(calls) :]) == sorted([PAGE, *again])


@pytest.mark.parametrize(
    ("leaves_out", "calls"),
    [
        (always, [f"GET /agents/a{i}/numbers" for i in range(3)]),
        (null, reads(1, 4)),
        (one, [*(f"GET /agents/a{i}/numbers" for i in range(3)), *reads(3)]),
        (some, [*(f"GET /agents/a{i}/numbers" for i in range(3)), *reads(1, 3, 5)]),
    ],
)
async def test_a_list_scan_counts_only_where_it_is_known_what_it_leaves_out(
    leaves_out: Callable[[Any], bool], calls: list[str]
) -> None:
    async with asking(Silent(leaves_out)) as (ask, upstream):
        told = await ask(OWNED)

    owned = [
        {"id": f"a{i}", "numbers": [{"id": f"n{n}"} for n, o in enumerate(OWNERS) if o == f"a{i}"]} for i in range(3)
    ]
    assert told["data"] == {"agents": {"nodes": owned}}
    assert sorted(upstream.calls) == sorted([AGENTS_PAGE, "GET /numbers?page=1&limit=100", *calls])


@pytest.mark.parametrize(("agents", "unassigned"), [(3, 0), (3, 2), (30, 0), (0, 40)])
async def test_whose_many_numbers_are_is_asked_of_the_agents_where_they_are_fewer(agents: int, unassigned: int) -> None:
    rest = Silent(always)
    owners = [None if i < unassigned else f"a{i % agents}" for i in range(40)]
    rest.lists = {"agents": [agent(i) for i in range(agents)], "numbers": [number(i, o) for i, o in enumerate(owners)]}
    async with asking(rest) as (ask, upstream):
        told = await ask(LIST)

    assert told["data"] == {"phoneNumbers": {"nodes": shown(owners)}}
    asked = [f"GET /agents/a{i}/numbers" for i in range(agents)] if agents else []
    rest_of_them = reads(*range(unassigned if agents else 40))
    assert sorted(upstream.calls) == sorted([PAGE, "GET /agents?page=1&limit=100", *asked, *rest_of_them])


async def test_what_a_number_itself_leaves_out_it_has_not() -> None:
    rest = Rest([agent(0)], [without(number(0, None), "agentId")])
    async with asking(rest) as (ask, upstream):
        told = await ask('{ phoneNumber(id: "n0") { agent { id } } phoneNumbers { nodes { agent { name } } } }')

    assert told["data"] == {"phoneNumber": {"agent": None}, "phoneNumbers": {"nodes": [{"agent": None}]}}
    assert sorted(upstream.calls) == [*reads(0), PAGE] or sorted(upstream.calls) == [*reads(0, 0), PAGE]


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_number_that_cannot_be_read_is_an_error_where_its_agent_is_asked_for(compiled: str) -> None:
    async with asking(Silent(always), max_rest_calls="4", compiled=compiled) as (ask, _):
        told = await ask(LIST)

    assert [node["agent"] for node in told["data"]["phoneNumbers"]["nodes"][:3]] == [{"id": "a0"}, None, {"id": "a1"}]
    assert [error["path"] for error in told["errors"]] == [["phoneNumbers", "nodes", i, "agent"] for i in (3, 4, 5)]


async def test_a_remembered_list_does_not_say_what_it_left_out() -> None:
    async with asking(Silent(always), cache_ttl="60") as (ask, upstream):
        await ask("{ phoneNumbers { nodes { id } } }")
        told = await ask('{ phoneNumber(id: "n3") { agent { id } } }')
        again = await ask(LIST)

    assert told["data"] == {"phoneNumber": {"agent": {"id": "a2"}}}
    assert again["data"] == {"phoneNumbers": {"nodes": shown(OWNERS)}}
    assert sorted(upstream.calls) == sorted([PAGE, *reads(0, 1, 2, 3, 4, 5)])


async def owned_by(ask: Any, rest: Rest) -> bool:
    """Whether agents are shown with exactly their numbers."""
    told = await ask(OWNED)
    numbers, agents = rest.lists["numbers"], rest.lists["agents"]
    owned = [[{"id": row["id"]} for row in numbers if row["agentId"] == one["id"]] for one in agents]
    return bool([node["numbers"] for node in told["data"]["agents"]["nodes"]] == owned)


def workspace(agents: int, unassigned: int, numbers: int) -> Silent:
    rest = Silent(lambda row: row["agentId"] is None or row["id"] == "late")
    owners = [None if i < unassigned else f"a{i % agents}" for i in range(numbers)]
    rest.lists = {
        "agents": [agent(i) for i in range(agents)],
        "numbers": [number(i, owner) for i, owner in enumerate(owners)],
    }
    return rest


async def test_what_silence_means_is_learned_from_ten_rows_for_a_while() -> None:
    rest, clock = workspace(20, 30, 90), Clock()
    async with open_gateway(transport=lambda recorder: Scripted(rest, recorder), clock=clock) as gateway:
        first = await owned_by(gateway.ask, rest), len(gateway.calls)
        again = await owned_by(gateway.ask, rest), len(gateway.calls)
        rest.lists["numbers"][:10] = [number(i, "a1") | {"id": f"late{i}"} for i in range(10)]
        rest.leaves_out = lambda row: row["agentId"] is None or row["id"].startswith("late")
        clock.now += SIZES_LAST
        later = await owned_by(gateway.ask, rest), len(gateway.calls)

    assert first == (True, 2 + SAMPLES)
    assert again == (True, 2)
    assert later == (True, 2 + SAMPLES + 20)


@pytest.mark.parametrize("agents", [5, 20])
async def test_few_rows_without_an_owner_are_read_each_time(agents: int) -> None:
    rest = workspace(agents, 4, 60)
    async with asking(rest) as (ask, upstream):
        assert await owned_by(ask, rest)
        rest.lists["numbers"].append(number(60, "a1") | {"id": "late"})
        calls = len(upstream.calls)
        assert await owned_by(ask, rest)

    assert [f"GET /numbers/{id_}" in upstream.calls[calls:] for id_ in ("n0", "n3", "late")] == [True] * 3


async def test_what_silence_means_answers_for_many_listed_numbers() -> None:
    rest = workspace(20, 30, 90)
    async with asking(rest) as (ask, upstream):
        assert await owned_by(ask, rest)
        calls = len(upstream.calls)
        told = await ask("{ phoneNumbers(first: 90) { nodes { agent { id } } } }")

    assert upstream.calls[calls:] == ["GET /numbers?page=1&limit=90"]
    assert [node["agent"] for node in told["data"]["phoneNumbers"]["nodes"][:31]] == [*[None] * 30, {"id": "a10"}]


async def test_too_few_samples_are_not_read_at_all() -> None:
    rest = workspace(5, 40, 80)
    async with asking(rest) as (ask, upstream):
        assert await owned_by(ask, rest)

    owned = [f"GET /agents/a{i}/numbers" for i in range(5)]
    assert sorted(upstream.calls) == sorted([AGENTS_PAGE, "GET /numbers?page=1&limit=100", *owned])
