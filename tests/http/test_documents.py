"""Persisted and trusted documents, by every way in which clients ask for them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.execution.engine import Engine
from gateway.execution.errors import RequestError
from gateway.execution.limits import Limits
from gateway.http.persisted_documents import Documents, read_manifest
from gateway.http.request import GraphQLRequest
from gateway.settings import SettingsError
from gateway.upstream.tenants import Tenant, Tenants
from tests.harness import Gateway, errors_of, open_gateway

QUERY = "{ rateLimit { limit } }"
HASH = hashlib.sha256(QUERY.encode()).hexdigest()
APQ = {"persistedQuery": {"version": 1, "sha256Hash": HASH}}


async def post(gateway: Gateway, body: dict[str, Any]) -> tuple[int, Any]:
    response = await gateway.http.post("/graphql", json=body, headers={"X-API-Key": "demo"})
    return response.status_code, response.json()


async def test_a_hash_is_answered_once_its_text_was_sent(gateway: Gateway) -> None:
    first = await post(gateway, {"extensions": APQ})
    registered = await post(gateway, {"query": QUERY, "extensions": APQ})
    again = await post(gateway, {"extensions": APQ})

    assert first[0] == 200
    assert first[1]["errors"][0]["message"] == "PersistedQueryNotFound"
    assert errors_of(first[1]) == [("PERSISTED_QUERY_NOT_FOUND", None)]
    assert registered[1] == again[1] == {"data": {"rateLimit": None}}


async def test_a_hash_is_answered_over_get(gateway: Gateway) -> None:
    await post(gateway, {"query": QUERY, "extensions": APQ})

    response = await gateway.http.get("/graphql", params={"extensions": json.dumps(APQ)}, headers={"X-API-Key": "demo"})

    assert response.json() == {"data": {"rateLimit": None}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "{ __typename }", "extensions": APQ}, "provided sha does not match query"),
        ({"extensions": {"persistedQuery": {"version": 2, "sha256Hash": HASH}}}, "Unsupported persisted query version"),
        ({"extensions": {"persistedQuery": {"version": 1}}}, "must hold version and sha256Hash"),
        ({"extensions": {"persistedQuery": "x"}}, "must hold version and sha256Hash"),
        ({"documentId": "x", "query": QUERY}, "Send only one of"),
        ({"documentId": "x", "extensions": APQ}, "Send only one of"),
        ({"extensions": {}}, "The request has no query"),
    ],
)
async def test_refuses_a_contradictory_request(gateway: Gateway, body: dict[str, Any], message: str) -> None:
    status, answer = await post(gateway, body)

    assert status == 400
    assert errors_of(answer) == [("BAD_REQUEST", None)]
    assert message in answer["errors"][0]["message"]


async def test_a_document_that_is_not_valid_is_not_kept(gateway: Gateway) -> None:
    bad = "{ nothing }"
    apq = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(bad.encode()).hexdigest()}}

    refused = await post(gateway, {"query": bad, "extensions": apq})
    again = await post(gateway, {"extensions": apq})

    assert errors_of(refused[1]) == [("GRAPHQL_VALIDATION_FAILED", None)]
    assert errors_of(again[1]) == [("PERSISTED_QUERY_NOT_FOUND", None)]


def manifest(tmp_path: Path, documents: Mapping[str, object]) -> dict[str, str]:
    path = tmp_path / "documents.json"
    path.write_text(json.dumps(documents))
    return {"trusted_documents": str(path)}


@pytest.mark.parametrize("only", ["false", "true"])
@pytest.mark.parametrize(
    "body", [{"documentId": f"sha256:{HASH}"}, {"documentId": HASH}, {"extensions": APQ}, {"query": QUERY}]
)
async def test_executes_a_trusted_document_by_id_hash_and_text(tmp_path: Path, only: str, body: dict[str, Any]) -> None:
    settings = manifest(tmp_path, {f"sha256:{HASH}": QUERY}) | {"trusted_only": only}

    async with open_gateway(settings=settings) as gateway:
        answer = await post(gateway, body)

    assert answer == (200, {"data": {"rateLimit": None}})


MANIFESTS: dict[str, dict[str, object]] = {
    "codegen": {HASH: QUERY},
    "codegen, prefixed": {f"sha256:{HASH}": QUERY},
    "shouting": {f"SHA256:{HASH.upper()}": QUERY},
    "relay": {"0C8DA9F27BD61A1AC11FF6ABFCE0A1B2": QUERY},
    "name": {"RateLimit-V2": QUERY},
    "apollo": {
        "format": "apollo-persisted-query-manifest",
        "version": 1,
        "operations": [{"id": "Limit/1", "name": "Limit", "type": "query", "body": QUERY}],
    },
}


@pytest.mark.parametrize(
    ("manifest_of", "id_"),
    [
        ("codegen", f"sha256:{HASH}"),
        ("codegen", HASH.upper()),
        ("codegen, prefixed", HASH),
        ("codegen, prefixed", f"sha256:{HASH}"),
        ("shouting", HASH),
        ("relay", "0C8DA9F27BD61A1AC11FF6ABFCE0A1B2"),
        ("relay", "0c8da9f27bd61a1ac11ff6abfce0a1b2"),
        ("relay", HASH),
        ("name", "RateLimit-V2"),
        ("apollo", "Limit/1"),
        ("apollo", f"sha256:{HASH}"),
    ],
)
async def test_finds_the_ids_of_each_tool_in_every_notation(tmp_path: Path, manifest_of: str, id_: str) -> None:
    settings = manifest(tmp_path, MANIFESTS[manifest_of]) | {"trusted_only": "true"}
    apq = {"persistedQuery": {"version": 1, "sha256Hash": id_}}

    async with open_gateway(settings=settings) as gateway:
        answers = [
            await post(gateway, body)
            for body in (
                {"documentId": id_},
                {"doc_id": id_, "query": None},
                {"extensions": apq},
                {"extensions": apq, "query": QUERY},
            )
        ]
        by_get = await gateway.http.get("/graphql", params={"doc_id": id_}, headers={"X-API-Key": "demo"})

    assert answers == [(200, {"data": {"rateLimit": None}})] * 4
    assert by_get.json() == {"data": {"rateLimit": None}}


@pytest.mark.parametrize("name", ["operationName", "documentId", "doc_id"])
async def test_an_empty_text_in_a_body_counts_as_absent(gateway: Gateway, name: str) -> None:
    answer = await post(gateway, {"query": QUERY, name: ""})

    assert answer == (200, {"data": {"rateLimit": None}})


async def test_a_name_with_capitals_is_not_found_in_lower_case(tmp_path: Path) -> None:
    async with open_gateway(settings=manifest(tmp_path, MANIFESTS["name"])) as gateway:
        status, answer = await post(gateway, {"documentId": "ratelimit-v2"})

    assert (status, errors_of(answer)) == (200, [("PERSISTED_QUERY_NOT_FOUND", None)])


async def test_executes_only_trusted_documents_if_so_configured(tmp_path: Path) -> None:
    settings = manifest(tmp_path, {"list": QUERY}) | {"trusted_only": "true"}

    async with open_gateway(settings=settings) as gateway:
        named = await post(gateway, {"documentId": "list"})
        hashed = await post(gateway, {"extensions": APQ})
        introspection = await post(gateway, {"query": "{ __schema { queryType { name } } }"})
        registering = await post(gateway, {"query": "{ __typename }", "extensions": None})
        unknown = await post(gateway, {"documentId": "nothing"})

    assert named == hashed == (200, {"data": {"rateLimit": None}})
    assert errors_of(introspection[1]) == errors_of(registering[1]) == [("PERSISTED_QUERY_NOT_SUPPORTED", None)]
    assert introspection[0] == 403
    assert errors_of(unknown[1]) == [("PERSISTED_QUERY_NOT_FOUND", None)]


async def test_does_not_start_with_an_invalid_trusted_document(tmp_path: Path) -> None:
    settings = manifest(tmp_path, {"list": "{ nothing }"})

    with pytest.raises(SettingsError, match="document 'list' cannot be executed: Cannot query field 'nothing'"):
        async with open_gateway(settings=settings):
            pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("[]", "must be a JSON object"),
        ("{", "must be"),
        ('{"format": "apollo-persisted-query-manifest", "version": 2, "operations": []}', "must be"),
        ('{"format": "apollo-persisted-query-manifest", "version": 1}', "must be"),
        ('{"version": 1, "operations": []}', "must be"),
        (json.dumps({HASH: "{ a }", f"sha256:{HASH}": "{ b }"}), f"two documents with the id 'sha256:{HASH}'"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "documents.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(SettingsError, match=reason):
        read_manifest(str(path))


class Shared:
    """What another replica keeps."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.told: list[tuple[str, str]] = []

    async def document(self, hash_: str) -> str | None:
        return self.texts.get(hash_)

    async def keep_document(self, hash_: str, text: str, holder: str) -> None:
        self.texts[hash_] = text
        self.told.append((hash_, holder))


