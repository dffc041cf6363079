"""Attempts over real connections that break: retried or not, counted or not; the error for each status."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.settings import load
from gateway.upstream import errors
from gateway.upstream.attempt import MAX_MESSAGE, Response, error_for
from gateway.upstream.tls import add_missing_authorities
from tests.harness import capture_logs, errors_of, spent
from tests.raw_upstream import answer, raw_upstream

BODY = b'{"id": "a1", "name": "A", "status": "ACTIVE", "type": "custom", "createdAt": "1", "updatedAt": "2"}'
AGENT = answer(BODY)
ASSIGN = 'mutation { assignPhoneNumber(input: {phoneNumber: "+4930123456", agentId: "a1"}) { phoneNumber { id } } }'
Ask = Callable[[str], Awaitable[dict[str, Any]]]
ALONE = """
import asyncio, sys, httpx
from gateway.upstream.attempt import HttpClient
from gateway.upstream.transport.base import Request
from gateway.settings import Settings
async def main():
    for transport in (None, httpx.AsyncHTTPTransport()):
        client = HttpClient(Settings(upstream_url=sys.argv[1]), transport)
        print((await client.attempt(Request("GET", "/agents", {}))).status)
        await client.aclose()
asyncio.run(main())
"""


@pytest.fixture(params=["built-in", "httpx"])
def transport(request: pytest.FixtureRequest) -> httpx.AsyncBaseTransport | None:
    return None if request.param == "built-in" else httpx.AsyncHTTPTransport()


@asynccontextmanager
async def open_gateway(url: str, transport: httpx.AsyncBaseTransport | None, **settings: str) -> AsyncIterator[Ask]:
    """Start a gateway on a REST API of real sockets."""
    app = create_app(load({}, {"upstream_url": url, **settings}), transport=transport)
    door = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=door, base_url="http://gateway") as http:

        async def ask(query: str) -> dict[str, Any]:
            response = await http.post("/graphql", json={"query": query}, headers={"X-API-Key": "demo"})
            answered: dict[str, Any] = response.json()
            return answered

        yield ask


async def test_a_get_on_a_stale_connection_is_sent_once_more(transport: httpx.AsyncBaseTransport | None) -> None:
    async with raw_upstream() as upstream, open_gateway(upstream.url, transport) as ask:
        upstream.play((AGENT, "keep"), (b"", "close"), (answer(BODY.replace(b"a1", b"a2")), "keep"))
        await ask('{ agent(id: "a1") { name } }')

        told = await ask('{ agent(id: "a2") { name } }')

    assert told["data"] == {"agent": {"name": "A"}}
    assert upstream.calls == ["GET /agents/a1", "GET /agents/a2", "GET /agents/a2"]
    assert spent(told) == 2


async def test_a_get_whose_connection_fails_twice_is_given_up(transport: httpx.AsyncBaseTransport | None) -> None:
    async with raw_upstream() as upstream, open_gateway(upstream.url, transport) as ask:
        upstream.play((b"", "close"))

        told = await ask('{ agent(id: "a1") { name } }')

    assert errors_of(told) == [("UPSTREAM_UNAVAILABLE", ["agent"])]
    assert upstream.calls == ["GET /agents/a1", "GET /agents/a1"]
    assert spent(told) == 2


async def test_a_post_is_never_sent_twice(transport: httpx.AsyncBaseTransport | None) -> None:
    async with raw_upstream() as upstream, open_gateway(upstream.url, transport) as ask:
        upstream.play((AGENT, "keep"), (b"", "close"), (AGENT, "keep"))
        await ask('{ agent(id: "a1") { name } }')

        told = await ask(ASSIGN)

    assert errors_of(told) == [("UPSTREAM_UNAVAILABLE", ["assignPhoneNumber"])]
    assert upstream.calls == ["GET /agents/a1", "POST /numbers"]
    assert spent(told) == 1


async def test_an_unreadable_answer_is_not_asked_for_again(transport: httpx.AsyncBaseTransport | None) -> None:
    async with raw_upstream() as upstream, open_gateway(upstream.url, transport) as ask:
        upstream.play((b"BLA BLA\r\n\r\n", "close"))

        told = await ask('{ agent(id: "a1") { name } }')

    assert errors_of(told) == [("UPSTREAM_ERROR", ["agent"])]
    assert upstream.calls == ["GET /agents/a1"]
    assert spent(told) == 1


async def test_a_call_that_was_never_sent_costs_nothing(transport: httpx.AsyncBaseTransport | None) -> None:
    async with open_gateway("http://nobody.invalid", transport) as ask:
        told = await ask('{ agent(id: "a1") { name } }')

    assert errors_of(told) == [("UPSTREAM_UNAVAILABLE", ["agent"])]
    assert spent(told) == 0


async def test_what_waited_for_a_connection_till_the_deadline_costs_nothing(
    transport: httpx.AsyncBaseTransport | None,
) -> None:
    query = "{" + " ".join(f'a{i}: agent(id: "a{i}") {{ name }}' for i in range(2)) + "}"
    async with (
        raw_upstream() as upstream,
        open_gateway(upstream.url, transport, upstream_connections="1", deadline="0.1") as ask,
    ):
        upstream.play((b"", "hang"))

        told = await ask(query)

    assert [code for code, _ in errors_of(told)] == ["UPSTREAM_TIMEOUT"] * 2
    assert spent(told) == len(upstream.requests) == 1


async def test_proxies_of_the_environment_are_not_used() -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9")
    async with raw_upstream() as upstream:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ALONE, upstream.url, env={**os.environ, **proxies}, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await child.communicate()

    assert told.split() == [b"200", b"200"]
    assert len(upstream.requests) == 2


def test_a_system_without_certificates_gets_certifis(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    with capture_logs() as logs:
        add_missing_authorities(context, str(tmp_path))
        add_missing_authorities(context, None)

    assert context.cert_store_stats()["x509_ca"] > 50
    assert [line["event"] for line in logs] == ["no_system_certificates"]


def test_a_directory_of_certificates_is_believed(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (tmp_path / "5ad8a5d6.0").touch()

    with capture_logs() as logs:
        add_missing_authorities(context, str(tmp_path))

    assert context.cert_store_stats()["x509_ca"] == 0
    assert logs == []


NESTED = b'{"error": {"message": "No such agent", "code": "NOT_FOUND"}}'
FLAT = b'{"error": "Invalid body", "details": {"formErrors": ["a", "b"], "fieldErrors": {"name": ["too long"]}}}'
STATUSES: list[tuple[int, bytes, type[errors.UpstreamError], str]] = [
    (302, b"", errors.BadResponse, "The upstream answered with status 302, which is not followed."),
    (400, FLAT, errors.BadInput, "Invalid body: a; b"),
    (401, b"", errors.Unauthenticated, "The upstream refused the call with status 401."),
    (402, b"<html>", errors.PaymentRequired, "The upstream refused the call with status 402."),
    (403, b"[" * 100_000, errors.Forbidden, "The upstream refused the call with status 403."),
    (404, NESTED, errors.NotFound, "No such agent"),
    (409, b'{"error": "\xff"}', errors.Conflict, "The upstream refused the call with status 409."),
    (418, b'{"error": "teapot"}', errors.Rejected, "teapot"),
    (422, b'{"error": "' + b"x" * 600 + b'"}', errors.BadInput, "x" * MAX_MESSAGE),
    (429, b'{"error": "slow", "details": {}}', errors.RateLimited, "slow"),
    (500, NESTED, errors.BadResponse, "The upstream failed with status 500; try again later."),
    (502, b"", errors.Unavailable, "The upstream is not available at the moment; try again later."),
    (503, NESTED, errors.Unavailable, "The upstream is not available at the moment; try again later."),
]


@pytest.mark.parametrize(("status", "body", "kind", "message"), STATUSES, ids=[str(row[0]) for row in STATUSES])
def test_a_status_becomes_its_exception(
    status: int, body: bytes, kind: type[errors.UpstreamError], message: str
) -> None:
    error = error_for(Response(status, {"x-request-id": "r" * 200}, body))

    assert (type(error), str(error)) == (kind, message)
    assert error.response
    assert (error.response.status, error.response.request_id) == (status, "r" * 100)


def test_a_rejection_tells_the_code_and_the_fields_of_the_upstream() -> None:
    nested = error_for(Response(404, {}, NESTED))
    flat = error_for(Response(400, {}, FLAT))

    assert nested.response == errors.ErrorResponse(404, "NOT_FOUND", None)
    assert (nested.field_errors, flat.field_errors) == (None, {"name": ["too long"]})
    assert flat.response == errors.ErrorResponse(400, None, None)
