"""Security over HTTP: CSRF, CORS, API keys, security headers, request ids."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from gateway.app import create_app
from gateway.settings import SettingsError, load
from tests.harness import UPSTREAM, Gateway, errors_of, open_gateway

QUERY = "{ __typename }"
ANSWER = {"data": {"__typename": "Query"}}
AGENTS = "{ agents(first: 1) { totalCount } }"
FIRST_PAGE = "GET /agents?page=1&limit=1"
GUARDS = {
    "cache-control": "private, no-store",
    "referrer-policy": "no-referrer",
    "vary": "Accept, Accept-Encoding",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
ORIGIN = "https://app.example.com"
ASKING = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


async def get(gateway: Gateway, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.get("/graphql", params={"query": QUERY}, headers=sent)


@pytest.mark.parametrize(
    "headers",
    [
        {"X_API_Key": "demo"},
        {"Apollo_Require_Preflight": "true"},
        {"GraphQL_Require_Preflight": "1"},
        {"X_Requested_With": "XMLHttpRequest"},
        {"Content_Type": "application/json"},
        {"Content_Type": "application/graphql-response+json; charset=utf-8"},
        {"Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Site": "same-origin"},
    ],
)
async def test_executes_a_get_that_other_origins_cannot_send(gateway: Gateway, headers: dict[str, str]) -> None:
    response = await get(gateway, **headers)

    assert (response.status_code, response.json()) == (200, ANSWER)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Accept": "application/graphql-response+json"},
        {"X_API_Key": ""},
        {"Content_Type": ""},
        {"Content_Type": "nonsense"},
        {"Content_Type": "text/plain;application/json"},
        {"Content_Type": "Text/Plain; charset=utf-8"},
        {"Content_Type": "text/plain, application/json"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "multipart/form-data; boundary=x"},
        {"Origin": "https://evil.example"},
        {"Sec_Fetch_Mode": "cors", "Origin": "https://evil.example"},
        {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Mode": "navigate"},
    ],
)
async def test_refuses_a_get_that_any_page_can_send(gateway: Gateway, headers: dict[str, str]) -> None:
    response = await get(gateway, **headers)

    assert response.status_code == 400
    assert errors_of(response.json()) == [("BAD_REQUEST", None)]
    assert "data" not in response.json()


async def test_allows_no_other_origin_by_default(gateway: Gateway) -> None:
    preflight = await gateway.http.options("/graphql", headers=ASKING)
    answer = await get(gateway, X_API_Key="demo", Origin=ORIGIN)

    assert [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")] == []


@pytest.mark.parametrize(("setting", "allowed"), [(f"https://x.example, {ORIGIN}", ORIGIN), ("*", "*")])
async def test_allows_the_origins_of_the_settings(setting: str, allowed: str) -> None:
    async with open_gateway(settings={"cors_origins": setting}) as gateway:
        preflight = await gateway.http.options("/graphql", headers=ASKING)
        answer = await get(gateway, X_API_Key="demo", Origin=ORIGIN)

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == answer.headers["access-control-allow-origin"] == allowed
    assert preflight.headers["access-control-max-age"] == "7200"
    assert preflight.headers["access-control-allow-headers"] == "x-api-key"
    assert preflight.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["access-control-expose-headers"] == "X-Request-Id"
    assert "access-control-allow-credentials" not in (*preflight.headers, *answer.headers)


async def test_refuses_origins_outside_the_settings() -> None:
    async with open_gateway(settings={"cors_origins": ORIGIN}) as gateway:
        preflight = await gateway.http.options("/graphql", headers=ASKING | {"Origin": "https://evil.example"})
        answer = await get(gateway, X_API_Key="demo", Origin="https://evil.example")

    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in (*preflight.headers, *answer.headers)
    assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"cors_origins": "https://app.example.com/"}, "must be an origin"),
        ({"cors_origins": "app.example.com"}, "must be an origin"),
        ({"cors_origins": "null"}, "must be an origin"),
        ({"cors_origins": f"{ORIGIN}, https://*.example.com"}, "must be an origin"),
        ({"cors_origins": "*", "upstream_api_key": "secret"}, "may not be *"),
    ],
)
def test_refuses_settings_that_allow_every_origin(values: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load({}, values)

    assert "GATEWAY_CORS_ORIGINS" in str(refusal.value)
    assert problem in str(refusal.value)


@pytest.mark.parametrize("key", ["x" * 257, "with space", "tab\tbed", "caf\xe9", "del\x7f", "nul\x00", "new\nline"])
async def test_refuses_an_invalid_key_without_a_rest_call(gateway: Gateway, key: str) -> None:
    headers = {b"X-API-Key": key.encode("latin-1"), b"Content-Type": b"application/json"}

    response = await gateway.http.post("/graphql", content=json.dumps({"query": AGENTS}), headers=headers)

    assert (response.status_code, errors_of(response.json())) == (400, [("BAD_REQUEST", None)])
    assert gateway.calls == []
    assert key not in response.text


@pytest.mark.parametrize("keys", [("demo", "demo-2"), ("demo", "demo"), ("demo", ""), ("", "demo"), ("", "")], ids=repr)
async def test_refuses_two_keys_without_a_rest_call(gateway: Gateway, keys: tuple[str, str]) -> None:
    headers = [("X-API-Key", key) for key in keys]

    response = await gateway.http.post("/graphql", json={"query": AGENTS}, headers=headers)

    assert (response.status_code, errors_of(response.json())) == (400, [("BAD_REQUEST", None)])
    assert gateway.calls == []


async def test_forwards_the_longest_key_as_it_came(gateway: Gateway) -> None:
    key = "~" + "k" * 254 + "!"

    await gateway.ask(AGENTS, key=f" {key} ")

    assert [request.headers["x-api-key"] for request in gateway.upstream.requests] == [key]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/graphql", 415),
        ("PUT", "/graphql", 405),
        ("GET", "/graphql?query={__typename}", 400),
        ("GET", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/graphql/", 404),
        ("GET", "/%2e%2e/graphql", 404),
        ("GET", "/" + "x" * 9000, 404),
    ],
)
async def test_every_response_has_the_security_headers(gateway: Gateway, method: str, path: str, status: int) -> None:
    response = await gateway.http.request(method, path, headers={"X-Request-Id": "mine-1"})

    assert response.status_code == status
    assert GUARDS.items() <= response.headers.items()
    assert response.headers["x-request-id"] == "mine-1"
    assert "server" not in response.headers
    assert status == 200 or errors_of(response.json()) == [("BAD_REQUEST", None)]


async def test_an_internal_error_has_the_security_headers() -> None:
    async def broken(_: object) -> None:
        raise OSError("secret")

    app = create_app(load({}, {"upstream_url": UPSTREAM}), routes=[Route("/broken", broken)])
    door = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=door, base_url="http://gateway") as http:
        response = await http.get("/broken")

    assert (response.status_code, errors_of(response.json())) == (500, [("INTERNAL_SERVER_ERROR", None)])
    assert GUARDS.items() <= response.headers.items()
    assert len(response.headers["x-request-id"]) == 32
    assert "secret" not in response.text


async def test_graphiql_cannot_be_framed(gateway: Gateway) -> None:
    response = await gateway.http.get("/graphql", headers={"Accept": "text/html"})

    assert GUARDS.items() <= response.headers.items()
    assert response.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "ü", '"quoted"'])
async def test_replaces_an_invalid_request_id(gateway: Gateway, given: str) -> None:
    headers = {b"X-Request-Id": given.encode(), b"Content-Type": b"application/json"}

    response = await gateway.http.post("/graphql", content=json.dumps({"query": QUERY}), headers=headers)

    assert len(response.headers["x-request-id"]) == 32


async def test_opens_no_websocket(gateway: Gateway) -> None:
    sent: list[Any] = []
    scope = {"type": "websocket", "path": "/graphql", "headers": [], "root_path": "", "query_string": b""}

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway.http._transport.app(scope, receive, send)  # type: ignore[attr-defined]

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_sends_no_response_after_a_disconnect(gateway: Gateway) -> None:
    calling, going_on = asyncio.Event(), asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps({"query": AGENTS}).encode()}]
    headers = [(b"content-type", b"application/json"), (b"x-api-key", b"demo")]

    async def hang(_: httpx.Request) -> httpx.Response:
        calling.set()
        await going_on.wait()
        return httpx.Response(500)

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await calling.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    gateway.upstream.play("GET .*", hang)
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers}
    await gateway.http._transport.app(scope, receive, send)  # type: ignore[attr-defined]
    going_on.set()

    assert gateway.calls == [FIRST_PAGE]
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
