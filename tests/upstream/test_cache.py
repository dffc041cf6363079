"""What is remembered between operations: what answers what, how old it may be, and what a write makes stale."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.demo.rest_api import sample_workspace
from tests.harness import Gateway, open_gateway, spent
from tests.plain import through

LIST = "{ phoneNumbers(first: 100) { nodes { id friendlyName } } }"
AGENTS = "{ agents(first: 100) { nodes { id name } } }"
OWNED = "{ agents(first: 100) { nodes { id numbers { id } } } }"
MOVE = "mutation($id: ID!, $to: ID) { updatePhoneNumber(id: $id, input: {agentId: $to}) { phoneNumber { id } } }"
DELETE = "mutation($id: ID!) { deletePhoneNumber(id: $id) { deletedPhoneNumberId } }"
ASSIGN = (
    'mutation($to: ID!) { assignPhoneNumber(input: {phoneNumber: "+4930123", agentId: $to}) { phoneNumber { id } } }'
)
LIST_CALL = "GET /numbers?page=1&limit=100"


@pytest.fixture
async def cached() -> AsyncIterator[Gateway]:
    async with open_gateway(settings={"cache_ttl": "30"}) as gateway:
        yield gateway


async def warm(gateway: Gateway, *queries: str) -> None:
    for query in queries:
        await gateway.data(query)
    del gateway.upstream.calls[:]


def owned_by(agent_id: str) -> str:
    return f'{{ agent(id: "{agent_id}") {{ id numbers {{ id }} }} }}'


def number(number_id: str) -> str:
    return f'{{ phoneNumber(id: "{number_id}") {{ friendlyName }} }}'


async def test_nothing_is_remembered_by_default(gateway: Gateway) -> None:
    await warm(gateway, LIST)

    await gateway.data(LIST)

    assert gateway.calls == [LIST_CALL]


async def test_an_answer_is_remembered_until_it_is_too_old(cached: Gateway) -> None:
    await warm(cached, LIST)

    cached.clock.now += 29.8
    young = await cached.ask(LIST)
    cached.clock.now += 0.2
    old = await cached.ask(LIST)

    assert cached.calls == [LIST_CALL]
    assert (spent(young), spent(old)) == (0, 1)
    assert young["data"] == old["data"]


async def test_a_list_that_was_seen_makes_its_members_known(cached: Gateway) -> None:
    await warm(cached, LIST, AGENTS)
    agent, some = next(iter(cached.workspaces["demo"].agents)), next(iter(cached.workspaces["demo"].numbers))

    found = await cached.data(
        f'{{ agent(id: "{agent}") {{ name }} phoneNumber(id: "{some}") {{ id agent {{ id }} }} }}'
    )

    assert found == {
        "agent": {"name": "Berlin Reception"},
        "phoneNumber": {"id": some, "agent": {"id": agent}},
    }
    assert cached.calls == []


async def test_the_whole_list_answers_whose_numbers_they_are(cached: Gateway) -> None:
    await warm(cached, LIST, AGENTS)
    space = cached.workspaces["demo"]

    answers = {id_: await cached.data(owned_by(id_)) for id_ in space.agents}

    assert cached.calls == []
    assert {id_: [row["id"] for row in answer["agent"]["numbers"]] for id_, answer in answers.items()} == {
        id_: [key for key, row in space.numbers.items() if row["agentId"] == id_] for id_ in space.agents
    }


async def test_the_whole_list_says_nothing_of_an_agent_that_nobody_has_seen(cached: Gateway) -> None:
    first = next(iter(cached.workspaces["demo"].numbers.values()))
    first["agentId"] = "gone"
    await warm(cached, LIST)

    assert await cached.data(owned_by("gone")) == {"agent": None}
    assert cached.calls == ["GET /agents/gone/numbers"]


async def test_a_list_that_leaves_out_whose_its_numbers_are_answers_for_no_agent(cached: Gateway) -> None:
    for row in cached.workspaces["demo"].numbers.values():
        row.pop("agentId")
    await warm(cached, LIST, AGENTS)
    agent = next(iter(cached.workspaces["demo"].agents))

    await cached.data(owned_by(agent))

    assert cached.calls == [f"GET /agents/{agent}/numbers"]


async def test_a_list_whose_pages_changed_meanwhile_is_whole_again_once_it_was_read_again(cached: Gateway) -> None:
    await warm(cached, "{ phoneNumbers(first: 50) { totalCount } }")
    gone = next(iter(cached.workspaces["demo"].numbers))
    del cached.workspaces["demo"].numbers[gone]
    cached.clock.now += 31
    await warm(cached, LIST, AGENTS)
    agent = next(iter(cached.workspaces["demo"].agents))

    answer = await cached.data(owned_by(agent))

    assert gone not in str(answer)
    assert cached.calls == []


async def test_pages_that_are_not_the_whole_list_do_not_answer_whose_numbers_they_are() -> None:
    space = sample_workspace(agents=3, numbers=250)
    async with open_gateway(workspaces={"demo": space}, settings={"cache_ttl": "30"}) as gateway:
        cursor = (await gateway.data("{ phoneNumbers(first: 100) { pageInfo { endCursor } } }"))["phoneNumbers"]
        after = cursor["pageInfo"]["endCursor"]
        await gateway.data(f'{{ phoneNumbers(first: 100, after: "{after}") {{ totalCount }} agents {{ totalCount }} }}')
        calls, agent = gateway.calls, next(iter(space.agents))
        numbers = (await gateway.data(owned_by(agent)))["agent"]["numbers"]

        assert len(calls) == 3
        assert gateway.calls == [f"GET /agents/{agent}/numbers"]
    assert len(numbers) == 75


async def test_an_agents_own_list_is_remembered(cached: Gateway) -> None:
    agent = next(iter(cached.workspaces["demo"].agents))
    await warm(cached, owned_by(agent))

    answer = await cached.ask(owned_by(agent))
    member = await cached.ask(number(answer["data"]["agent"]["numbers"][0]["id"]))

    assert cached.calls == []
    assert [reply["extensions"]["quota"]["saved"]["cached"] for reply in (answer, member)] == [1, 1]


async def test_windows_of_another_size_are_answered_from_the_pages_that_were_read() -> None:
    async with open_gateway(
        workspaces={"demo": sample_workspace(numbers=130)}, settings={"cache_ttl": "30"}
    ) as gateway:
        first = await gateway.data("{ phoneNumbers(first: 100) { nodes { id } pageInfo { endCursor } } }")
        rest = "query($after: String) { phoneNumbers(first: 50, after: $after) { nodes { id } totalCount } }"
        after = {"after": first["phoneNumbers"]["pageInfo"]["endCursor"]}
        last = await gateway.data(rest, after)
        del gateway.upstream.calls[:]

        small = await gateway.data("{ phoneNumbers(first: 7) { nodes { id } totalCount } }")
        again = await gateway.data(rest, after)
        calls = gateway.calls

    assert small["phoneNumbers"] == {"nodes": first["phoneNumbers"]["nodes"][:7], "totalCount": 130}
    assert again == last
    assert len(last["phoneNumbers"]["nodes"]) == 30
    assert calls == []


async def test_a_filtered_list_answers_only_itself(cached: Gateway) -> None:
    filtered = "{ phoneNumbers(first: 100, status: UNASSIGNED) { nodes { id } } }"
    await warm(cached, filtered)

    await cached.data(filtered)
    await cached.data(LIST)

    assert cached.calls == [LIST_CALL]


async def test_an_empty_list_is_remembered_too() -> None:
    async with open_gateway(
        workspaces={"demo": sample_workspace(agents=1, numbers=0)}, settings={"cache_ttl": "30"}
    ) as gateway:
        await warm(gateway, LIST, AGENTS)

        assert (await gateway.data(LIST))["phoneNumbers"]["nodes"] == []
        assert (await gateway.data(OWNED))["agents"]["nodes"][0]["numbers"] == []
        assert gateway.calls == []


@pytest.mark.parametrize("write", ["move", "delete"])
async def test_a_write_drops_exactly_what_it_made_stale_before_it_answers(cached: Gateway, write: str) -> None:
    space = cached.workspaces["demo"]
    one, two, three, *_ = space.agents
    changed, kept = (next(key for key, row in space.numbers.items() if row["agentId"] == id_) for id_ in (one, three))
    await warm(cached, AGENTS, LIST, *map(owned_by, (one, two, three)))

    await cached.data(*((MOVE, {"id": changed, "to": two}) if write == "move" else (DELETE, {"id": changed})))
    del cached.upstream.calls[:]
    await cached.data(AGENTS)
    await cached.data(number(kept))
    kept_calls = cached.calls
    await cached.data(LIST)
    await cached.data(number(changed))

    assert kept_calls == []
    assert cached.calls == [LIST_CALL, *([f"GET /numbers/{changed}"] if write == "delete" else [])]
    owners = {id_: await cached.data(owned_by(id_)) for id_ in (one, two, three)}
    assert {id_: changed in str(answer) for id_, answer in owners.items()} == {
        one: False,
        two: write == "move",
        three: False,
    }


async def test_a_write_keeps_the_lists_of_agents_that_it_does_not_touch(cached: Gateway) -> None:
    one, two, three, *_ = cached.workspaces["demo"].agents
    await warm(cached, *map(owned_by, (one, two, three)))
    changed = next(key for key, row in cached.workspaces["demo"].numbers.items() if row["agentId"] == one)

    await cached.data(MOVE, {"id": changed, "to": two})
    del cached.upstream.calls[:]
    for id_ in (one, two, three):
        await cached.data(owned_by(id_))

    assert cached.calls == [f"GET /agents/{id_}/numbers" for id_ in (one, two)]


async def test_a_number_that_is_added_is_seen_in_every_list(cached: Gateway) -> None:
    agent = next(iter(cached.workspaces["demo"].agents))
    await warm(cached, AGENTS, LIST, owned_by(agent))

    added = (await cached.data(ASSIGN, {"to": agent}))["assignPhoneNumber"]["phoneNumber"]["id"]

    assert added in str(await cached.data(owned_by(agent)))
    assert added in str(await cached.data(LIST))


async def test_a_write_that_may_have_been_carried_out_makes_stale_too(cached: Gateway) -> None:
    changed = next(iter(cached.workspaces["demo"].numbers))
    await warm(cached, LIST)
    cached.upstream.play("DELETE .*", httpx.ReadError(""))

    await cached.ask(DELETE, {"id": changed})
    del cached.upstream.calls[:]
    await cached.data(LIST)

    assert cached.calls == [LIST_CALL]


async def test_a_read_that_was_under_way_during_a_write_is_not_remembered(cached: Gateway) -> None:
    changed = next(iter(cached.workspaces["demo"].numbers))
    reading, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reading.set()
        await go.wait()

    cached.upstream.play("GET .*", through(cached, wait))
    before = asyncio.ensure_future(cached.data(LIST))
    await reading.wait()
    await cached.data(MOVE, {"id": changed, "to": None})
    go.set()
    await before
    del cached.upstream.calls[:]

    await cached.data(LIST)

    assert cached.calls == [LIST_CALL]


async def test_no_cache_asks_the_upstream_and_what_it_says_is_remembered(cached: Gateway) -> None:
    await warm(cached, LIST)
    first = next(iter(cached.workspaces["demo"].numbers.values()))
    first["friendlyName"] = "changed elsewhere"

    old = await cached.data(LIST)
    fresh = await cached.ask(LIST, Cache_Control="no-cache")
    later = await cached.data(LIST)

    assert cached.calls == [LIST_CALL]
    assert old["phoneNumbers"]["nodes"][0]["friendlyName"] != "changed elsewhere"
    assert fresh["data"]["phoneNumbers"]["nodes"][0]["friendlyName"] == "changed elsewhere"
    assert later == fresh["data"]
