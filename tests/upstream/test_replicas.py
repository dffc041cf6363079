"""Several replicas on one Redis: what one knows all know, and no key or foreign datum is among it."""

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.upstream.redis_sync import DOCUMENT_BYTES, DOCUMENT_LASTS, HOLDER_BYTES, IDENTITY_LASTS
from tests.harness import Fault, Gateway, errors_of
from tests.plain import NUMBER_PAGES, pages, singles
from tests.process import started
from tests.store import LIST, NAME, NESTED, REDIS, Store, replicas, told

pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed here")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    redis = Store(tmp_path)
    await redis.start()
    yield redis
    await redis.stop()


def held_back(gateway: Gateway, held: asyncio.Event, go: asyncio.Event) -> Fault:
    """The upstream's answer of the moment when it was asked, which arrives only when told to."""

    async def answer(request: httpx.Request) -> httpx.Response:
        copy = httpx.Request(request.method, str(request.url).replace("/api/v1", ""), headers=request.headers)
        response = await gateway.upstream._demo.handle_async_request(copy)
        body = await response.aread()
        held.set()
        await go.wait()
        gateway.upstream.play("GET /numbers.*", again)
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    async def again(request: httpx.Request) -> httpx.Response:
        copy = httpx.Request(request.method, str(request.url).replace("/api/v1", ""), headers=request.headers)
        return await gateway.upstream._demo.handle_async_request(copy)

    return answer


async def test_what_one_replica_has_read_another_answers_without_a_call(store: Store) -> None:
    async with replicas(store.url) as (one, two):
        first = await one.data(NESTED)
        await told(store, 2)

        answer = await two.ask(NESTED)

        assert answer["data"] == first
        assert (len(one.calls), two.calls) == (2, [])
        assert answer["extensions"]["quota"]["saved"]["cached"] == 13


async def test_a_write_at_one_replica_is_seen_at_the_next_read_of_another(store: Store) -> None:
    space = sample_workspace()
    changed = next(iter(space.numbers))
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await one.data(LIST)
        await two.data(LIST)

        await one.data(NAME, {"id": changed})
        data = await two.data(LIST)

    assert {row["id"]: row["friendlyName"] for row in data["phoneNumbers"]["nodes"]}[changed] == "new"


async def test_a_replica_never_takes_in_what_was_read_before_its_own_write(store: Store) -> None:
    space = sample_workspace()
    changed = list(space.numbers)[:2]
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await one.data(NAME, {"id": changed[0]})
        await two.data(LIST)
        await told(store, 2)
        await one.data(NAME, {"id": changed[1]})

        data = await one.data(LIST)

    names = {row["id"]: row["friendlyName"] for row in data["phoneNumbers"]["nodes"]}
    assert [names[id_] for id_ in changed] == ["new", "new"]


async def test_a_size_alone_does_not_tell_whether_listed_numbers_say_whose_they_are(store: Store) -> None:
    workspace = sample_workspace(agents=5, numbers=300)
    listed = [{k: v for k, v in n.items() if k != "agentId"} for n in workspace.numbers.values()]
    body = {"data": listed[:100], "pagination": {"page": 1, "limit": 100, "total": 300}}
    async with replicas(store.url, workspaces={"demo": workspace}, settings={"cache_ttl": "0"}) as (one, two):
        for gateway in (one, two):
            gateway.upstream.play(NUMBER_PAGES, httpx.Response(200, json=body))
        await one.data("{ agents(first: 5) { totalCount } phoneNumbers(first: 100) { totalCount } }")
        await told(store, 2)

        ids = enumerate(workspace.agents)
        await two.data("{" + " ".join(f'a{i}: agent(id: "{id_}") {{ name numbers {{ id }} }}' for i, id_ in ids) + "}")

        assert two.calls == ["GET /agents?page=1&limit=100", *pages(1), *singles(workspace, 5)]


async def test_sizes_are_shared_so_that_another_replica_plans_with_them(store: Store) -> None:
    space = sample_workspace(agents=4, numbers=500)
    async with replicas(store.url, workspaces={"demo": space}, settings={"cache_ttl": "0"}) as (one, two):
        await one.data("{ phoneNumbers(first: 100) { totalCount } }")
        await told(store, 1)

        await two.data(NESTED)
        calls = two.calls

    singles = [f"GET /agents/{id_}/numbers" for id_ in space.agents]
    assert calls == ["GET /agents?page=1&limit=100", *singles]  # no page of numbers to learn their total from


