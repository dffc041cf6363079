"""Several operations in one request, as a JSON array."""

from typing import Any

import httpx
import pytest

from tests.harness import Gateway, errors_of, open_gateway

QUERY = {"query": "{ __typename }"}
ANSWER = {"data": {"__typename": "Query"}}
SHORT = {"query": "{ phoneNumbers(first: 1) { nodes { id } } }"}


async def send(gateway: Gateway, body: Any, **headers: str) -> httpx.Response:
    sent = {"X-API-Key": "demo"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post("/graphql", json=body, headers=sent)


def agents(*names: str) -> dict[str, str]:
    return {
        "query": " ".join(
            ["{", *(f'{name}: agents(first: 1, search: "{name}") {{ totalCount }}' for name in names), "}"]
        )
    }


async def test_executes_each_operation_of_a_batch_if_batches_are_allowed() -> None:
    async with open_gateway(settings={"max_batch": "2"}) as gateway:
        response = await send(gateway, [QUERY, {"query": "query Two { two: __typename }", "operationName": "Two"}])
        alone = await send(gateway, QUERY)

    assert (response.status_code, response.json()) == (200, [ANSWER, {"data": {"two": "Query"}}])
    assert alone.json() == ANSWER


async def test_a_bad_element_of_a_batch_has_its_own_error() -> None:
    bad: list[Any] = [
        1,
        None,
        [],
        {"query": 1},
        {},
        {"query": "{"},
        {"query": "{ nope }"},
        {"query": "query A { __typename } query B { __typename }"},
    ]
    async with open_gateway(settings={"max_batch": "9"}) as gateway:
        response = await send(gateway, [*bad, QUERY], Accept="application/graphql-response+json")

    assert response.status_code == 200
    *errors, last = response.json()
    assert [[code for code, _ in errors_of(answer)] for answer in errors] == [
        *[["BAD_REQUEST"]] * 5,
        ["GRAPHQL_PARSE_FAILED"],
        ["GRAPHQL_VALIDATION_FAILED"],
        ["BAD_REQUEST"],
    ]
    assert last == ANSWER


@pytest.mark.parametrize("size", [0, 3, 1000])
async def test_refuses_a_batch_of_no_operations_or_too_many(size: int) -> None:
    async with open_gateway(settings={"max_batch": "2"}) as gateway:
        response = await send(gateway, [QUERY] * size)

    assert (response.status_code, errors_of(response.json())) == (400, [("BAD_REQUEST", None)])
    assert f"not {size}" in response.text


async def test_counts_the_budget_over_the_whole_batch() -> None:
    async with open_gateway(settings={"max_batch": "9", "max_rest_calls": "3"}) as gateway:
        response = await send(gateway, [agents("a", "b"), agents("c", "d"), agents("e")])
        calls = gateway.calls

    codes = [code for answer in response.json() for code, _ in errors_of(answer)]
    assert len(calls) == 3
    assert codes == ["REQUEST_LIMIT_EXCEEDED"] * 2
    assert [answer["extensions"]["quota"]["spent"] for answer in response.json()] == [3, 3, 3]


async def test_keeps_the_operations_of_a_batch_to_one_key() -> None:
    async with open_gateway(settings={"max_batch": "9"}) as gateway:
        response = await send(gateway, [SHORT, SHORT])
        calls = gateway.calls

    assert calls == ["GET /numbers?page=1&limit=1"]
    assert response.json()[0] == response.json()[1]


async def test_shows_the_quota_only_on_operations_that_were_executed() -> None:
    async with open_gateway(settings={"max_batch": "2"}) as gateway:
        response = await send(gateway, [SHORT, {"query": "{"}])

    assert [list(answer) for answer in response.json()] == [["data", "extensions"], ["errors"]]
