"""Redis slow, full, gone, late or strange: each replica goes on in its own memory, with one warning."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.demo.rest_api import sample_workspace
from tests.harness import capture_logs
from tests.plain import through
from tests.store import LIST, NAME, NESTED, REDIS, Slow, Store, replicas, told
from tests.upstream.test_sharing import Gate

pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed here")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    redis = Store(tmp_path)
    await redis.start()
    yield redis
    await redis.stop()


async def test_a_slow_redis_costs_one_short_wait_and_one_warning(store: Store) -> None:
    space = sample_workspace()
    async with Slow(store.port, 0.2) as slow:
        with capture_logs() as logs:
            async with replicas(slow.url, workspaces={"demo": space}, settings={"redis_timeout": "0.1"}) as (one, two):
                for gateway in (one, two):
                    answers = [await gateway.ask(LIST) for _ in range(3)]
                    assert all(len(answer["data"]["phoneNumbers"]["nodes"]) == 60 for answer in answers)
                    assert gateway.calls == ["GET /numbers?page=1&limit=100"]
                    assert "gateway_redis_failures_total 1.0" in (await gateway.http.get("/metrics")).text

    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["redis_unavailable"] * 2  # one at each replica


async def test_a_full_redis_leaves_each_replica_to_its_own_memory_with_one_warning(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.start("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with capture_logs() as logs:
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
    with capture_logs() as logs:
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


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_without_redis_no_read_is_joined_that_began_before_anothers_write(store: Store, workers: str) -> None:
    space = sample_workspace()
    changed = next(iter(space.numbers))
    settings = {"workers": workers, "cache_ttl": "0"}
    async with replicas(store.url, workspaces={"demo": space}, settings=settings) as (one, two):
        await two.data(LIST)
        await store.stop()
        gate = Gate(two)
        two.upstream.play(r"GET /numbers\?.*", gate, through(two, lambda: None))
        early = asyncio.ensure_future(two.data(LIST))
        await gate.reached.wait()
        await one.data(NAME, {"id": changed})

        late = await two.data(LIST)
        gate.opened.set()
        await early

    assert {row["id"]: row["friendlyName"] for row in late["phoneNumbers"]["nodes"]}[changed] == "new"


async def test_a_redis_that_is_not_there_at_the_start_is_found_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with capture_logs() as logs:
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


async def test_a_redis_that_stays_away_is_asked_for_now_and_then_and_warned_of_once(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with replicas(Store(tmp_path).url, count=1) as (gateway,):
            await gateway.data(LIST)
            for _ in range(50):
                await asyncio.sleep(0)  # replicas are told of it meanwhile
            gateway.clock.now += 6

            await gateway.data(LIST)
            metrics = (await gateway.http.get("/metrics")).text

    assert "gateway_redis_failures_total 2.0" in metrics
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["redis_unavailable"]