@pytest.mark.parametrize("quota", [1, 0])
async def test_a_quota_spent_at_one_replica_is_spent_at_another(store: Store, quota: int) -> None:
    async with replicas(store.url, quota=quota, settings={"cache_ttl": "0"}) as (one, two):
        await one.ask(LIST)
        await told(store, 1)

        answer = await two.ask(LIST)

        assert errors_of(answer) == [("RATE_LIMITED", ["phoneNumbers"])]
        assert answer["errors"][0]["extensions"]["retryAfter"] == 3600
        assert (len(one.calls), two.calls) == (1, [])


async def test_nothing_in_redis_tells_a_key_and_everything_there_expires(store: Store) -> None:
    keys = ["a-key-of-one-tenant", "a-key-of-another"]
    spaces = {key: sample_workspace(prefix=key[6:]) for key in keys}
    async with replicas(store.url, workspaces=spaces) as (one, two):
        for key in keys:
            await one.data(NESTED, key=key)
            await two.data(NAME, {"id": next(iter(spaces[key].numbers))}, key=key)
        await told(store, 6)

        contents = await store.contents()

    assert len(contents) == 1 + 2 * (1 + 2)  # the name-giving secret; of each tenant the log, and two lists
    assert all(ttl > 0 for _, ttl in contents.values())
    assert not any(key in repr(contents) for key in keys)
    assert all(ttl <= 61 for key, (_, ttl) in contents.items() if key.count(b":") == 3)


async def test_two_tenants_share_nothing_by_way_of_redis(store: Store) -> None:
    spaces = {"demo": sample_workspace(), "other": sample_workspace()}
    for number in spaces["other"].numbers.values():
        number["friendlyName"] = "other"
    async with replicas(store.url, workspaces=spaces) as (one, two):
        await one.data(LIST, key="other")
        await told(store, 1)

        data = await two.data(LIST, key="demo")

        assert two.calls == ["GET /numbers?page=1&limit=100"]
    assert not [row for row in data["phoneNumbers"]["nodes"] if row["friendlyName"] == "other"]


async def test_an_answer_read_before_a_write_elsewhere_is_not_remembered(store: Store) -> None:
    space = sample_workspace()
    changed = next(iter(space.numbers))
    held, go = asyncio.Event(), asyncio.Event()
    async with replicas(store.url, workspaces={"demo": space}, count=3) as (one, two, three):
        two.upstream.play("GET /numbers.*", held_back(two, held, go))
        reader = asyncio.ensure_future(two.data(LIST))
        await held.wait()
        await one.data(NAME, {"id": changed})
        go.set()
        old = await reader
        await told(store, 2)

        fresh = [await gateway.data(LIST) for gateway in (three, one, two)]

    def named(data: Any) -> Any:
        return {row["id"]: row["friendlyName"] for row in data["phoneNumbers"]["nodes"]}[changed]

    assert named(old) != "new"
    assert [named(data) for data in fresh] == ["new"] * 3


