"""What an operation makes of a clock that goes on between two readings, and of answers that overtake each other."""

import asyncio
from email.utils import formatdate

import httpx
import pytest

from gateway.demo.rest_api import sample_workspace
from tests.harness import Clock, errors_of, open_gateway
from tests.plain import OWNED, singles, through

NESTED = "{ phoneNumbers(first: 100) { nodes { agent { name } } } }"


@pytest.mark.parametrize("left", range(1, 16))
async def test_the_quotas_window_may_end_between_any_two_readings(left: int) -> None:
    workspace, clock = sample_workspace(), Clock(tick=1.0, call=0.0)
    workspace.window_ends = int(clock.now) + left

    async with open_gateway(workspaces={"demo": workspace}, clock=clock, settings={"compiled": "false"}) as gateway:
        answer = await gateway.ask(NESTED)

    assert "errors" not in answer


@pytest.mark.parametrize("tick", [0.0, 0.3, 0.5, 0.7])
async def test_a_caller_who_waits_as_long_as_told_is_not_refused_again(tick: float) -> None:
    workspace = sample_workspace()

    async with open_gateway(workspaces={"demo": workspace}, clock=Clock(tick=tick), quota=1) as gateway:
        await gateway.data("{ agents { totalCount } }")
        refused = await gateway.ask("{ agents { totalCount } }")
        gateway.clock.now += refused["errors"][0]["extensions"]["retryAfter"]
        passed = await gateway.ask("{ agents { totalCount } }")

    assert errors_of(refused) == [("RATE_LIMITED", ["agents"])]
    assert "errors" not in passed


async def test_a_429_tells_how_long_to_wait_whatever_time_passes_meanwhile() -> None:
    async with open_gateway(clock=Clock(tick=1.0)) as gateway:
        gateway.upstream.play("GET .*", httpx.Response(429, headers={"Retry-After": "1"}))

        answer = await gateway.ask("{ agents { totalCount } }")

    assert answer["errors"][0]["extensions"]["retryAfter"] == 1


async def test_a_late_answer_does_not_hide_how_large_a_list_is_by_a_newer_one() -> None:
    few = sample_workspace(agents=12, numbers=60)
    async with open_gateway(workspaces={"demo": few}) as gateway:
        asked, release = asyncio.Event(), asyncio.Event()

        async def late(request: httpx.Request) -> httpx.Response:
            answer: httpx.Response = await through(gateway, lambda: None)(request)
            asked.set()
            await release.wait()
            return answer

        gateway.upstream.play("GET /numbers[?]page=1&limit=5", late)
        older = asyncio.ensure_future(gateway.data("{ phoneNumbers(first: 5) { totalCount } }"))
        await asked.wait()
        few.numbers.update(sample_workspace(agents=1, numbers=2000, prefix="more").numbers)
        await gateway.data("{ phoneNumbers(first: 100) { totalCount } agents(first: 100) { totalCount } }")
        release.set()
        assert await older == {"phoneNumbers": {"totalCount": 60}}
        del gateway.upstream.calls[:]

        await gateway.data(OWNED, {"n": 4})

        assert gateway.calls == ["GET /agents?page=1&limit=4", *singles(few, 4)]


async def test_the_age_of_a_stale_answer_is_told_in_whole_seconds() -> None:
    async with open_gateway(settings={"stale_if_error": "60"}) as gateway:
        await gateway.ask("{ agents { totalCount } }")
        gateway.clock.now += 7
        gateway.upstream.play("GET .*", httpx.Response(503))

        answer = await gateway.ask("{ agents { totalCount } }")

    assert answer["extensions"]["quota"]["age"] == 7
    assert isinstance(answer["extensions"]["quota"]["age"], int)


async def test_a_late_answer_of_the_same_window_does_not_raise_what_is_left() -> None:
    async with open_gateway() as gateway:
        began = gateway.clock.now
        asked, release = asyncio.Event(), asyncio.Event()

        def told(remaining: int) -> httpx.Response:
            limits = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": str(remaining)}
            date = formatdate(began, usegmt=True)
            return httpx.Response(404, headers={**limits, "X-RateLimit-Reset": str(int(began) + 3000), "Date": date})

        async def late(_: httpx.Request) -> httpx.Response:
            asked.set()
            await release.wait()
            return told(900)

        gateway.upstream.play("GET /agents/late", late)
        gateway.upstream.play("GET /agents/soon", told(899))
        older = asyncio.ensure_future(gateway.ask('{ agent(id: "late") { name } }'))
        await asked.wait()
        await gateway.ask('{ agent(id: "soon") { name } }')
        gateway.clock.now += 8
        release.set()
        await older

        assert await gateway.data("{ rateLimit { remaining } }") == {"rateLimit": {"remaining": 899}}
