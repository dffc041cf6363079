"""Mutations that fail: refused, rejected or in doubt, and never sent twice."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.harness import Gateway, errors_of, open_gateway
from tests.schema.test_mutations import ASSIGN, DELETE, UPDATE, ids, update

IN_DOUBT = "The change may have been made"


@pytest.mark.parametrize(
    ("id_", "given"),
    [
        ("n1", {}),
        ("n1", {"status": "UNKNOWN"}),
        ("n1", {"friendlyName": "x", "status": "UNKNOWN"}),
        ("..", {"friendlyName": "x"}),
        ("", {"friendlyName": "x"}),
        ("a/b", {"friendlyName": "x"}),
        ("%2e", {"friendlyName": "x"}),
        ("a" * 129, {"agentId": None}),
    ],
)
async def test_an_update_that_cannot_be_sent_is_refused_without_a_call(
    gateway: Gateway, id_: str, given: dict[str, Any]
) -> None:
    answer = await gateway.ask(UPDATE, {"id": id_, "input": given})

    assert answer["data"] == {"updatePhoneNumber": None}
    assert errors_of(answer) == [("BAD_USER_INPUT", ["updatePhoneNumber"])]
    assert gateway.calls == []


@pytest.mark.parametrize("id_", ["", ".", "..", "../agents/a1", "a\r\nb", "a" * 129, "é"])
async def test_a_hostile_id_deletes_nothing(gateway: Gateway, id_: str) -> None:
    answer = await gateway.ask(DELETE, {"id": id_})

    assert errors_of(answer) == [("BAD_USER_INPUT", ["deletePhoneNumber"])]
    assert gateway.calls == []


async def test_a_write_to_what_is_not_there_is_not_found(gateway: Gateway) -> None:
    foreign = next(iter(gateway.workspaces["demo-2"].numbers))

    answers = [
        await update(gateway, {"friendlyName": "x"}, foreign),
        await gateway.ask(DELETE, {"id": foreign}),
        await update(gateway, {"agentId": next(iter(gateway.workspaces["demo-2"].agents))}),
        await gateway.ask(ASSIGN, {"input": {"phoneNumber": "+4930999999", "agentId": "nobody"}}),
    ]

    assert [errors_of(answer)[0][0] for answer in answers] == ["NOT_FOUND"] * 4
    assert answers[0]["errors"][0]["extensions"]["upstream"]["status"] == 404
    assert len(gateway.calls) == 4


async def test_a_conflict_and_a_body_that_does_not_validate_are_told(gateway: Gateway) -> None:
    agents, numbers = ids(gateway)
    taken = gateway.workspaces["demo"].numbers[numbers[0]]["phoneNumber"]

    conflict = await gateway.ask(ASSIGN, {"input": {"phoneNumber": taken, "agentId": agents[0]}})
    invalid = await gateway.ask(ASSIGN, {"input": {"phoneNumber": "030", "agentId": agents[0]}})

    assert errors_of(conflict) == [("CONFLICT", ["assignPhoneNumber"])]
    assert errors_of(invalid) == [("BAD_USER_INPUT", ["assignPhoneNumber"])]
    assert list(invalid["errors"][0]["extensions"]["fieldErrors"]) == ["phoneNumber"]
    assert len(gateway.calls) == 2


async def test_neither_put_nor_patch_allowed_is_told_and_ends(gateway: Gateway) -> None:
    gateway.upstream.play("(PUT|PATCH) .*", httpx.Response(405))

    answer = await update(gateway, {"friendlyName": "a"})

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["updatePhoneNumber"])]
    assert [call.split()[0] for call in gateway.calls] == ["PUT", "PATCH"]


@pytest.mark.parametrize(
    ("fault", "code", "doubt"),
    [
        (httpx.ConnectError("x"), "UPSTREAM_UNAVAILABLE", False),
        (httpx.ConnectTimeout("x"), "UPSTREAM_TIMEOUT", False),
        (httpx.ReadTimeout("x"), "UPSTREAM_TIMEOUT", True),
        (httpx.ReadError("x"), "UPSTREAM_UNAVAILABLE", True),
        (httpx.Response(500), "UPSTREAM_ERROR", True),
        (httpx.Response(503), "UPSTREAM_UNAVAILABLE", True),
        (httpx.Response(302), "UPSTREAM_ERROR", True),
        (httpx.Response(429), "RATE_LIMITED", False),
        (httpx.Response(400), "BAD_USER_INPUT", False),
    ],
)
@pytest.mark.parametrize("write", ["update", "assign", "delete"])
async def test_a_write_is_never_tried_again_and_says_where_it_is_in_doubt(
    gateway: Gateway, write: str, fault: Any, code: str, *, doubt: bool
) -> None:
    gateway.upstream.play("(PUT|POST|DELETE) .*", fault)
    send = {
        "update": lambda: update(gateway, {"agentId": None}),
        "assign": lambda: gateway.ask(ASSIGN, {"input": {"phoneNumber": "+49", "agentId": "a"}}),
        "delete": lambda: gateway.ask(DELETE, {"id": "n1"}),
    }

    answer = await send[write]()

    assert [found for found, _ in errors_of(answer)] == [code]
    assert (IN_DOUBT in answer["errors"][0]["message"]) is doubt
    assert len(gateway.calls) == 1


@pytest.mark.parametrize("body", ["", "<html>", "null", "{}", '{"data": {}}', '{"id": "n1"'])
async def test_a_success_that_cannot_be_read_is_in_doubt(gateway: Gateway, body: str) -> None:
    gateway.upstream.play("PUT .*", httpx.Response(200, text=body))

    answer = await update(gateway, {"agentId": None})

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["updatePhoneNumber"])]
    assert IN_DOUBT in answer["errors"][0]["message"]
    assert len(gateway.calls) == 1


@pytest.mark.parametrize(
    ("status", "text"), [(200, ""), (200, " \n"), (200, "{}"), (200, '{"error": null}'), (204, "")]
)
async def test_a_delete_is_done_if_its_answer_says_no_other(gateway: Gateway, status: int, text: str) -> None:
    gateway.upstream.play("DELETE .*", httpx.Response(status, text=text))

    assert "errors" not in await gateway.ask(DELETE, {"id": "n1"})


@pytest.mark.parametrize(
    ("status", "text"),
    [
        *(
            (200, text)
            for text in ("<html>", "\xff", '{"error": "no"}', '{"error": {"message": "no", "code": "CONFLICT"}}')
        ),
        *((status, "") for status in (201, 202, 203, 205, 206)),
    ],
)
async def test_a_delete_is_in_doubt_if_its_answer_leaves_it_open(gateway: Gateway, status: int, text: str) -> None:
    gateway.upstream.play("DELETE .*", httpx.Response(status, text=text))

    answer = await gateway.ask(DELETE, {"id": "n1"})

    assert answer["data"] == {"deletePhoneNumber": None}
    assert errors_of(answer) == [("UPSTREAM_ERROR", ["deletePhoneNumber"])]
    assert IN_DOUBT in answer["errors"][0]["message"]
    assert len(gateway.calls) == 1


@pytest.mark.parametrize("status", [202, 206])
async def test_an_update_that_is_not_carried_out_yet_is_in_doubt(gateway: Gateway, status: int) -> None:
    (id_, row), *_ = gateway.workspaces["demo"].numbers.items()
    gateway.upstream.play("PUT .*", httpx.Response(status, json=row))

    answer = await update(gateway, {"friendlyName": "x"}, id_)

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["updatePhoneNumber"])]
    assert IN_DOUBT in answer["errors"][0]["message"]


async def test_an_error_from_before_a_write_is_asked_again_after_it(gateway: Gateway) -> None:
    (agent, *_), (number, *_) = ids(gateway)
    given = json.dumps(gateway.workspaces["demo"].agents[agent])
    gateway.upstream.play(f"GET /agents/{agent}", httpx.Response(500), httpx.Response(200, text=given))
    ask = f'mutation {{ a: updatePhoneNumber(id: "{number}", input: {{friendlyName: "1"}}) {{ ...P }}'
    ask += f' b: updatePhoneNumber(id: "{number}", input: {{friendlyName: "2"}}) {{ ...P }} }}'
    ask += " fragment P on UpdatePhoneNumberPayload { phoneNumber { agent { id name } } }"

    answer = await gateway.ask(ask)

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["a", "phoneNumber", "agent"])]
    assert answer["data"]["b"]["phoneNumber"]["agent"]["id"] == agent
    assert gateway.calls == [f"PUT /numbers/{number}", f"GET /agents/{agent}"] * 2


async def test_a_failed_write_leaves_the_writes_after_it(gateway: Gateway) -> None:
    number = ids(gateway)[1][0]
    ask = 'mutation { a: deletePhoneNumber(id: "gone") { deletedPhoneNumberId }'
    ask += f' b: deletePhoneNumber(id: "{number}") {{ deletedPhoneNumberId }} }}'

    answer = await gateway.ask(ask)

    assert errors_of(answer) == [("NOT_FOUND", ["a"])]
    assert answer["data"] == {"a": None, "b": {"deletedPhoneNumberId": number}}
    assert gateway.calls == ["DELETE /numbers/gone", f"DELETE /numbers/{number}"]


async def test_a_write_that_outlasts_the_deadline_is_in_doubt_and_goes_on_to_its_end() -> None:
    held = asyncio.Event()

    async def slow(_: httpx.Request) -> httpx.Response:
        await held.wait()
        return httpx.Response(200, json={})

    async with open_gateway(settings={"deadline": "0.05"}) as gateway:
        gateway.upstream.play("PUT .*", slow)
        answer = await gateway.ask(UPDATE, {"id": "n1", "input": {"friendlyName": "x"}})
        held.set()

    assert errors_of(answer) == [("UPSTREAM_TIMEOUT", ["updatePhoneNumber"])]
    assert "may have been made" in answer["errors"][0]["message"]
    assert gateway.calls == ["PUT /numbers/n1"]


async def test_a_write_whose_caller_left_ends_before_the_gateway_does() -> None:
    held, begun = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def slow(_: httpx.Request) -> httpx.Response:
        begun.set()
        await held.wait()
        ended.append("written")
        return httpx.Response(200, json={})

    async with open_gateway() as gateway:
        gateway.upstream.play("PUT .*", slow)
        leaver = asyncio.ensure_future(gateway.ask(UPDATE, {"id": "n1", "input": {"friendlyName": "x"}}))
        await begun.wait()
        leaver.cancel()
        asyncio.get_running_loop().call_later(0.05, held.set)

    assert ended == ["written"]