def tenant(*, answered: bool = False) -> Tenant:
    tenants = Tenants(1024)
    found = tenants["key"]
    if answered:
        tenants.keep(found)
    return found


def documents(shared: Shared, **more: Any) -> Documents:
    return Documents(Engine(Limits(), introspection=True, **more), trusted={}, only=False, shared=shared)


async def test_replicas_share_persisted_documents() -> None:
    shared = Shared()
    one, two = documents(shared), documents(shared)
    sent = await one.prepare(GraphQLRequest(query=QUERY, extensions=APQ), tenant())
    await one.prepare(GraphQLRequest(query=QUERY, extensions=APQ), tenant())

    found = await two.prepare(GraphQLRequest(extensions=APQ), tenant())

    assert shared.texts == {HASH: QUERY}
    assert shared.told == [(HASH, "anybody")]
    assert list(found.operations) == list(sent.operations)


async def test_shares_documents_of_a_known_tenant_under_its_name() -> None:
    shared, known = Shared(), tenant(answered=True)

    await documents(shared).prepare(GraphQLRequest(query=QUERY, extensions=APQ), known)

    assert shared.told == [(HASH, known.name)]


async def test_does_not_share_a_document_without_the_requested_operation() -> None:
    shared = Shared()

    with pytest.raises(RequestError, match="BAD_REQUEST"):
        await documents(shared).prepare(GraphQLRequest(query=QUERY, operation_name="A", extensions=APQ), tenant())

    assert shared.texts == {}


