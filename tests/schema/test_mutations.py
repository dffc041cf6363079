"""Mutations: what is sent, what comes back, and what the operation still believes afterwards."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.demo.rest_api import sample_workspace
from tests.harness import Gateway, errors_of, open_gateway
from tests.plain import through

UPDATE = "mutation($id: ID!, $input: UpdatePhoneNumberInput!) {"
UPDATE += " updatePhoneNumber(id: $id, input: $input) { phoneNumber { id friendlyName status agent { id } } } }"
ASSIGN = "mutation($input: AssignPhoneNumberInput!) { assignPhoneNumber(input: $input) {"
ASSIGN += " phoneNumber { id phoneNumber friendlyName status agent { id } } } }"
DELETE = "mutation($id: ID!) { deletePhoneNumber(id: $id) { deletedPhoneNumberId } }"
IN_DOUBT = "The change may have been made"


def ids(gateway: Gateway) -> tuple[list[str], list[str]]:
    """The ids of the agents and of the numbers."""
    workspace = gateway.workspaces["demo"]
    return list(workspace.agents), list(workspace.numbers)


def bodies(gateway: Gateway) -> list[Any]:
    return [json.loads(request.content or b"null") for request in gateway.upstream.requests if request.method != "GET"]


async def update(gateway: Gateway, input_: dict[str, Any], id_: str = "") -> dict[str, Any]:
    return await gateway.ask(UPDATE, {"id": id_ or ids(gateway)[1][0], "input": input_})


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({"friendlyName": "Desk"}, {"friendlyName": "Desk"}),
        ({"friendlyName": None}, {"friendlyName": None}),
        ({"friendlyName": ""}, {"friendlyName": ""}),
        ({"agentId": None}, {"agentId": None}),
        ({"status": "ACTIVE"}, {"status": "ACTIVE"}),
        ({"status": "UNASSIGNED"}, {"status": "unassigned"}),
        ({"friendlyName": None, "agentId": None, "status": "INACTIVE"},) * 2,
    ],
)
async def test_absent_null_and_a_value_are_three_different_bodies(
    gateway: Gateway, given: dict[str, Any], body: dict[str, Any]
) -> None:
    answer = await update(gateway, given)

    assert "errors" not in answer
    assert bodies(gateway) == [body]
    assert gateway.calls == [f"PUT /numbers/{ids(gateway)[1][0]}"]


async def test_a_null_status_is_sent_and_the_upstream_judges_it(gateway: Gateway) -> None:
    answer = await update(gateway, {"status": None})

    assert bodies(gateway) == [{"status": None}]
    assert errors_of(answer) == [("BAD_USER_INPUT", ["updatePhoneNumber"])]


@pytest.mark.parametrize(
    ("literal", "variables", "body"),
    [
        ("{friendlyName: $name}", {}, None),
        ("{friendlyName: $name}", {"name": None}, {"friendlyName": None}),
        ("{friendlyName: $name}", {"name": "x"}, {"friendlyName": "x"}),
        ('{friendlyName: null, agentId: "a"}', {}, {"friendlyName": None, "agentId": "a"}),
        ("{agentId: 5}", {}, {"agentId": "5"}),
    ],
)
async def test_a_variable_that_is_not_given_is_absent(
    gateway: Gateway, literal: str, variables: dict[str, Any], body: dict[str, Any] | None
) -> None:
    head = "mutation($name: String) { __typename @skip(if: true)"
    used = "" if "$name" in literal else ' a: updatePhoneNumber(id: "..", input: {friendlyName: $name}) { __typename }'

    await gateway.ask(
        f'{head}{used} updatePhoneNumber(id: "n", input: {literal}) {{ phoneNumber {{ id }} }} }}', variables
    )

    assert bodies(gateway) == ([] if body is None else [body])


@pytest.mark.parametrize(
    ("given", "body"), [({}, {}), ({"friendlyName": None},) * 2, ({"friendlyName": "Front desk"},) * 2]
)
async def test_assigning_adds_a_number_and_shows_it(
    gateway: Gateway, given: dict[str, Any], body: dict[str, Any]
) -> None:
    agent = ids(gateway)[0][3]
    sent = {"phoneNumber": "+4930999999", "agentId": agent}

    answer = await gateway.ask(ASSIGN, {"input": sent | given})

    number = answer["data"]["assignPhoneNumber"]["phoneNumber"]
    expected = {"phoneNumber": "+4930999999", "friendlyName": None, "status": "ASSIGNED", "agent": {"id": agent}}
    assert number == expected | {"id": ids(gateway)[1][-1]} | body
    assert (bodies(gateway), gateway.calls) == ([sent | body], ["POST /numbers"])


async def test_deleting_answers_the_id(gateway: Gateway) -> None:
    id_ = ids(gateway)[1][0]

    answer = await gateway.ask(DELETE, {"id": id_})

    assert answer["data"] == {"deletePhoneNumber": {"deletedPhoneNumberId": id_}}
    assert (gateway.calls, bodies(gateway)) == ([f"DELETE /numbers/{id_}"], [None])
    assert id_ not in ids(gateway)[1]


async def test_patch_takes_over_for_good_where_put_is_not_allowed() -> None:
    async with open_gateway(update_method="PATCH") as gateway:
        id_ = ids(gateway)[1][0]
        first = await update(gateway, {"friendlyName": "a"})
        second = await update(gateway, {"friendlyName": "b"})

        calls = gateway.calls
        sent = bodies(gateway)
    assert calls == [f"PUT /numbers/{id_}", f"PATCH /numbers/{id_}", f"PATCH /numbers/{id_}"]
    assert sent == [{"friendlyName": "a"}, {"friendlyName": "a"}, {"friendlyName": "b"}]
    assert [a["data"]["updatePhoneNumber"]["phoneNumber"]["friendlyName"] for a in (first, second)] == ["a", "b"]


async def test_a_405_changes_nothing_where_the_other_method_fails_too(gateway: Gateway) -> None:
    gateway.upstream.play("PATCH .*", httpx.Response(405))
    gateway.upstream.play("PUT .*", httpx.Response(405))
    refused = await update(gateway, {"friendlyName": "a"})
    gateway.upstream.play("PATCH .*", httpx.Response(500))
    failed = await update(gateway, {"friendlyName": "b"})
    (id_, row), *_ = gateway.workspaces["demo"].numbers.items()
    gateway.upstream.play("PUT .*", httpx.Response(200, json=row))
    done = await update(gateway, {"friendlyName": "c"}, id_)

    assert [errors_of(answer) for answer in (refused, failed)] == [[("UPSTREAM_ERROR", ["updatePhoneNumber"])]] * 2
    assert "errors" not in done
    assert [call.split()[0] for call in gateway.calls] == ["PUT", "PATCH", "PUT", "PATCH", "PUT"]


async def test_put_comes_back_where_patch_is_not_allowed_any_more() -> None:
    async with open_gateway(update_method="both") as gateway:
        gateway.upstream.play("PUT .*", httpx.Response(405))
        await update(gateway, {"friendlyName": "a"})
        gateway.upstream.play("PATCH .*", httpx.Response(405))
        gateway.upstream.play("PUT .*", through(gateway, lambda: None))
        answers = [await update(gateway, {"friendlyName": name}) for name in "bc"]

    assert [errors_of(answer) for answer in answers] == [[], []]
    assert [call.split()[0] for call in gateway.calls] == ["PUT", "PATCH", "PATCH", "PUT", "PUT"]


async def test_two_updates_at_once_both_learn_that_there_is_no_put() -> None:
    async with open_gateway(update_method="PATCH") as gateway:
        one, two = ids(gateway)[1][:2]
        answers = await asyncio.gather(
            update(gateway, {"friendlyName": "a"}, one), update(gateway, {"friendlyName": "b"}, two)
        )

    assert [errors_of(answer) for answer in answers] == [[], []]


@pytest.mark.parametrize("status", [200, 400, 404, 409, 500])
async def test_only_a_405_makes_it_patch(gateway: Gateway, status: int) -> None:
    gateway.upstream.play("PUT .*", httpx.Response(status))

    await update(gateway, {"friendlyName": "a"})
    await update(gateway, {"friendlyName": "b"})

    assert [call.split()[0] for call in gateway.calls] == ["PUT", "PUT"]


async def test_the_payloads_nested_fields_show_the_written_state(gateway: Gateway) -> None:
    (old, new, *_), (number, *_) = ids(gateway)  # the new one has four numbers before
    ask = f'mutation {{ one: updatePhoneNumber(id: "{number}", input: {{friendlyName: "1"}}) {{ ...P }}'
    ask += f' two: updatePhoneNumber(id: "{number}", input: {{friendlyName: "2", agentId: "{new}"}}) {{ ...P }} }}'
    ask += " fragment P on UpdatePhoneNumberPayload { phoneNumber { friendlyName"
    ask += " agent { id name numbers { id friendlyName agent { id } } } } }"

    data = await gateway.data(ask)

    one, two = (data[name]["phoneNumber"] for name in ("one", "two"))
    assert (one["agent"]["id"], two["agent"]["id"]) == (old, new)
    assert {"id": number, "friendlyName": "1", "agent": {"id": old}} in one["agent"]["numbers"]
    assert {"id": number, "friendlyName": "2", "agent": {"id": new}} in two["agent"]["numbers"]
    assert (len(one["agent"]["numbers"]), len(two["agent"]["numbers"])) == (5, 5)
    put = f"PUT /numbers/{number}"
    assert gateway.calls == [
        *(put, f"GET /agents/{old}", f"GET /agents/{old}/numbers"),
        *(put, f"GET /agents/{new}", f"GET /agents/{new}/numbers"),
    ]


async def test_a_number_that_was_moved_away_or_deleted_is_no_longer_its_agents(gateway: Gateway) -> None:
    (agent, *_), numbers = ids(gateway)
    mine = [id_ for id_ in numbers if gateway.workspaces["demo"].numbers[id_]["agentId"] == agent]
    ask = "mutation {"
    ask += f' a: updatePhoneNumber(id: "{mine[0]}", input: {{friendlyName: "1"}}) {{ ...P }}'
    ask += f' b: updatePhoneNumber(id: "{mine[1]}", input: {{agentId: null}})'
    ask += " { phoneNumber { agent { id } status } }"
    ask += f' c: updatePhoneNumber(id: "{mine[0]}", input: {{friendlyName: "2"}}) {{ ...P }}'
    ask += f' d: deletePhoneNumber(id: "{mine[2]}") {{ deletedPhoneNumberId }}'
    ask += f' e: updatePhoneNumber(id: "{mine[0]}", input: {{friendlyName: "3"}}) {{ ...P }} }}'
    ask += " fragment P on UpdatePhoneNumberPayload { phoneNumber { agent { numbers { id } } } }"

    data = await gateway.data(ask)

    shown = [[number["id"] for number in data[name]["phoneNumber"]["agent"]["numbers"]] for name in "ace"]
    assert shown == [mine, [mine[0], *mine[2:]], [mine[0], *mine[3:]]]
    assert data["b"]["phoneNumber"] == {"agent": None, "status": "UNASSIGNED"}


async def test_the_written_state_wins_over_a_list_that_was_swept_before() -> None:
    async with open_gateway(workspaces={"demo": sample_workspace(agents=4, numbers=12)}) as gateway:
        agents, numbers = ids(gateway)
        ask = "mutation {"
        ask += f' a: updatePhoneNumber(id: "{numbers[0]}", input: {{agentId: "{agents[0]}"}}) {{ ...P }}'
        ask += f' b: updatePhoneNumber(id: "{numbers[0]}", input: {{agentId: "{agents[3]}"}}) {{ ...P }}'
        ask += f' c: assignPhoneNumber(input: {{phoneNumber: "+4930999999", agentId: "{agents[3]}"}})'
        ask += " { phoneNumber { agent { numbers { id agent { numbers { id } } } } } } }"
        ask += " fragment P on UpdatePhoneNumberPayload { phoneNumber { agent { numbers { id agent { name } } } } }"

        data = await gateway.data(ask)
        plain = [id_ for id_, n in gateway.workspaces["demo"].numbers.items() if n["agentId"] == agents[3]]

    assert numbers[0] in [number["id"] for number in data["b"]["phoneNumber"]["agent"]["numbers"]]
    assert sorted(n["id"] for n in data["c"]["phoneNumber"]["agent"]["numbers"]) == sorted(plain)


@pytest.mark.parametrize(
    ("given", "answered", "agent"),
    [
        ({"agentId": None}, {}, None),
        ({"agentId": "a7"}, {}, {"id": "a7"}),
        ({"agentId": "a7"}, {"agentId": "a8"}, {"id": "a8"}),
        ({"friendlyName": "x"}, {"agent": {"id": "a9", "name": "Ann"}}, {"id": "a9"}),
        ({"agentId": None}, {"agentId": None, "agent": None}, None),
    ],
)
async def test_an_answer_that_leaves_the_agent_out_is_read_with_what_was_sent(
    gateway: Gateway, given: dict[str, Any], answered: dict[str, Any], agent: dict[str, str] | None
) -> None:
    number = {"id": "n1", "phoneNumber": "+49", "status": "ACTIVE", "createdAt": "2024-01-01T00:00:00Z"}
    gateway.upstream.play("PUT .*", httpx.Response(200, json=number | answered))

    answer = await update(gateway, given, "n1")

    assert answer["data"]["updatePhoneNumber"]["phoneNumber"]["agent"] == agent


@pytest.mark.parametrize("owner", ["a7", None])
async def test_an_answer_that_leaves_out_an_agent_that_was_not_sent_is_not_read_as_none(
    gateway: Gateway, owner: str | None
) -> None:
    number = {"id": "n1", "phoneNumber": "+49", "status": "ACTIVE", "createdAt": "2024-01-01T00:00:00Z"}
    gateway.upstream.play("PUT .*", httpx.Response(200, json=number))
    gateway.upstream.play("GET /numbers/n1", httpx.Response(200, json=number | {"agentId": owner}))

    answer = await update(gateway, {"friendlyName": "x"}, "n1")

    assert answer["data"]["updatePhoneNumber"]["phoneNumber"]["agent"] == (owner and {"id": owner})
    assert gateway.calls == ["PUT /numbers/n1", "GET /numbers/n1"]
