"""Answers of the REST API that are so long that they are decoded in slices."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from gateway.upstream.resources import LONG, NUMBERS, REPAIR_SLICE, SLICE, PageRequest, Read
from tests.harness import errors_of, open_gateway

PAGE = PageRequest(1, 100)


def numbers(count: int, owner: str = "a1") -> list[dict[str, Any]]:
    made = {"status": "active", "createdAt": "2025-01-01T00:00:00Z", "agentId": owner, "friendlyName": "n" * 40}
    return [{"id": f"n{at}", "phoneNumber": f"+49{at}", **made} for at in range(count)]


@pytest.mark.parametrize("read", [NUMBERS.owned_by("a1"), NUMBERS.page(PAGE)], ids=["owned", "page"])
async def test_others_have_a_turn_between_slices_of_a_long_list(read: Read) -> None:
    told = {"page": 1, "limit": 100, "total": 5 * SLICE}
    body = msgspec.json.encode({"data": numbers(5 * SLICE), "pagination": told, "more": 1})
    decoding = asyncio.ensure_future(read.decode_slowly(body))

    turns = 0
    while not decoding.done():
        await asyncio.sleep(0)
        turns += 1

    rows = await decoding
    assert len(body) > LONG
    assert rows
    assert turns >= 5
    assert read.decode(body, rows) == read.decode(body)


@pytest.mark.parametrize("read", [NUMBERS.owned_by("a1"), NUMBERS.page(PAGE)], ids=["owned", "page"])
async def test_others_have_a_turn_while_a_long_list_is_repaired(read: Read) -> None:
    rows = numbers(5 * SLICE)
    rows[-1] |= {"id": 7, "friendlyName": "\ud83d"}
    told = {"page": 1, "limit": 100, "total": 5 * SLICE}
    body = json.dumps({"data": rows, "pagination": told}).encode()
    repairing = asyncio.ensure_future(read.decode_slowly(body))

    turns = 0
    while not repairing.done():
        await asyncio.sleep(0)
        turns += 1

    repaired = await repairing
    assert repaired
    assert turns >= 5 * SLICE // REPAIR_SLICE
    assert read.decode(body, repaired) == read.decode(body)
    assert (repaired.data[-1].id, repaired.data[-1].friendly_name) == ("7", "\ufffd")


@pytest.mark.parametrize("body", [b"{}", b"[]", b"\xff", b'{"data": 1}', b'{"data": [{"name": "an agent"}]}'])
async def test_what_cannot_be_read_in_slices_is_left_to_who_judges_it(body: bytes) -> None:
    assert await NUMBERS.page(PAGE).decode_slowly(body) is None


@pytest.mark.parametrize(
    ("rows", "told", "codes"),
    [
        (numbers(4000), 4000, []),
        ([*numbers(3999), {"id": "odd", "status": "active"}], 3999, ["UPSTREAM_ERROR"]),
        ([*numbers(3999), *numbers(1, "another")], None, ["UPSTREAM_ERROR"]),
    ],
    ids=["whole", "one row that cannot be read", "one row of another agent"],
)
async def test_a_long_list_is_judged_as_a_short_one(rows: list[Any], told: int | None, codes: list[str]) -> None:
    async with open_gateway() as gateway:
        gateway.upstream.play("GET /agents/a1/numbers", httpx.Response(200, json={"data": rows}))
        answer = await gateway.ask('{ agent(id: "a1") { numbers { phoneNumber } } }')

    listed = answer["data"]["agent"]["numbers"]
    assert (listed and len(listed)) == told
    assert [code for code, _ in errors_of(answer)] == codes