@pytest.mark.parametrize("shared", [Shared(), Shared(**{HASH: "{ __typename }"})])
async def test_rejects_a_shared_text_that_does_not_match_its_hash(shared: Shared) -> None:
    with pytest.raises(RequestError, match="PERSISTED_QUERY_NOT_FOUND"):
        await documents(shared).prepare(GraphQLRequest(extensions=APQ), tenant())


async def test_forgets_persisted_documents_above_the_bound_in_bytes() -> None:
    texts = [f"{{ rateLimit {{ limit }} }} # {n}" for n in range(100)]
    apqs = [{"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(t.encode()).hexdigest()}} for t in texts]
    persisted = Documents(Engine(Limits(), introspection=True, max_bytes=64 * 1024), trusted={}, only=False)
    for text, apq in zip(texts, apqs, strict=True):
        await persisted.prepare(GraphQLRequest(query=text, extensions=apq), tenant())

    await persisted.prepare(GraphQLRequest(extensions=apqs[-1]), tenant())
    with pytest.raises(RequestError, match="PERSISTED_QUERY_NOT_FOUND"):
        await persisted.prepare(GraphQLRequest(extensions=apqs[0]), tenant())


async def test_trusted_documents_are_never_forgotten(tmp_path: Path) -> None:
    trusted = read_manifest(manifest(tmp_path, {"list": QUERY})["trusted_documents"])
    persisted = Documents(Engine(Limits(), introspection=True, max_bytes=1024), trusted=trusted, only=False)

    first, again = [await persisted.prepare(GraphQLRequest(document_id="list"), tenant()) for _ in "12"]

    assert first is again
