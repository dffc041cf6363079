"""Nothing of one API key ever reaches another, whatever they ask for at once."""

import asyncio
import random
from typing import Any

import httpx
import pytest

from gateway.demo.rest_api import Workspace, sample_workspace
from gateway.upstream.tenants import MAX_TENANTS, Tenants
from tests.harness import Gateway, errors_of, open_gateway
from tests.plain import through

KEYS = ("key-of-one", "key-of-another")
OPERATIONS = 1000  # of each key
UPDATE = "mutation($id: ID!, $name: String!, $agent: ID!) { updatePhoneNumber(id: $id, input:"
UPDATE += " {friendlyName: $name, agentId: $agent}) { phoneNumber { friendlyName agent { name } } } }"
LIST = "{ phoneNumbers { nodes { id } } }"


def workspaces() -> dict[str, Workspace]:
    """Two workspaces with the same ids, whose every datum names its owner."""
    spaces = {key: sample_workspace(agents=6, numbers=30) for key in KEYS}
    for key, space in spaces.items():
        for agent in space.agents.values():
            agent["name"] = agent["description"] = agent["workspaceId"] = key
        for number in space.numbers.values():
            number["friendlyName"] = key
    return spaces


def drawn(chance: random.Random, key: str, space: Workspace) -> tuple[str, dict[str, Any]]:
    """A query or a write; each id is one that both workspaces have."""
    agent, number = chance.choice(list(space.agents)), chance.choice(list(space.numbers))
    return chance.choice(
        [
            ("{ agents(first: 6) { nodes { name numbers { friendlyName agent { description } } } } }", {}),
            ("{ phoneNumbers(first: 7) { nodes { friendlyName agent { name } } } }", {}),
            ("query($id: ID!) { agent(id: $id) { name workspaceId numbers { friendlyName } } }", {"id": agent}),
            ("query($id: ID!) { agent(id: $id) { id numbers { friendlyName } } }", {"id": agent}),
            ("query($id: ID!) { phoneNumber(id: $id) { friendlyName agent { name } } }", {"id": number}),
            (
                UPDATE,
                {"id": number, "name": key, "agent": agent},
            ),
        ]
    )


class NamedByRequest(httpx.AsyncBaseTransport):
    """An upstream that tells callers apart by the request id, so that the gateway sees one key for all of them."""

    def __init__(self, upstream: httpx.AsyncBaseTransport) -> None:
        self._upstream = upstream

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["X-API-Key"] = request.headers["X-Request-Id"].rpartition("-gw")[0]
        return await self._upstream.handle_async_request(request)


async def told(gateway: Gateway, operations: int, *, key_for_all: str | None = None) -> tuple[int, int]:
    """Ask for both keys in turn, many at once; return how many answers told of one's own data, and of the other's."""
    chance, own, foreign = random.Random(7), 0, 0
    for _ in range(operations // 50):
        asked = [(key, *drawn(chance, key, gateway.workspaces[key])) for _ in range(50) for key in KEYS]
        answers = await asyncio.gather(
            *(gateway.ask(text, ids, key=key_for_all or key, X_Request_Id=key) for key, text, ids in asked)
        )
        gateway.clock.now += 1
        for (key, *_), answer in zip(asked, answers, strict=True):
            own += key in str(answer)
            foreign += any(other in str(answer) for other in KEYS if other != key)
    return own, foreign


@pytest.mark.parametrize("settings", [{"cache_ttl": "5"}, {}], ids=["cached", "uncached"])
async def test_two_keys_with_the_same_ids_never_see_each_others_data(settings: dict[str, str]) -> None:
    async with open_gateway(workspaces=workspaces(), settings=settings, quota=10**6) as gateway:
        assert await told(gateway, OPERATIONS) == (2 * OPERATIONS, 0)


async def test_the_test_above_would_fail_if_the_key_were_left_out_of_the_tenants_name() -> None:
    async with open_gateway(workspaces=workspaces(), quota=10**6, transport=NamedByRequest) as gateway:
        _, foreign = await told(gateway, 50, key_for_all="one-for-all")

    assert foreign > 10


def test_a_tenant_is_named_by_a_hash_that_differs_from_process_to_process() -> None:
    here, there = Tenants(1024), Tenants(1024)

    assert here["key"] is here["key"]
    assert here["key"].name != here["other"].name
    assert here["key"].name != there["key"].name
    assert "key" not in here["key"].name


def test_the_tenant_longest_unheard_of_is_forgotten_first() -> None:
    tenants = Tenants(1024)
    first, second = tenants["first"], tenants["second"]
    tenants.keep(second)
    kept = [first, second]
    for i in range(MAX_TENANTS - 1):
        kept = [*kept, tenants[str(i)]][-1:]
        tenants.keep(kept[0])
        tenants.keep(first)
    kept.clear()
    digests = [first.digest, second.digest]
    del first, second

    assert [tenants[key].digest for key in ("first", "second")] == digests
    assert len(tenants._kept) == MAX_TENANTS
    assert digests[0] in tenants._kept
    assert digests[1] not in tenants._kept


async def test_made_up_keys_push_nobody_out(gateway: Gateway) -> None:
    await gateway.data("{ agents { totalCount } }")

    for i in range(20):
        await gateway.ask("{ agents { totalCount } }", key=f"made-up-{i}")
        await gateway.ask("{ __typename }", key=f"made-up-{i}")

    assert (await gateway.data("{ rateLimit { remaining } }"))["rateLimit"] == {"remaining": 999}


async def test_what_one_key_was_refused_another_is_not(gateway: Gateway) -> None:
    gateway.upstream.play("GET .*", httpx.Response(429), through(gateway, lambda: None))

    refused = await gateway.ask(LIST, key="demo")
    other = await gateway.ask(LIST, key="demo-2")
    still = await gateway.ask(LIST, key="demo")

    assert [errors_of(answer) for answer in (refused, other, still)] == [
        [("RATE_LIMITED", ["phoneNumbers"])],
        [],
        [("RATE_LIMITED", ["phoneNumbers"])],
    ]
    assert len(gateway.calls) == 2