@contextmanager
def process(tmp_path: Path, **settings: str) -> Iterator[str]:
    """A `gateway serve` process, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    with (tmp_path / f"{port}.log").open("w") as log, subprocess.Popen(command, env=environ, stderr=log) as popen:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            popen.terminate()


async def ready(http: httpx.AsyncClient, address: str) -> None:
    for _ in range(400):
        with suppress(httpx.TransportError):
            await http.get(f"{address}/healthz")
            return
        await asyncio.sleep(0.025)


async def test_two_processes_know_what_either_has_read_and_written(store: Store, tmp_path: Path) -> None:
    space, calls = sample_workspace(), list[str]()
    demo = uvicorn.Config(create_demo({"demo": space}, on_call=calls.append), port=0, log_config=None, ws="none")
    server, listener = uvicorn.Server(demo), socket.create_server(("127.0.0.1", 0))
    upstream = f"http://127.0.0.1:{listener.getsockname()[1]}"
    changed = next(iter(space.numbers))
    serving = asyncio.ensure_future(server.serve([listener]))
    settings = {"upstream_url": upstream, "redis_url": store.url, "redis_timeout": "5", "cache_ttl": "60"}
    with process(tmp_path, **settings) as one, process(tmp_path, **settings) as two:
        async with httpx.AsyncClient(headers={"X-API-Key": "demo"}) as http:
            await asyncio.gather(ready(http, one), ready(http, two))

            async def ask(address: str, query: str) -> Any:
                answer = await http.post(f"{address}/graphql", json={"query": query, "variables": {"id": changed}})
                return {row["id"]: row["friendlyName"] for row in answer.json()["data"]["phoneNumbers"]["nodes"]}

            await ask(one, LIST)
            await told(store, 1)
            await ask(two, LIST)
            await http.post(f"{one}/graphql", json={"query": NAME, "variables": {"id": changed}})
            seen = await ask(two, LIST)
    server.should_exit = True
    await serving
    listener.close()

    listed = "GET /numbers?page=1&limit=100 200"
    assert calls == [listed, f"PUT /numbers/{changed} 200", listed]
    assert seen[changed] == "new"


async def test_workers_of_one_machine_see_each_others_writes(store: Store) -> None:
    with started("demo") as demo:
        options = ("--workers", "2", "--cache-ttl", "60", "--redis-url", store.url, "--redis-timeout", "5")
        with started("serve", "--upstream-url", f"{demo.address}/demo/api/v1", *options) as gateway:

            def listed() -> dict[str, str]:  # on a connection of its own, which either worker takes
                rows = gateway.ask(LIST)["data"]["phoneNumbers"]["nodes"]
                return {row["id"]: row["friendlyName"] for row in rows}

            for id_ in list(listed())[:3]:
                for _ in range(10):
                    listed()
                gateway.ask(NAME, id=id_)

                assert [listed()[id_] for _ in range(10)] == ["new"] * 10
            assert gateway.stop() == 0


async def test_a_persisted_document_sent_to_one_replica_is_known_to_another(store: Store) -> None:
    text = "{ rateLimit { limit } }"
    apq = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(text.encode()).hexdigest()}}
    async with replicas(store.url) as (one, two):
        before = await two.http.post("/graphql", json={"extensions": apq})
        await one.http.post("/graphql", json={"query": text, "extensions": apq})

        after = await two.http.post("/graphql", json={"extensions": apq})

    assert errors_of(before.json()) == [("PERSISTED_QUERY_NOT_FOUND", None)]
    assert after.json() == {"data": {"rateLimit": None}}


async def test_callers_of_no_tenant_share_few_persisted_documents(store: Store) -> None:
    padding = "#" * (DOCUMENT_BYTES - 100)
    texts = [f"{{ rateLimit {{ limit }} }} {padding} {n}" for n in range(HOLDER_BYTES // DOCUMENT_BYTES + 10)]
    texts.append(f"{{ rateLimit {{ limit }} }} {'#' * DOCUMENT_BYTES}")
    async with replicas(store.url) as (one, _):
        for text in texts:
            apq = {"persistedQuery": {"version": 1, "sha256Hash": hashlib.sha256(text.encode()).hexdigest()}}
            await one.http.post("/graphql", json={"query": text, "extensions": apq}, headers={"X-API-Key": text[-1]})

        contents = await store.contents()

    kept = {key: (value, ttl) for key, (value, ttl) in contents.items() if key.startswith(b"omnia:document:")}
    assert HOLDER_BYTES * 0.9 < sum(len(value) for value, _ in kept.values()) <= HOLDER_BYTES
    assert max(len(value) for value, _ in kept.values()) <= DOCUMENT_BYTES
    assert all(0 < ttl <= DOCUMENT_LASTS for _, ttl in contents.values() if ttl < IDENTITY_LASTS - 60)
    assert sorted(key for key in contents if key.endswith(b":documents")) == [b"omnia:anybody:documents"]


async def test_an_answer_that_tells_no_quota_is_shared_all_the_same(store: Store) -> None:
    async with replicas(store.url) as (one, two):
        page = {"data": [], "pagination": {"page": 1, "limit": 100, "total": 0}}
        one.upstream.play("GET /numbers.*", httpx.Response(200, json=page))
        await one.data(LIST)
        await told(store, 1)

        assert (await two.data(LIST))["phoneNumbers"] == {"nodes": []}
        assert two.calls == []
