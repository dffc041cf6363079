"""Responses beside their data: quota, internal errors, compression."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from backports import zstd

from gateway.demo.rest_api import sample_workspace
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.http.compression import MAX_INLINE, MIN_SIZE
from gateway.http.endpoint import Endpoint
from gateway.http.middleware import RequestLogging
from gateway.http.negotiation import choose_coding
from gateway.http.persisted_documents import Documents
from gateway.observability.metrics import Metrics
from gateway.settings import Settings
from gateway.upstream.client import Client
from tests.harness import Gateway, errors_of, open_gateway

QUERY = {"query": "{ __typename }"}
LONG = {"query": "{ phoneNumbers(first: 50) { nodes { id phoneNumber friendlyName createdAt } } }"}
SHORT = {"query": "{ phoneNumbers(first: 1) { nodes { id } } }"}
DOWN = httpx.Response(503)


async def send(gateway: Gateway, body: Any, **headers: str) -> httpx.Response:
    sent = {"X-API-Key": "demo"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post("/graphql", json=body, headers=sent)


class BrokenDocuments(Documents):
    """Fails as nothing should."""

    async def prepare(self, *_: Any) -> Any:
        raise OSError("secret")


class BrokenClient(Client):
    """Fails as nothing should."""

    async def session(self, *_: Any, **__: Any) -> Any:
        raise OSError("secret")


@pytest.mark.parametrize("documents", [Documents, BrokenDocuments])
async def test_masks_internal_errors(documents: type[Documents]) -> None:
    settings, engine = Settings(), Engine(Limits(), introspection=True)
    client = Client(settings) if documents is BrokenDocuments else BrokenClient(settings)
    endpoint = Endpoint(settings, engine, documents(engine, trusted={}, only=False), client, None)
    app = RequestLogging(endpoint, Metrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as http:
        response = await http.post("/graphql", json=QUERY)
    await client.aclose()

    assert (response.status_code, errors_of(response.json())) == (500, [("INTERNAL_SERVER_ERROR", None)])
    assert "secret" not in response.text


async def test_marks_a_stale_response() -> None:
    async with open_gateway(settings={"stale_if_error": "60"}) as gateway:
        await send(gateway, SHORT)
        gateway.clock.now += 42
        gateway.upstream.play("GET .*", DOWN)
        stale = await send(gateway, SHORT)
        fresh = await send(gateway, SHORT, Cache_Control="no-cache")

    quota = stale.json()["extensions"]["quota"]
    assert (quota["stale"], quota["age"]) == (True, 42)
    assert "stale" not in fresh.json()["extensions"]["quota"]
    assert errors_of(fresh.json()) == [("UPSTREAM_UNAVAILABLE", ["phoneNumbers"])]


async def test_shows_spent_and_saved_if_the_quota_is_unknown(gateway: Gateway) -> None:
    page = {"data": [], "pagination": {"page": 1, "limit": 1, "total": 0, "totalPages": 0}}
    gateway.upstream.play("GET .*", httpx.Response(200, json=page))

    response = await send(gateway, SHORT)

    assert response.json()["extensions"]["quota"].keys() == {"spent", "saved"}


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate, gzip, br, zstd", "gzip"),
        ("zstd, br, gzip, deflate", "zstd"),
        ("gzip;q=0.8, zstd", "zstd"),
        ("GZIP;q=0.8, zstd;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("*;q=0.5, zstd", "zstd"),
        ("zstd;q=0.5, *", "gzip"),
        ("gzip;q=0, *", "zstd"),
        ("gzip, identity", "gzip"),
        ("gzip;q=0.5, identity", None),
        ("*;q=0.1, zstd;q=0", "gzip"),
        ("identity", None),
        ("br, deflate", None),
        ("gzip;q=0, zstd;q=0.0", None),
        ("gzip;q=nan", None),
        ("", None),
        ("gzip," * 60, "gzip"),
    ],
)
def test_chooses_the_preferred_content_coding(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted.encode()) == coding


@pytest.mark.parametrize("fields", [1, 200])
@pytest.mark.parametrize(("coding", "decompress"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)])
async def test_compresses_large_responses(fields: int, coding: str, decompress: Callable[[bytes], bytes]) -> None:
    aliases = " ".join(f"f{at}: phoneNumber" for at in range(fields))
    body = json.dumps({"query": f"{{ phoneNumbers(first: 100) {{ nodes {{ id {aliases} }} }} }}"})
    headers = {"X-API-Key": "demo", "Content-Type": "application/json", "Accept-Encoding": coding}
    spaces = {"demo": sample_workspace(agents=40, numbers=100)}

    async with open_gateway(workspaces=spaces, settings={"max_aliases": "1000"}) as gateway:
        request = gateway.http.stream("POST", "/graphql", content=body, headers=headers)
        async with request as response:
            content = decompress(b"".join([chunk async for chunk in response.aiter_raw()]))

    assert response.headers["content-encoding"] == coding
    assert len(json.loads(content)["data"]["phoneNumbers"]["nodes"]) == 100
    assert (len(content) > MAX_INLINE) == (fields > 1)


async def test_compresses_by_accept_encoding(gateway: Gateway) -> None:
    plain = await send(gateway, LONG, Accept_Encoding="identity")
    gzipped = await send(gateway, LONG, Accept_Encoding="gzip")

    assert "content-encoding" not in plain.headers
    assert gzipped.headers["content-encoding"] == "gzip"
    assert int(gzipped.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert gzipped.json()["data"] == plain.json()["data"]
    assert gzipped.headers["vary"] == "Accept, Accept-Encoding"


async def test_does_not_compress_a_short_response(gateway: Gateway) -> None:
    response = await send(gateway, SHORT, Accept_Encoding="gzip, zstd")

    assert "content-encoding" not in response.headers
    assert len(json.dumps(response.json())) < MIN_SIZE
