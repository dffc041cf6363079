"""What replicas tell each other when it cannot be told at once, comes twice, or is lost by Redis; no write may be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.demo.rest_api import Workspace, sample_workspace
from gateway.upstream.redis_sync import MAX_UNSENT, PAUSE
from tests.harness import Gateway, capture_logs, errors_of
from tests.store import LIST, NAME, NESTED, REDIS, Slow, Store, replicas, told

pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed here")


class Ahead(asyncio.SelectorEventLoop):
    """An event loop whose time can be put ahead, so that what sleeps wakes."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


LOOPS = {"asyncio": Ahead}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    redis = Store(tmp_path)
    await redis.start()
    yield redis
    await redis.stop()


async def names(gateway: Gateway) -> dict[str, str]:
    data = await gateway.data(LIST)
    return {row["id"]: row["friendlyName"] for row in data["phoneNumbers"]["nodes"]}


async def write(gateway: Gateway, ids: list[str]) -> None:
    """Write to numbers, all at once."""
    answers = await asyncio.gather(*(gateway.ask(NAME, {"id": id_}) for id_ in ids))
    assert [errors_of(answer) for answer in answers] == [[]] * len(ids)


async def log_of(redis: Any) -> Any:
    return next(iter(await redis.keys("omnia:*:log")))


async def writes_told(store: Store) -> int:
    async with store.client() as redis:
        return sum(b"Wrote" in fields[b"event"] for _, fields in await redis.xrange(await log_of(redis)))


def space_of_many() -> tuple[Workspace, list[str]]:
    space = sample_workspace(agents=10, numbers=100)
    return space, list(space.numbers)


async def test_writes_at_the_same_time_are_all_answered_and_each_is_told_once(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await names(two)
        for _ in range(5):
            await asyncio.gather(write(one, ids[:20]), one.data(LIST), two.data(LIST), write(two, ids[20:40]))

        assert await writes_told(store) == 200
        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:40]
        assert [id_ for id_, name in (await names(one)).items() if name == "new"] == ids[:40]


async def test_writes_that_redis_did_not_take_are_told_when_it_is_back(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await names(one)
        await store.stop()
        await write(one, ids[:20])
        await names(two)
        await store.start()
        for gateway in (one, two):
            gateway.clock.now += PAUSE + 1
        await asyncio.gather(*(one.data("{ rateLimit { limit } }") for _ in range(10)))

        assert await writes_told(store) == 20
        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:20]


async def test_a_write_is_told_though_nobody_asks_its_replica_again(store: Store) -> None:
    space, ids = space_of_many()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Ahead)
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await store.stop()
        await write(one, ids[:2])
        await names(two)
        for _ in range(2):  # the first time it is still away
            one.clock.now += PAUSE + 1
            two.clock.now += PAUSE + 1
            loop.ahead += PAUSE + 1
            await asyncio.sleep(0.01)
            if not store.running:
                await store.start()
        await told(store, 2)

        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:2]


async def test_a_replica_that_stops_tells_what_it_still_owes(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}, count=1) as (two,):
        async with replicas(store.url, workspaces={"demo": space}, count=1) as (one,):
            await store.stop()
            await names(two)
            await write(one, ids[:2])
            await store.start()
            one.clock.now += PAUSE + 1
            two.clock.now += PAUSE + 1

        assert await writes_told(store) == 2
        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:2]


async def test_after_too_many_writes_to_keep_replicas_are_told_that_all_is_stale(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}, quota=10**6) as (one, two):
        before = await names(two)
        await store.stop()
        await write(one, ids[:1])
        for _ in range(MAX_UNSENT // 100):
            await write(one, [ids[1]] * 100)
        assert await names(two) == before
        await store.start()
        for gateway in (one, two):
            gateway.clock.now += PAUSE + 1
        await one.data("{ rateLimit { limit } }")

        assert await writes_told(store) == 1
        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:2]


async def test_a_write_older_than_any_answer_may_be_is_told_no_more(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}, count=1) as (one,):
        await store.stop()
        await write(one, ids[:1])
        one.clock.now += 3601
        await one.data("{ rateLimit { limit } }")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Ahead)
        loop.ahead += PAUSE + 1
        await asyncio.sleep(0.01)
        await store.start()
        one.clock.now += PAUSE + 1
        await one.data(LIST)
        await told(store, 1)

        assert await writes_told(store) == 0


async def test_an_emptied_redis_makes_every_replica_forget_what_it_remembers(store: Store) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}, count=3) as (one, two, three):
        await names(two)
        await names(three)
        await write(one, ids[:1])
        async with store.client() as redis:
            await redis.flushall()
        await write(one, ids[1:2])

        for gateway in (three, two):
            assert [id_ for id_, name in (await names(gateway)).items() if name == "new"] == ids[:2]


@pytest.mark.parametrize("lost", ["log", "entry"])
async def test_a_log_that_has_lost_what_it_told_makes_replicas_forget(store: Store, lost: str) -> None:
    space, ids = space_of_many()
    async with replicas(store.url, workspaces={"demo": space}) as (one, two):
        await names(one)
        await told(store, 1)
        await names(two)
        await write(one, ids[:1])
        async with store.client() as redis:  # as a failover to a Redis that lags behind would
            log = await log_of(redis)
            if lost == "log":
                await redis.delete(log)
            else:
                await redis.xdel(log, (await redis.xrevrange(log, count=1))[0][0])
        if lost == "entry":
            await one.data("{ rateLimit { limit } }")

        assert [id_ for id_, name in (await names(two)).items() if name == "new"] == ids[:1]


