"""Agents that are embedded in numbers: the whole of one, a part, or one beside an `agentId` of null."""

from typing import Any

import pytest

from tests.upstream.test_repair import Rest, agent, asking, number, without

WHOLE = {"description": "d", "workspaceId": "w"}
PAGE = "GET /numbers?page=1&limit=50"
LISTED = "{ phoneNumbers { nodes { agent { name description workspaceId } } } }"
ONE = '{ agent(id: "a0") { name description workspaceId } }'


@pytest.mark.parametrize(
    ("embedded", "calls"),
    [
        (agent(0, **WHOLE), []),
        (agent(0, description=None, workspaceId=None), []),
        (agent(0), ["GET /agents/a0"]),
        (agent(0, description="d"), ["GET /agents/a0"]),
        (agent(0, workspaceId="w"), ["GET /agents/a0"]),
        ({"id": "a0", "name": "Agent 0"}, ["GET /agents/a0"]),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"cache_ttl": "60"}])
async def test_a_part_of_an_agent_never_stands_for_the_whole(
    embedded: dict[str, Any], calls: list[str], settings: dict[str, str]
) -> None:
    shown = {"name": "Agent 0", **(WHOLE if calls else {name: embedded[name] for name in WHOLE})}
    rest = Rest([agent(0, **WHOLE)], [number(0, "a0", agent=embedded)])
    async with asking(rest, **settings) as (ask, upstream):
        listed = await ask(LISTED)
        one = await ask(ONE)

    assert listed["data"] == {"phoneNumbers": {"nodes": [{"agent": shown}]}}
    assert one["data"] == {"agent": shown if settings else {"name": "Agent 0", **WHOLE}}
    assert upstream.calls == [PAGE, *calls, *([] if settings else ["GET /agents/a0"])]


OWNED = "{ agents { nodes { id numbers { id } } } }"


@pytest.mark.parametrize("keys", [{"agentId": None}, {}])
async def test_the_id_of_an_embedded_agent_is_believed_beside_null(keys: dict[str, None]) -> None:
    numbers = [
        without(number(i, None), "agentId") | keys | {"agent": {"id": f"a{i % 3}", "name": "x"}} for i in range(6)
    ]
    async with asking(Rest([agent(i) for i in range(3)], numbers)) as (ask, upstream):
        owners = await ask("{ phoneNumbers { nodes { agent { id } } } }")
        owned = await ask(OWNED)
        one = await ask('{ phoneNumber(id: "n4") { agent { id } } }')

    assert owners["data"] == {"phoneNumbers": {"nodes": [{"agent": {"id": f"a{i % 3}"}} for i in range(6)]}}
    nodes = [{"id": f"a{i}", "numbers": [{"id": f"n{i}"}, {"id": f"n{i + 3}"}]} for i in range(3)]
    assert owned["data"] == {"agents": {"nodes": nodes}}
    assert one["data"] == {"phoneNumber": {"agent": {"id": "a1"}}}
    lists = ["GET /agents?page=1&limit=50", "GET /numbers?page=1&limit=100"]
    assert sorted(upstream.calls) == sorted([PAGE, *lists, "GET /numbers/n4"])


async def test_an_agent_that_was_unassigned_is_not_read_from_what_was_embedded() -> None:
    row = number(0, None, agent={"id": "a0", "name": "x"})
    rest = Rest([agent(0)], [row])

    def put(call: str) -> bytes:
        return rest.write(row) if call.startswith("PUT ") else rest(call)

    async with asking(put) as (ask, _):
        told = await ask(
            'mutation { updatePhoneNumber(id: "n0", input: {agentId: null}) { phoneNumber { agent { id } } } }'
        )

    assert told["data"] == {"updatePhoneNumber": {"phoneNumber": {"agent": None}}}
