"""Calls through a forward proxy: what it sees, what it can refuse, and what becomes of its connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.settings import Settings
from gateway.upstream import errors
from gateway.upstream.attempt import HttpClient, Response
from gateway.upstream.transport.base import Request
from gateway.upstream.transport.httpx import through_proxy
from tests.harness import errors_of
from tests.process import running
from tests.proxy import Proxy, forward_proxy
from tests.raw_upstream import BOTH_LOOPS, RawUpstream, answer, options, raw_upstream

LOOPS = BOTH_LOOPS
KEY = {"X-API-Key": "key-of-the-tenant"}
GET = Request("GET", "/agents", KEY)
POST = Request("POST", "/numbers", KEY, b"{}")
AGENT = b'{"id": "a1", "name": "A", "status": "ACTIVE", "type": "custom", "createdAt": "1", "updatedAt": "2"}'
TUNNEL = b"HTTP/1.1 200 OK\r\n\r\n"
FOREIGN_ID = "X-Request-Id: gw0123456789abcdef"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def context_of(ca: trustme.CA, host: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    return context


@asynccontextmanager
async def proxied(
    proxy: str, upstream: str, ca: trustme.CA | None = None, connections: int = 64
) -> AsyncIterator[HttpClient]:
    """A client that calls an upstream through a proxy."""
    settings = Settings(
        upstream_url=upstream, upstream_proxy=proxy, upstream_timeout=5, upstream_connections=connections
    )
    client = HttpClient(settings, through_proxy(options(upstream, 5, connections, ca, proxy)) if ca else None)
    yield client
    await client.aclose()


async def failure(client: HttpClient, request: Request = GET) -> tuple[type[Exception], bool]:
    """The exception of an attempt, and whether the upstream may have seen it."""
    with pytest.raises(errors.Failed) as caught:
        await client.attempt(request)
    return type(caught.value), caught.value.reached


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with forward_proxy() as opened:
        yield opened


@pytest.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with raw_upstream() as opened:
        yield opened


@pytest.fixture
async def upstream_tls(ca: trustme.CA) -> AsyncIterator[RawUpstream]:
    async with raw_upstream(context_of(ca)) as opened:
        yield opened


async def test_plain_http_is_forwarded_by_the_proxy(proxy: Proxy, upstream: RawUpstream) -> None:
    async with proxied(proxy.url, f"{upstream.url}/v1") as client:
        replies = [await client.attempt(GET), await client.attempt(POST)]

    assert [reply.body for reply in replies] == [b"{}", b"{}"]
    assert proxy.requests == [f"GET {upstream.url}/v1/agents HTTP/1.1", f"POST {upstream.url}/v1/numbers HTTP/1.1"]
    assert upstream.calls == ["GET /v1/agents", "POST /v1/numbers"]
    assert (proxy.connections, upstream.connections) == (1, 1)


async def test_https_goes_through_a_tunnel_that_hides_the_key(
    proxy: Proxy, upstream_tls: RawUpstream, ca: trustme.CA
) -> None:
    async with proxied(proxy.url, upstream_tls.url, ca) as client:
        replies = [await client.attempt(GET), await client.attempt(POST)]

    assert [reply.status for reply in replies] == [200, 200]
    assert proxy.requests == [f"CONNECT {upstream_tls.url.removeprefix('https://')} HTTP/1.1"]
    assert b"key-of-the-tenant" not in proxy.heads[0]
    assert b"key-of-the-tenant" in upstream_tls.requests[0]
    assert upstream_tls.calls == ["GET /agents", "POST /numbers"]


async def test_a_proxy_is_called_over_tls(upstream_tls: RawUpstream, ca: trustme.CA) -> None:
    async with forward_proxy(context_of(ca)) as proxy:
        async with proxied(proxy.url, upstream_tls.url, ca) as client:
            reply = await client.attempt(GET)
        async with proxied(proxy.url, upstream_tls.url) as client:
            unknown = await failure(client)

    assert (reply.status, unknown) == (200, (errors.Unavailable, False))
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("tls", [False, True], ids=["forwarded", "tunnel"])
async def test_user_and_password_reach_the_proxy_alone(
    proxy: Proxy,
    upstream: RawUpstream,
    upstream_tls: RawUpstream,
    ca: trustme.CA,
    tls: bool,  # noqa: FBT001
) -> None:
    called = upstream_tls if tls else upstream
    async with proxied(proxy.url.replace("//", "//user:p%40ss:w@"), called.url, ca) as client:
        await client.attempt(GET)

    assert proxy.authorized_as("user:p@ss:w")
    assert b"proxy" not in called.requests[0].lower()


async def test_the_certificate_of_the_upstream_is_verified(proxy: Proxy, upstream_tls: RawUpstream) -> None:
    async with proxied(proxy.url, upstream_tls.url) as client:
        assert await failure(client, POST) == (errors.Unavailable, False)

    assert upstream_tls.requests == []


async def test_a_certificate_of_another_host_is_refused(proxy: Proxy, ca: trustme.CA) -> None:
    async with (
        raw_upstream(context_of(ca, "elsewhere.example")) as upstream,
        proxied(proxy.url, upstream.url, ca) as client,
    ):
        assert await failure(client) == (errors.Unavailable, False)

    assert upstream.requests == []


REFUSALS = {
    "407": b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
    "502": b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_tunnel_that_the_proxy_refuses_counts_as_not_sent(proxy: Proxy, refusal: bytes) -> None:
    proxy.refusal = refusal
    async with proxied(proxy.url, "https://api.example") as client:
        assert await failure(client, POST) == (errors.Unavailable, False)


async def test_a_proxy_that_is_down_counts_as_not_sent() -> None:
    async with proxied("http://127.0.0.1:9", "https://api.example") as client:
        assert await failure(client, POST) == (errors.Unavailable, False)


async def test_failed_handshakes_take_no_connection_for_ever(
    proxy: Proxy, upstream_tls: RawUpstream, ca: trustme.CA
) -> None:
    async with proxied(proxy.url, upstream_tls.url, ca, connections=2) as client:
        proxy.refusal = TUNNEL  # and then no TLS
        failures = [await failure(client) for _ in range(5)]
        cancelled = [asyncio.create_task(client.attempt(GET)) for _ in range(5)]
        proxy.refusal = "hang"
        while proxy.connections < 7:  # noqa: ASYNC110 - the proxy has no event of it
            await asyncio.sleep(0.01)
        for call in cancelled:
            call.cancel()
        await asyncio.wait(cancelled)
        proxy.refusal = b""
        replies = await asyncio.gather(*(client.attempt(GET) for _ in range(4)))

    assert failures == [(errors.Unavailable, False)] * 5
    assert [reply.status for reply in replies] == [200] * 4


async def test_a_mismatched_response_leaves_no_connection_in_use(proxy: Proxy, upstream: RawUpstream) -> None:
    upstream.play((answer(), "keep"), (answer(b"{}", "200 OK", FOREIGN_ID), "keep"), (answer(), "keep"))
    async with proxied(proxy.url, upstream.url) as client:
        first = await client.attempt(GET)
        mismatched = await failure(client)
        client.report_mismatch(first.generation, errors.Mismatch())  # closed already
        replies = [await client.attempt(GET), await client.attempt(GET)]

    assert mismatched == (errors.Mismatch, True)
    assert [type(reply) for reply in replies] == [Response, Response]
    assert upstream.served_by == [1, 1, 2, 2]


def test_serves_through_the_proxy_of_the_settings(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def main() -> tuple[dict[str, Any], str, list[str], list[str]]:
        async with raw_upstream(context_of(ca)) as upstream, forward_proxy() as proxy:
            upstream.play((answer(AGENT), "keep"))
            environ = {
                "GATEWAY_UPSTREAM_URL": upstream.url,
                "GATEWAY_UPSTREAM_PROXY": proxy.url.replace("//", "//user:pass-of-the-proxy@"),
                "GATEWAY_PORT": "0",
                "GATEWAY_LOG_LEVEL": "debug",
                "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
            }

            def ask() -> tuple[dict[str, Any], str]:
                with running("-m", "gateway", "serve", environ=environ) as process:
                    told = process.ask('{ agent(id: "a1") { name } }')
                    process.stop()
                    return told, process.output()

            told, output = await asyncio.to_thread(ask)
            assert proxy.authorized_as("user:pass-of-the-proxy")
            return told, output, proxy.requests, upstream.calls

    told, output, requests, calls = asyncio.run(main())

    assert errors_of(told) == []
    assert told["data"] == {"agent": {"name": "A"}}
    assert [request.split(" ")[0] for request in requests] == ["CONNECT"]
    assert calls == ["GET /agents/a1"]
    assert "pass-of-the-proxy" not in output
