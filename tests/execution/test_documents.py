"""The documents kept: what they are charged for, and whom a flood of others costs his own."""

import gc
import tracemalloc

import pytest
from graphql import get_introspection_query, parse

from gateway.execution.documents import ANYBODY, MAX_BYTES, Document
from gateway.execution.engine import Engine, digest_of
from gateway.execution.limits import Limits
from gateway.execution.response import ResponseSize
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream.client import Client
from tests.harness import UPSTREAM
from tests.hostile import of_agents

EVERYDAY = """query Agents($first: Int = 5, $after: String) {
  agents(first: $first, after: $after) {
    totalCount
    pageInfo { hasNextPage endCursor }
    nodes { id name status numbers { id phoneNumber friendlyName agent { id name } } }
  }
}"""
DOCUMENTS = {
    "everyday": EVERYDAY,
    "twenty roots": "{ " + " ".join(f"a{n}: agent(id: {n}) {{ id name numbers {{ id }} }}" for n in range(20)) + " }",
    "aliases": of_agents(" ".join(f"a{n}: name" for n in range(29)) + " id status"),
    "short fields": of_agents("id " * 650),
    "objects": of_agents("numbers { id } " * 320),
    "introspection": get_introspection_query(),
    "a long text": '{ agents(search: "' + "x" * 60_000 + '") { totalCount } }',
    "a long text of wide characters": '{ agents(search: "' + "\u5b57" * 60_000 + '") { totalCount } }',
    "variables": f"query Q({' '.join(f'$v{n}: Int' for n in range(15))}) {{ "
    + " ".join(f"b{n}: agents(first: $v{n}) {{ totalCount }}" for n in range(15))
    + " }",
}
CONDITIONS = f"query Q({' '.join(f'$v{n}: Boolean!' for n in range(6))}) " + of_agents(
    "id " + " ".join(f"... @include(if: $v{n}) {{ numbers {{ a{n}: id status }} }}" for n in range(6))
)

LIMIT = 2 * 1024 * 1024


def engine(max_bytes: int = MAX_BYTES) -> Engine:
    return Engine(Limits(), introspection=True, max_bytes=max_bytes)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_is_charged_what_it_takes_within_a_half(kind: str) -> None:
    engine().checked(DOCUMENTS[kind])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    kept = [Document(parse(f"{DOCUMENTS[kind]}#{n}")) for n in range(10)]

    gc.collect()
    taken = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()
    assert 1 / 1.55 < kept[0].bytes / taken < 1.55


def flood(documents: Engine, holder: bytes, count: int = 300) -> list[str]:
    texts = [f"{EVERYDAY} # {holder!r} {n}" for n in range(count)]
    for text in texts:
        documents.prepare(text, holder)
    return texts


def kept(documents: Engine, texts: list[str]) -> int:
    """Count the documents of these that are kept, without taking them over."""
    return sum(documents.documents.find(digest_of(text), ANYBODY) is not None for text in texts)


@pytest.mark.parametrize("other", [ANYBODY, b"other"])
def test_a_flood_costs_nobody_else_his_documents(other: bytes) -> None:
    documents = engine(LIMIT)
    mine = flood(documents, b"mine", 10)

    theirs = flood(documents, other)

    assert kept(documents, mine) == 10
    assert 10 < kept(documents, theirs) < 200
    assert LIMIT * 0.9 < documents.documents.bytes <= LIMIT


def test_whoever_takes_most_gives_way_until_all_take_the_same() -> None:
    documents = engine(LIMIT)
    first = flood(documents, b"first")

    second = flood(documents, b"second")

    assert abs(kept(documents, first) - kept(documents, second)) <= 1


def test_the_document_used_last_is_kept_longest() -> None:
    documents = engine(LIMIT)
    favourite = EVERYDAY + " # favourite"
    first = documents.prepare(favourite, b"mine")

    for n in range(10):
        flood(documents, b"mine", n + 20)
        assert documents.prepare(favourite, b"mine") is first


def test_a_document_passes_to_the_first_tenant_that_asks_for_it() -> None:
    documents = engine(LIMIT)
    first = documents.prepare(EVERYDAY)

    passed = documents.prepare(EVERYDAY, b"tenant")
    documents.prepare(EVERYDAY, b"another")

    assert first is passed
    assert passed.holder == b"tenant"


def test_a_document_too_large_to_keep_is_checked_each_time() -> None:
    documents = engine(64 * 1024)
    text = DOCUMENTS["short fields"]

    assert documents.prepare(text) is not documents.prepare(text)
    assert documents.documents.bytes == 0


async def test_what_is_compiled_for_each_combination_of_conditions_is_charged() -> None:
    documents = engine(4 * LIMIT)
    document = documents.prepare(CONDITIONS)
    context = Context(await Client(load({}, {"upstream_url": UPSTREAM})).session("", "id"))
    charges = [document.bytes]

    for bits in range(20):
        await documents.execute(
            document, None, {f"v{n}": bool(bits >> n & 1) for n in range(6)}, context, ResponseSize(LIMIT)
        )
        charges.append(document.bytes)

    assert charges[0] < charges[1] < charges[-1]
    assert document.charged == document.bytes == documents.documents.bytes
