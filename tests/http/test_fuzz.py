"""Requests drawn at random, from noise to almost right: none may fail in the gateway, or be answered as no one else is.

Each is a whole ASGI request, so that what an HTTP client would refuse to send arrives too. FUZZ_EXAMPLES draws more.
"""

import asyncio
import json
import os
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import Gateway, capture_logs, open_gateway

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))

VOCABULARY = (
    "{ } ( ) [ ] : ! $ @ ... | = & query mutation subscription fragment on type schema null true false 0 -1 1e400 "
    '9999999999999999999999 "" "x" """ # \\ \ufeff \0 é 😀 agent agents phoneNumber phoneNumbers rateLimit nodes edges '
    "node cursor pageInfo totalCount id name status numbers __typename __schema __type __Type types fields ofType "
    "first after search input agentId phoneNumber friendlyName ACTIVE UNKNOWN assignPhoneNumber updatePhoneNumber "
    "deletePhoneNumber deletedPhoneNumberId skip include deprecated if Agent PhoneNumber Query ID Int String "
    "Boolean $v F"
)
WORDS = VOCABULARY.split(" ")
DOCUMENTS = (
    "{ __typename }",
    "query Q($v: Boolean = true, $n: Int!) { agents(first: $n) { nodes { id @include(if: $v) } } rateLimit { limit } }",
    "query Q($id: ID!) { agent(id: $id) { id numbers(status: ACTIVE) { phoneNumber } } }",
    "{ agents(first: 3) { nodes { ...F numbers { id agent { ...F } } } } } fragment F on Agent { id name status }",
    'mutation { updatePhoneNumber(id: "x", input: {agentId: null}) { phoneNumber { id } } }',
    "query A { rateLimit { limit } } query B { phoneNumbers { totalCount } }",
    '{ agent(id: "../x") { id } phoneNumbers(after: "zzz", first: 101) { nodes { id } } }',
    "{ __schema { types { name fields { name type { name ofType { name } } } } } }",
    "fragment F on Query { ...F } query Q { ...F }",
)

words = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
documents = st.sampled_from(DOCUMENTS) | words | st.tuples(st.sampled_from(DOCUMENTS), words).map(" ".join) | st.text()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner),
    max_leaves=9,
)
variables = values | st.fixed_dictionaries({}, optional={"v": values, "id": values, "n": values})
operations = st.fixed_dictionaries(
    {},
    optional={
        "query": documents | values,
        "operationName": st.sampled_from(["Q", "A", "B", "", None]) | values,
        "variables": variables,
        "extensions": values,
    },
)
texts = (operations | st.lists(operations, max_size=4) | values).map(lambda value: json.dumps(value).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Bytes of a request with a part cut out and another put in."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(st.binary(max_size=9)) + text[start + draw(st.integers(0, 9)) :]


bodies = texts | damaged() | st.binary(max_size=200) | st.sampled_from([b"[" * 9999, b'{"query":' * 5000, b"1" * 9999])
fields = st.sampled_from([b"query", b"operationName", b"variables", b"extensions", b"q"])
query_strings = st.binary(max_size=99) | st.lists(
    st.tuples(fields, documents.map(lambda text: text.encode("utf-8", "surrogatepass")) | texts | st.binary()),
    max_size=5,
).map(lambda pairs: "&".join(f"{name.decode()}={quote_from_bytes(value)}" for name, value in pairs).encode())
header_values = st.binary(max_size=30) | st.sampled_from(
    [
        b"application/json",
        b"application/graphql-response+json",
        b"text/html;q=0.1, */*",
        b"*/*;q=x",
        b"gzip, zstd",
        b"demo",
        b"application/json; charset=utf-8",
        b"text/plain",
        b"no-cache",
        b"99999999999999999999999",
        b"-1",
        b"identity",
    ]
)
header_names = st.sampled_from(
    b"accept accept-encoding cache-control content-type content-length content-encoding origin x-api-key x-request-id "
    b"graphql-require-preflight sec-fetch-mode access-control-request-method upgrade host cookie".split()
)
right = st.just([(b"content-type", b"application/json"), (b"x-api-key", b"demo")])
headers = (
    right
    | st.lists(st.tuples(header_names, header_values), max_size=6)
    | st.tuples(right, st.lists(st.tuples(header_names, header_values), max_size=3)).map(
        lambda parts: parts[0] + parts[1]
    )
)
methods = st.sampled_from(["POST"] * 6 + ["GET"] * 3 + ["HEAD", "OPTIONS", "PUT", "", "\xff"])


async def answer(gateway: Gateway, scope: dict[str, Any], pieces: list[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Hand a request to the application as a server would, and return what it sends."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway.http._transport.app({"type": "http", "root_path": "", **scope}, receive, send)  # type: ignore[attr-defined]
    start, *rest = sent
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    return start["status"], headers, b"".join(message["body"] for message in rest if "body" in message)


def check(method: str, got: tuple[int, dict[str, str], bytes]) -> None:
    """An answer is below 500, guarded, and JSON of the one shape."""
    status, headers, body = got
    assert 200 <= status < 500
    assert headers["x-content-type-options"] == "nosniff"
    assert "x-request-id" in headers
    if method in {"HEAD", "OPTIONS"} or "json" not in headers["content-type"] or "content-encoding" in headers:
        return
    answers = json.loads(body)
    for one in answers if isinstance(answers, list) else [answers]:
        assert {"data", "errors"} & set(one)
        assert one.keys() <= {"data", "errors", "extensions"}
        assert all(error["extensions"]["code"] != "INTERNAL_SERVER_ERROR" for error in one.get("errors", ()))


@pytest.fixture(scope="module")
def runner() -> Any:
    with asyncio.Runner() as opened:
        yield opened


@pytest.mark.parametrize("max_batch", ["0", "3"])
def test_responds_to_random_requests_without_a_failure(runner: asyncio.Runner, max_batch: str) -> None:
    opened = open_gateway(settings={"max_batch": max_batch, "cors_origins": "https://app.example.com"})
    gateway = runner.run(opened.__aenter__())

    @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(methods, query_strings, headers, bodies, st.integers(1, 3))
    def draw(method: str, query: bytes, sent: list[tuple[bytes, bytes]], body: bytes, pieces: int) -> None:
        scope = {"method": method, "path": "/graphql", "query_string": query, "headers": sent}
        size = len(body) // pieces + 1
        with capture_logs() as logs:
            got = runner.run(answer(gateway, scope, [body[at : at + size] for at in range(0, len(body), size)]))
        check(method, got)
        assert [line for line in logs if line["log_level"] not in {"info", "debug"}] == []

    draw()
    runner.run(opened.__aexit__(None, None, None))
