"""GraphQL over HTTP beyond the audits: methods, media types, bodies that are none, sizes and times."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.http.request import MAX_QUERY_STRING
from tests.harness import Gateway, errors_of, open_gateway

QUERY = "{ __typename }"
GRAPHQL = "application/graphql-response+json"
JSON_TYPE = {"Content-Type": "application/json"}
SAFE = {"GraphQL-Require-Preflight": "1"}
ANSWER = {"data": {"__typename": "Query"}}
DIGITS = "1" * 5000


async def post(gateway: Gateway, content: bytes | str, **headers: str) -> httpx.Response:
    sent = JSON_TYPE | {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post("/graphql", content=content, headers=sent)


def refused(response: httpx.Response) -> tuple[int, list[str]]:
    """The status and codes of an answer that must be nothing but errors."""
    body = response.json()
    assert list(body) == ["errors"]
    assert all(error["message"] for error in body["errors"])
    return response.status_code, [code for code, _ in errors_of(body)]


async def test_answers_a_get_as_a_post(gateway: Gateway) -> None:
    variables = {"query": "query Q($v: Boolean!) { __typename @include(if: $v) }", "variables": '{"v": true}'}

    response = await gateway.http.get("/graphql", params={**variables, "operationName": "Q"}, headers=SAFE)

    assert (response.status_code, response.json()) == (200, ANSWER)


async def test_answers_a_head_with_a_gets_headers_alone(gateway: Gateway) -> None:
    answers = [
        await gateway.http.request(method, "/graphql", params={"query": QUERY}, headers=SAFE | {"X-Request-Id": "same"})
        for method in ("GET", "HEAD")
    ]

    assert answers[0].headers == answers[1].headers
    assert (answers[1].status_code, answers[1].content) == (200, b"")


async def test_options_lists_the_methods(gateway: Gateway) -> None:
    response = await gateway.http.options("/graphql")

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["allow"] == "GET, HEAD, POST, OPTIONS"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "QUERY", "NONSENSE"])
async def test_refuses_other_methods(gateway: Gateway, method: str) -> None:
    response = await gateway.http.request(method, "/graphql", params={"query": QUERY}, headers=SAFE)

    assert refused(response) == (405, ["BAD_REQUEST"])
    assert response.headers["allow"] == "GET, HEAD, POST, OPTIONS"


@pytest.mark.parametrize("headers", [{"X-API-Key": "demo"}, SAFE, {}])
async def test_refuses_a_mutation_by_get_and_names_post(gateway: Gateway, headers: dict[str, str]) -> None:
    query = 'mutation { deletePhoneNumber(id: "x") { deletedPhoneNumberId } }'

    response = await gateway.http.get("/graphql", params={"query": query}, headers=headers)

    assert refused(response) == (405, ["BAD_REQUEST"])
    assert response.headers["allow"] == "POST"
    assert gateway.calls == []


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/application/json",
        "application/jsonp",
        "application/graphql",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "application/json;" + " " * 300,
    ],
)
async def test_refuses_a_body_of_another_type(gateway: Gateway, content_type: str) -> None:
    response = await post(gateway, json.dumps({"query": QUERY}), Content_Type=content_type)

    assert refused(response) == (415, ["BAD_REQUEST"])


@pytest.mark.parametrize("content_type", ["APPLICATION/JSON", 'application/json;charset="UTF-8"', "application/json;"])
async def test_takes_json_however_it_is_written(gateway: Gateway, content_type: str) -> None:
    response = await post(gateway, json.dumps({"query": QUERY}), Content_Type=content_type)

    assert (response.status_code, response.json()) == (200, ANSWER)


@pytest.mark.parametrize("text", ['{"query": "{ __typename }"}', '[{"query": "{ __typename }"}]'])
async def test_ignores_a_byte_order_mark(text: str) -> None:
    async with open_gateway(settings={"max_batch": "2"}) as gateway:
        response = await post(gateway, text.encode("utf-8-sig"))

    assert response.status_code == 200
    assert "errors" not in response.text


async def test_refuses_a_body_without_a_type_or_with_a_coding(gateway: Gateway) -> None:
    untyped = await gateway.http.post("/graphql", content=json.dumps({"query": QUERY}))
    coded = await post(gateway, b"\x1f\x8b", Content_Encoding="gzip")

    assert refused(untyped) == refused(coded) == (415, ["BAD_REQUEST"])


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, application/json", GRAPHQL),
        (f"{GRAPHQL}; charset=utf-8, application/json; charset=utf-8", GRAPHQL),
        (f"{GRAPHQL};q=0.5, application/json;q=0.9", "application/json"),
        (f"{GRAPHQL}, application/json;q=0.9, text/event-stream", GRAPHQL),
        (f"application/json;q=0, {GRAPHQL};q=0.1, */*", GRAPHQL),
        (f"{GRAPHQL};q=0, */*;q=0.1", "application/json"),
        (f"{GRAPHQL};charset=utf-16;q=1, */*;q=0.1", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("text/csv, " * 100 + GRAPHQL, GRAPHQL),
    ],
)
async def test_responds_with_the_preferred_media_type(gateway: Gateway, accept: str, media_type: str) -> None:
    response = await post(gateway, json.dumps({"query": QUERY}), Accept=accept)

    assert (response.status_code, response.json()) == (200, ANSWER)
    assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
    assert response.headers["vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    "accept",
    [
        "text/csv",
        "text/html",
        "text/*",
        "application/json;q=0",
        "*/*;q=0",
        "application/json;q=nan",
        "application/json;charset=latin-1",
    ],
)
async def test_refuses_a_client_that_accepts_no_offered_media_type(gateway: Gateway, accept: str) -> None:
    response = await post(gateway, json.dumps({"query": QUERY}), Accept=accept)

    assert refused(response) == (406, ["BAD_REQUEST"])
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b"true",
        b'"{ __typename }"',
        b"[]",
        b'[{"query": "{ __typename }"}]',
        b"{}",
        b'{"query": null}',
        b'{"query": ""}',
        b'{"query": 1}',
        b'{"query": "{ __typename }"',
        b'{"query": "{ __typename }"} {}',
        b'{"query": "{ __typename }", "variables": []}',
        b'{"query": "{ __typename }", "variables": "{}"}',
        b'{"query": "{ __typename }", "extensions": 1}',
        b'{"query": "{ __typename }", "operationName": {}}',
        b'{"query": "\xff"}',
        b'{"query": "\\ud800"}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"query": "{ __typename }"}',
        '{"query": "{ __typename }"}'.encode("utf-16"),
        f'{{"query": "{{ __typename }}", "variables": {{"a": {DIGITS}}}}}'.encode(),
        f'{{"query": "{{ __typename }}", "variables": {{"a": -{DIGITS}.5e{DIGITS}}}}}'.encode(),
        b'{"query": "{ __typename }", "variables": {"a": NaN}}',
        b'{"variables": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_refuses_a_body_that_is_no_request(gateway: Gateway, body: bytes) -> None:
    response = await post(gateway, body)

    assert refused(response) == (400, ["BAD_REQUEST"])


@pytest.mark.parametrize(
    "query_string",
    [
        "",
        "query=",
        "query=%FF",
        "query=%ED%A0%80",
        "query={__typename}&query={__typename}",
        "query={__typename}&variables=[]",
        "query={__typename}&variables={",
        "query={__typename}&extensions=1",
        "&".join(f"a{number}=1" for number in range(101)),
    ],
)
async def test_refuses_a_query_string_that_is_no_request(gateway: Gateway, query_string: str) -> None:
    response = await gateway.http.get(f"/graphql?{query_string}", headers=SAFE)

    assert refused(response) == (400, ["BAD_REQUEST"])


async def test_refuses_a_query_string_too_long(gateway: Gateway) -> None:
    response = await gateway.http.get("/graphql", params={"query": "#" * MAX_QUERY_STRING}, headers=SAFE)

    assert refused(response) == (414, ["BAD_REQUEST"])


@pytest.mark.parametrize("name", [None, "C"])
@pytest.mark.parametrize("accept", [GRAPHQL, "application/json"])
async def test_asks_which_of_several_operations(gateway: Gateway, name: str | None, accept: str) -> None:
    body = {"query": "query A { __typename } query B { __typename }", "operationName": name}

    response = await post(gateway, json.dumps(body), Accept=accept)

    assert refused(response) == (400, ["BAD_REQUEST"])


async def test_refuses_variables_that_do_not_fit_by_the_media_type(gateway: Gateway) -> None:
    body = json.dumps({"query": "query Q($id: ID!) { agent(id: $id) { id } }"})

    answers = [await post(gateway, body, Accept=accept) for accept in ("application/json", GRAPHQL)]

    assert [refused(answer) for answer in answers] == [(200, ["BAD_USER_INPUT"]), (400, ["BAD_USER_INPUT"])]


async def test_refuses_a_body_with_a_content_length_too_large() -> None:
    async with open_gateway(settings={"max_body_bytes": "1024"}) as gateway:
        response = await post(gateway, b" " * 1025)

    assert refused(response) == (413, ["BAD_REQUEST"])
    assert response.headers["connection"] == "close"


async def test_stops_reading_a_body_that_grows_too_large() -> None:
    sent = []

    async def endless() -> AsyncIterator[bytes]:
        for number in range(100):
            sent.append(number)
            yield b" " * 512

    async with open_gateway(settings={"max_body_bytes": "1024"}) as gateway:
        response = await gateway.http.post("/graphql", content=endless(), headers=JSON_TYPE)

    assert refused(response) == (413, ["BAD_REQUEST"])
    assert len(sent) == 3


async def test_a_body_that_arrives_too_slowly_times_out() -> None:
    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with open_gateway(settings={"body_timeout": "0.01"}) as gateway:
        response = await gateway.http.post("/graphql", content=dribble(), headers=JSON_TYPE)

    assert refused(response) == (408, ["BAD_REQUEST"])
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("messages", [[], [{"type": "http.request", "body": b"{", "more_body": True}]])
async def test_sends_no_response_after_a_disconnect_in_the_body(
    gateway: Gateway, messages: list[dict[str, Any]]
) -> None:
    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": [(b"content-type", b"application/json")]}

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway.http._transport.app(scope, receive, send)  # type: ignore[attr-defined]

    assert sent == []


async def test_shows_graphiql_to_browsers_alone(gateway: Gateway) -> None:
    browser = await gateway.http.get("/graphql", headers={"Accept": "text/html,application/xml;q=0.9,*/*;q=0.8"})
    async with open_gateway(settings={"graphiql": "false"}) as plain:
        without = await plain.http.get("/graphql", headers={"Accept": "text/html"})

    assert (browser.status_code, browser.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert refused(without) == (406, ["BAD_REQUEST"])
