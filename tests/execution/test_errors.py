"""What a caller is told when the REST API, the gateway or the network fails, and what it is never told."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from graphql import GraphQLError

from gateway.demo.rest_api import sample_workspace
from gateway.execution.errors import INTERNAL, MAX_FIELD_ERRORS, MAX_LOGGED, field_error, field_errors
from gateway.execution.places import FailedFields
from gateway.upstream.errors import NotFound
from tests.harness import Fault, Gateway, capture_logs, errors_of, open_gateway

KEY = "demo"
LIST = "{ agents(first: 5) { totalCount } }"
LIST_CALL = "GET /agents?page=1&limit=5"
DELETE = 'mutation { deletePhoneNumber(id: "n1") { deletedPhoneNumberId } }'
DOUBT = "The change may have been made: read it before you try again."
SECRET = "s3cret-detail"
IDS = {"X-Request-Id": "req_7"}

STATUSES = [
    (400, "BAD_USER_INPUT"),
    (401, "UNAUTHENTICATED"),
    (402, "PAYMENT_REQUIRED"),
    (403, "FORBIDDEN"),
    (404, "NOT_FOUND"),
    (405, "UPSTREAM_ERROR"),
    (409, "CONFLICT"),
    (418, "UPSTREAM_ERROR"),
    (422, "BAD_USER_INPUT"),
    (429, "RATE_LIMITED"),
    (500, "UPSTREAM_ERROR"),
    (501, "UPSTREAM_ERROR"),
    (502, "UPSTREAM_UNAVAILABLE"),
    (503, "UPSTREAM_UNAVAILABLE"),
    (504, "UPSTREAM_UNAVAILABLE"),
]
statuses = pytest.mark.parametrize(("status", "code"), STATUSES)


async def failure(gateway: Gateway, fault: Fault, query: str = LIST, call: str = ".*") -> dict[str, Any]:
    """Let a call fail, and return the one error that comes of it."""
    gateway.upstream.play(call, fault)
    answer = await gateway.ask(query)
    assert list(answer["data"].values()) == [None]
    (error,) = answer["errors"]
    assert error["path"] == list(answer["data"])
    assert SECRET not in json.dumps(answer)
    return dict(error)


@statuses
async def test_tells_each_status_with_the_first_json_body_by_its_code(gateway: Gateway, status: int, code: str) -> None:
    body = {"error": {"message": "Told by the upstream", "code": "ITS_CODE"}}

    error = await failure(gateway, httpx.Response(status, json=body, headers=IDS))

    told = {"code": "ITS_CODE"} if status < 500 else {}
    assert error["extensions"]["code"] == code
    assert error["extensions"]["upstream"] == {"status": status, **told, "requestId": "req_7"}
    assert (error["message"] == "Told by the upstream") is (status < 500)
    assert gateway.calls == [LIST_CALL]


@statuses
async def test_tells_each_status_with_the_second_json_body_by_its_code(
    gateway: Gateway, status: int, code: str
) -> None:
    fields = {"status": ["Must be known"]}
    body = {"error": "Invalid query", "details": {"formErrors": ["One", "Two"], "fieldErrors": fields}}

    error = await failure(gateway, httpx.Response(status, json=body))

    assert error["extensions"]["code"] == code
    assert error["extensions"]["upstream"] == {"status": status}
    assert (error["message"] == "Invalid query: One; Two") is (status < 500)
    assert error["extensions"].get("fieldErrors") == (fields if status < 500 else None)


@pytest.mark.parametrize(
    ("details", "message", "fields"),
    [
        ({"formErrors": [], "fieldErrors": {"status": "taken"}}, "Bad", {"status": ["taken"]}),
        ({"formErrors": "One", "fieldErrors": {"status": None, "name": ["a", 1]}}, "Bad: One", {"name": ["a"]}),
        ({"formErrors": None, "fieldErrors": None}, "Bad", None),
        ({"fieldErrors": ["status"]}, "Bad", None),
        (["status"], "Bad", None),
        ("status", "Bad", None),
    ],
)
async def test_details_of_another_shape_leave_the_message_as_it_is(
    gateway: Gateway, details: Any, message: str, fields: Any
) -> None:
    error = await failure(gateway, httpx.Response(400, json={"error": "Bad", "details": details}))

    assert error["message"] == message
    assert error["extensions"].get("fieldErrors") == fields


@statuses
@pytest.mark.parametrize(
    "body",
    [
        f"<html>{SECRET}</html>".encode(),
        b"",
        f'{{"error": {{"message": "{SECRET}'.encode(),
        f'{{"message": "{SECRET}"}}'.encode(),
        f'["{SECRET}"]'.encode(),
        f'{{"error": ["{SECRET}"]}}'.encode(),
        b'{"error": "\xff\xfe"}',
        b'{"error": {"message": "a", "x": ' + b"[" * 100_000,
        b"null",
    ],
    ids=["html", "empty", "truncated", "other", "array", "odd", "latin", "deep", "null"],
)
async def test_tells_each_status_whose_body_is_unreadable_in_its_own_words(
    gateway: Gateway, status: int, code: str, body: bytes
) -> None:
    error = await failure(gateway, httpx.Response(status, content=body, headers=IDS))

    assert error["extensions"]["code"] == code
    assert error["extensions"]["upstream"] == {"status": status, "requestId": "req_7"}
    assert error["message"].startswith("The upstream ")


async def test_passes_on_no_more_than_500_characters(gateway: Gateway) -> None:
    body = {"error": {"message": "m" * 501, "code": "C" * 200}}

    error = await failure(gateway, httpx.Response(400, json=body, headers={"X-Request-Id": "r" * 200}))

    assert error["message"] == "m" * 500
    assert error["extensions"]["upstream"] == {"status": 400, "code": "C" * 100, "requestId": "r" * 100}


async def test_passes_on_no_more_field_errors_than_anybody_reads(gateway: Gateway) -> None:
    fields = {f"{n}" * 200: ["m" * 500] * 10 for n in range(10, 100)}
    body = {"error": "Invalid", "details": {"fieldErrors": fields}}

    error = await failure(gateway, httpx.Response(422, json=body))

    assert error["extensions"]["fieldErrors"] == {f"{n}" * 50: ["m" * 200] * 3 for n in range(10, 20)}


@pytest.mark.parametrize(
    ("fault", "code", "calls"),
    [
        (httpx.ConnectError(SECRET), "UPSTREAM_UNAVAILABLE", 2),
        (httpx.ConnectTimeout(SECRET), "UPSTREAM_TIMEOUT", 1),
        (httpx.ReadTimeout(SECRET), "UPSTREAM_TIMEOUT", 1),
        (OSError(SECRET), "UPSTREAM_UNAVAILABLE", 2),
    ],
)
async def test_tells_a_network_that_fails_without_its_words(
    gateway: Gateway, fault: Exception, code: str, calls: int
) -> None:
    error = await failure(gateway, fault)

    assert error["extensions"] == {"code": code}
    assert gateway.calls == [LIST_CALL] * calls


async def test_one_nested_load_that_fails_leaves_the_others_and_names_its_path() -> None:
    space = sample_workspace(agents=4, numbers=500)
    async with open_gateway(workspaces={KEY: space}) as gateway:
        gateway.upstream.play(f"GET /agents/{list(space.agents)[2]}/numbers", httpx.Response(500))

        answer = await gateway.ask("{ agents { nodes { numbers { id } } } }")

    assert errors_of(answer) == [("UPSTREAM_ERROR", ["agents", "nodes", 2, "numbers"])]
    numbers = [node["numbers"] for node in answer["data"]["agents"]["nodes"]]
    assert [own and len(own) for own in numbers] == [125, 100, None, 100]


async def test_one_root_field_that_fails_leaves_the_others(gateway: Gateway) -> None:
    gateway.upstream.play("GET /numbers.*", httpx.Response(403))

    answer = await gateway.ask("{ agents(first: 5) { totalCount } phoneNumbers(first: 5) { totalCount } }")

    assert answer["data"] == {"agents": {"totalCount": 12}, "phoneNumbers": None}
    assert errors_of(answer) == [("FORBIDDEN", ["phoneNumbers"])]


async def test_a_read_answers_null_where_the_upstream_finds_nothing_and_a_write_an_error(gateway: Gateway) -> None:
    read = await gateway.ask('{ phoneNumber(id: "n1") { id } }')

    error = (await gateway.ask(DELETE))["errors"][0]

    assert (read["data"], "errors" in read) == ({"phoneNumber": None}, False)
    assert error["message"] == "Phone number not found"
    assert error["extensions"]["upstream"]["code"] == "NOT_FOUND"
    assert gateway.calls == ["GET /numbers/n1", "DELETE /numbers/n1"]


async def test_tells_when_to_try_again_after_a_429(gateway: Gateway) -> None:
    headers = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "0"}
    headers["X-RateLimit-Reset"] = str(int(gateway.clock.now) + 90)

    error = await failure(gateway, httpx.Response(429, headers=headers))

    assert error["extensions"]["retryAfter"] == 90
    assert gateway.calls == [LIST_CALL]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (httpx.ReadError(SECRET), "UPSTREAM_UNAVAILABLE"),
        (httpx.ReadTimeout(SECRET), "UPSTREAM_TIMEOUT"),
        (httpx.Response(500), "UPSTREAM_ERROR"),
        (httpx.Response(503), "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_says_of_a_write_in_doubt_that_it_may_have_been_made_and_never_repeats_it(
    gateway: Gateway, fault: Fault, code: str
) -> None:
    error = await failure(gateway, fault, DELETE)

    assert error["extensions"]["code"] == code
    assert error["message"].endswith(f"try again later. {DOUBT}")
    assert gateway.calls == ["DELETE /numbers/n1"]


@pytest.mark.parametrize("fault", [httpx.ConnectError(SECRET), httpx.Response(409)])
async def test_raises_no_doubt_about_a_write_that_was_not_made(gateway: Gateway, fault: Fault) -> None:
    error = await failure(gateway, fault, DELETE)

    assert DOUBT not in error["message"]
    assert gateway.calls == ["DELETE /numbers/n1"]


async def test_says_of_a_write_whose_answer_is_unreadable_that_it_may_have_been_made(gateway: Gateway) -> None:
    query = 'mutation { updatePhoneNumber(id: "n1", input: {friendlyName: "a"}) { phoneNumber { id } } }'

    error = await failure(gateway, httpx.Response(200, content=b"done"), query)

    assert error["extensions"]["code"] == "UPSTREAM_ERROR"
    assert error["message"].endswith(DOUBT)


async def test_masks_what_it_did_not_expect_and_logs_it(gateway: Gateway) -> None:
    unexpected = RuntimeError(SECRET)

    with capture_logs() as logs:
        error = await failure(gateway, unexpected)

    assert (error["message"], error["extensions"]) == (INTERNAL, {"code": "INTERNAL_SERVER_ERROR"})
    (failed,) = [line for line in logs if line["event"] == "field_failed"]
    assert (failed["log_level"], failed["exc_info"], failed["path"]) == ("error", unexpected, ["agents"])


async def test_tells_a_deadline_that_passes() -> None:
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with open_gateway(settings={"deadline": "0.05"}) as gateway:
        error = await failure(gateway, never)

    assert error["extensions"] == {"code": "UPSTREAM_TIMEOUT"}
    assert error["message"] == "The operation took longer than 0.05 s; ask for less at once."


@pytest.mark.parametrize(
    ("query", "variables", "path"),
    [
        ("query($n: Int!) { agents(first: $n) { totalCount } }", {"n": "many"}, None),
        ("query($n: Int!) { agents(first: $n) { totalCount } }", {"n": "9" * 100_000}, None),
        ("query($n: Int!) { agents(first: $n) { totalCount } }", {}, None),
        ("query($n: Int) { agents(first: $n) { totalCount } }", {"n": None}, ["agents"]),
        ("query($s: AgentStatus) { agents(status: $s) { totalCount } }", {"s": "ASLEEP"}, None),
        (
            "mutation($i: UpdatePhoneNumberInput!) { updatePhoneNumber(id: 1, input: $i) { __typename } }",
            {"i": 1},
            None,
        ),
    ],
)
async def test_tells_variables_that_do_not_fit_as_the_callers_mistake(
    gateway: Gateway, query: str, variables: dict[str, Any], path: list[str] | None
) -> None:
    with capture_logs() as logs:
        answer = await gateway.ask(query, variables)

    assert errors_of(answer) == [("BAD_USER_INPUT", path)]
    assert 10 < len(answer["errors"][0]["message"]) <= 200
    assert [line["log_level"] for line in logs] == ["info"]
    assert gateway.calls == []


def test_masks_a_value_of_our_own_that_does_not_fit_the_schema() -> None:
    cause = GraphQLError(f"String cannot represent value: {SECRET}")

    with capture_logs() as logs:
        error = field_error(GraphQLError(cause.message, path=["agents"], original_error=cause))

    assert (error["message"], error["extensions"]) == (INTERNAL, {"code": "INTERNAL_SERVER_ERROR"})
    assert [line["event"] for line in logs] == ["field_failed"]


def test_keeps_as_many_failures_of_a_field_as_errors_are_sent() -> None:
    child: Any = SimpleNamespace(nodes=[])
    rows: Any = [object() for _ in range(MAX_FIELD_ERRORS + 1)]

    nulls = FailedFields().nulls(child, rows, [NotFound("none")] * len(rows), [])

    assert nulls == [None] * len(rows)


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_counts_the_rest_of_many_errors_where_null_must_not_be(compiled: str) -> None:
    settings = {"max_aliases": "200", "max_root_fields": "200", "max_rest_calls": "200", "compiled": compiled}
    aliases = " ".join(f'a{i}: agent(id: "a{i}") {{ name }}' for i in range(MAX_FIELD_ERRORS + 5))
    async with open_gateway(settings=settings) as gateway:
        gateway.upstream.play("GET /agents/.*", nameless)
        gateway.upstream.play(r"GET /agents\?.*", httpx.Response(500))
        answer = await gateway.ask(f"{{ {aliases} }}")

    assert set(answer["data"].values()) == {None}
    assert [code for code, _ in errors_of(answer)] == ["UPSTREAM_ERROR"] * (MAX_FIELD_ERRORS + 1)
    assert answer["errors"][-1]["message"].startswith("5 more errors")


async def nameless(request: httpx.Request) -> httpx.Response:
    id_ = request.url.path.rpartition("/")[2]
    body = {"id": id_, "status": "ACTIVE", "type": "custom", "createdAt": "1", "updatedAt": "2"}
    return httpx.Response(200, json=body)


def test_tells_of_five_errors_of_no_field_and_logs_five_of_ours() -> None:
    broken = [GraphQLError(SECRET, path=["other", n], original_error=ValueError(SECRET)) for n in range(100)]
    refused = [GraphQLError(f"Variable ${n} does not fit") for n in range(50)]

    with capture_logs() as logs:
        errors = field_errors([*broken, *refused])

    assert [error["extensions"]["code"] for error in errors] == [
        *["INTERNAL_SERVER_ERROR"] * 100,
        *["BAD_USER_INPUT"] * 5,
    ]
    assert len(logs) == MAX_LOGGED


async def test_a_key_that_the_upstream_repeats_is_hidden(gateway: Gateway) -> None:
    body = {"error": {"message": "Key sk-live-12345678 is revoked", "code": "UNAUTHORIZED"}}
    gateway.upstream.play("GET .*", httpx.Response(401, json=body))

    answer = await gateway.ask("{ agents { totalCount } }", key="sk-live-12345678")

    assert answer["errors"][0]["message"] == "Key *** is revoked"


LEAK = "sk-live/12345678"
LEAKING: dict[str, Any] = {
    "message": {"error": {"message": f"No {LEAK}"}},
    "message with escapes": f'{{"error": "{LEAK}"}}'.replace("/", "\\/").replace("live", "\\u006cive"),
    "message that is cut": {"error": "x" * 495 + LEAK},
    "code": {"error": {"message": "No", "code": LEAK}},
    "code that is cut": {"error": {"message": "No", "code": "x" * 95 + LEAK}},
    "problems of the form": {"error": "No", "details": {"formErrors": [LEAK]}},
    "name of a field": {"error": "No", "details": {"fieldErrors": {LEAK: ["No"]}}},
    "problem of a field": {"error": "No", "details": {"fieldErrors": {"name": ["No", f"{LEAK}{LEAK}"]}}},
    "no JSON": f"<html>{LEAK}",
}


@pytest.mark.parametrize("body", LEAKING.values(), ids=LEAKING)
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500, 503])
async def test_a_key_that_the_upstream_repeats_is_hidden_wherever_it_stands(
    gateway: Gateway, body: Any, status: int
) -> None:
    headers = {"X-Request-Id": "x" * 95 + LEAK, "Retry-After": LEAK, "X-RateLimit-Limit": LEAK}
    text = body if isinstance(body, str) else json.dumps(body)
    gateway.upstream.play("(GET|DELETE) .*", httpx.Response(status, text=text, headers=headers))

    with capture_logs() as logs:
        answers = [await gateway.ask(query, key=LEAK) for query in (LIST, DELETE)]

    told = json.dumps([answers, logs], default=str)
    assert answers[0]["errors"][0]["extensions"]["upstream"]["requestId"] == "x" * 95 + "***"
    assert LEAK[:5] not in told


async def test_an_answer_of_the_wrong_shape_says_which_answer_it_was(gateway: Gateway) -> None:
    gateway.upstream.play("GET .*", httpx.Response(200, json={}, headers={"X-Request-Id": "req-7"}))

    answer = await gateway.ask("{ agents { totalCount } }")

    assert answer["errors"][0]["extensions"] == {
        "code": "UPSTREAM_ERROR",
        "upstream": {"status": 200, "requestId": "req-7"},
    }