async def test_a_log_that_has_only_grown_old_is_nothing_to_tell_of(store: Store) -> None:
    async with replicas(store.url) as (one, two):
        await names(one)
        await told(store, 1)
        await names(two)
        async with store.client() as redis:
            log = await log_of(redis)
            fields = (await redis.xrange(log))[0][1]
            await redis.delete(log)
            await redis.xadd(log, fields, id="1-1")  # of 1970
        await names(one)
        await names(one)
        async with store.client() as redis:
            await redis.delete(log)
        await names(one)

        assert await writes_told(store) == 0


async def test_replicas_whose_clocks_differ_know_the_age_of_each_others_answers(store: Store) -> None:
    async with replicas(store.url, quota=50, count=3, settings={"quota_reserve": "0"}) as (one, two, three):
        two.clock.now += 7200
        three.clock.now -= 7200
        await names(one)
        await told(store, 1)

        for gateway in (two, three):
            await names(gateway)
            state = (await gateway.data("{ rateLimit { remaining } }"))["rateLimit"]
            assert (gateway.calls, state) == ([], {"remaining": 49})
            gateway.clock.now += 59
            await names(gateway)
            assert gateway.calls == []
            gateway.clock.now += 2
            await names(gateway)
            assert len(gateway.calls) == 1


async def test_an_answer_to_a_write_reaches_its_caller_while_redis_hangs(store: Store) -> None:
    space, ids = space_of_many()
    settings = {"deadline": "0.5"}
    async with (
        Slow(store.port, 0) as slow,
        replicas(slow.url, workspaces={"demo": space}, count=1, settings=settings) as (one,),
    ):
        await names(one)

        async def answer(_: httpx.Request) -> httpx.Response:
            slow.delay = 3
            number = space.numbers[ids[0]] | {"friendlyName": "new"}
            return httpx.Response(200, json=number)

        one.upstream.play("PUT .*", answer)
        written = await one.ask(NAME, {"id": ids[0]})
        slow.delay = 0

    assert written["data"] == {"updatePhoneNumber": {"phoneNumber": {"id": ids[0]}}}
    assert errors_of(written) == []


async def test_operations_that_begin_together_share_one_reading_of_the_log(store: Store) -> None:
    async with (
        Slow(store.port, 0.02) as slow,
        replicas(slow.url, count=1) as (one,),
        store.client() as redis,
    ):
        await one.data(LIST)
        await redis.config_resetstat()

        await asyncio.gather(*(one.data(LIST) for _ in range(20)))
        reads = (await redis.info("commandstats"))["cmdstat_xrange"]["calls"]

    assert reads <= 2


@pytest.mark.parametrize("key", ["omnia:identity", "omnia:*:log"])
async def test_a_redis_that_holds_something_else_there_is_done_without(store: Store, key: str) -> None:
    space, ids = space_of_many()
    with capture_logs() as logs:
        async with replicas(store.url, workspaces={"demo": space}, count=1) as (one,):
            await names(one)
            await told(store, 1)
            async with store.client() as redis:
                for name in await redis.keys(key):
                    await redis.delete(name)
                    await redis.lpush(name, "of another program")
            await write(one, ids[:2])

            assert [id_ for id_, name in (await names(one)).items() if name == "new"] == ids[:2]

    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["redis_unavailable"]


async def test_writes_with_made_up_keys_leave_nothing_in_redis(store: Store) -> None:
    async with replicas(store.url, count=1) as (one,):
        for at in range(3):
            answer = await one.ask(NAME, {"id": "n"}, key=f"made-up-{at}")
            assert errors_of(answer) == [("UNAUTHENTICATED", ["updatePhoneNumber"])]

        assert list(await store.contents()) == [b"omnia:identity"]


async def test_callers_that_leave_while_redis_answers_mix_up_no_tenants(store: Store) -> None:
    keys = [f"key-{at}" for at in range(4)]
    spaces = {key: sample_workspace(agents=2, numbers=5, prefix=key) for key in keys}
    async with (
        Slow(store.port, 0.01) as slow,
        replicas(slow.url, workspaces=spaces) as gateways,
    ):
        for turn in range(10):
            left = [asyncio.ensure_future(gateways[at % 2].data(NESTED, key=keys[at % 4])) for at in range(16)]
            for _ in range(turn * 3):
                await asyncio.sleep(0.001)
            for task in left[:12]:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        for gateway in gateways:
            for key in keys:
                agents = (await gateway.data(NESTED, key=key))["agents"]["nodes"]
                assert {agent["id"] for agent in agents} == set(spaces[key].agents)


async def test_an_answer_whose_body_is_gone_is_asked_for_again(store: Store) -> None:
    async with replicas(store.url) as (one, two):
        await names(one)
        await told(store, 1)
        async with store.client() as redis:
            for name in await redis.keys("omnia:*:log:*"):
                await redis.delete(name)

        await names(two)

        assert two.calls == ["GET /numbers?page=1&limit=100"]
