"""Several replicas on one Redis: what one knows all know, and without Redis each goes on alone."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from redis.asyncio import Redis

from gateway.demo import Workspace, sample_workspace
from tests.harness import Fault, Gateway, errors_of, open_gateway

REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed here")

LIST = "{ phoneNumbers(first: 100) { nodes { id friendlyName agent { id } } } }"
NAME = 'mutation($id: ID!) { updatePhoneNumber(id: $id, input: {friendlyName: "new"}) { phoneNumber { id } } }'
NESTED = "{ agents(first: 100) { nodes { id numbers { id } } } }"


class Store:
    """A redis-server of the test's own, which can be stopped and started again on its port."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        arguments = ("--port", str(self.port), "--save", "", "--dir", str(self._directory), *options)
        self._process = await asyncio.create_subprocess_exec(
            str(REDIS), "--bind", "127.0.0.1", *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout
        while b"Ready to accept connections" not in await self._process.stdout.readline():
            assert not self._process.stdout.at_eof()

    async def stop(self) -> None:
        """Kill it; all that it held is lost."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def contents(self) -> dict[bytes, tuple[Any, int]]:
        """Every key with its value and its time to live in seconds."""
        async with Redis.from_url(self.url) as redis:
            values: dict[bytes, Any] = {}
            for key in await redis.keys():
                stream = await redis.type(key) == b"stream"
                values[key] = await (redis.xrange(key) if stream else redis.get(key)), await redis.ttl(key)
            return values


class Slow:
    """A TCP proxy in front of it that holds each answer back for a while."""

    def __init__(self, port: int, delay: float) -> None:
        self._port = port
        self.delay = delay
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        below, above = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pump(reader, above, 0), self._pump(below, writer, self.delay))
        finally:
            writer.close()
            above.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            writer.write(data)
        writer.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    redis = Store(tmp_path)
    await redis.start()
    yield redis
    await redis.stop()


@asynccontextmanager
async def replicas(
    url: str, *, workspaces: Mapping[str, Workspace] | None = None, count: int = 2, **more: Any
) -> AsyncIterator[list[Gateway]]:
    """Gateways that share a Redis and an upstream."""
    spaces = workspaces or {"demo": sample_workspace()}
    settings = {"redis_url": url, "cache_ttl": "60", **more.pop("settings", {})}
    async with AsyncExitStack() as stack:
        gateways = [open_gateway(workspaces=spaces, settings=settings, **more) for _ in range(count)]
        yield [await stack.enter_async_context(gateway) for gateway in gateways]


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


async def told(store: Store, entries: int) -> None:
    """Wait until the logs hold so many entries: answers are told in the background."""
    async with Redis.from_url(store.url) as redis:
        while sum([await redis.xlen(key) for key in await redis.keys("omnia:*:log")]) < entries:
            await asyncio.sleep(0.005)


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


async def test_a_slow_redis_costs_one_short_wait_and_one_warning(store: Store) -> None:
    space = sample_workspace()
    async with Slow(store.port, 0.2) as url:
        with structlog.testing.capture_logs() as logs:
            async with replicas(url, workspaces={"demo": space}) as (one, two):
                for gateway in (one, two):
                    answers = [await gateway.ask(LIST) for _ in range(3)]
                    assert all(len(answer["data"]["phoneNumbers"]["nodes"]) == 60 for answer in answers)
                    assert gateway.calls == ["GET /numbers?page=1&limit=100"]

    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["redis_unavailable"] * 2  # one at each replica


async def test_a_full_redis_leaves_each_replica_to_its_own_memory_with_one_warning(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.start("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with structlog.testing.capture_logs() as logs:
        async with replicas(store.url) as (one, two):
            for gateway in (one, two):
                for _ in range(3):
                    await gateway.data(NESTED)
                    gateway.clock.now += 6  # the pause after a failure is over
                assert len(gateway.calls) == 2
    await store.stop()

    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["redis_unavailable"] * 2


async def test_a_redis_that_is_killed_is_not_missed_and_is_used_again_when_it_is_back(store: Store) -> None:
    space = sample_workspace()
    changed = next(iter(space.numbers))
    with structlog.testing.capture_logs() as logs:
        async with replicas(store.url, workspaces={"demo": space}) as (one, two):
            await one.data(LIST)
            await store.stop()
            alone = await one.data(LIST), await two.data(LIST)
            written = await one.ask(NAME, {"id": changed})
            await store.start()
            for gateway in (one, two):
                gateway.clock.now += 6

            await one.data(LIST)
            seen = await two.data(LIST)

            assert (len(one.calls), len(two.calls)) == (3, 1)
    assert alone[0] == alone[1]
    assert "errors" not in written
    assert {row["id"]: row["friendlyName"] for row in seen["phoneNumbers"]["nodes"]}[changed] == "new"
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["redis_unavailable"] * 2
    assert "redis_back" in [entry["event"] for entry in logs]


async def test_a_redis_that_is_not_there_at_the_start_is_found_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with structlog.testing.capture_logs() as logs:
        async with replicas(store.url) as (one, two):
            assert len((await one.data(LIST))["phoneNumbers"]["nodes"]) == 60
            await store.start()
            for gateway in (one, two):
                gateway.clock.now += 61

            await one.data(NESTED)
            await told(store, 2)
            await two.data(NESTED)

            assert (len(one.calls), two.calls) == (3, [])
    await store.stop()

    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["redis_unavailable"] * 2


async def test_what_redis_holds_of_another_version_is_passed_over(store: Store) -> None:
    async with replicas(store.url) as (one, two):
        await one.data(NESTED)
        await told(store, 2)
        async with Redis.from_url(store.url) as redis:
            for key in await redis.keys("omnia:*:log:*"):
                await redis.set(key, b'{"data": "of another shape"}')
            for key in await redis.keys("omnia:*:log"):
                await redis.xadd(key, {"event": b"\xc1 nothing like it"})
                await redis.xadd(key, {"another": b"field"})

        data = await two.data(NESTED)

        assert len(data["agents"]["nodes"]) == 12
        assert len(two.calls) == 2


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
