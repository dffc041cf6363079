"""Identical reads of one tenant under way at once are one call, whoever leaves and whoever writes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.dataloaders.loaders import Loader
from gateway.demo.rest_api import sample_workspace
from gateway.upstream.errors import Unavailable
from tests.harness import Fault, Gateway, errors_of, open_gateway, spent
from tests.plain import through

NESTED = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
NESTED_CALLS = ["GET /agents?page=1&limit=50", "GET /numbers?page=1&limit=100"]
NUMBERS = "{ phoneNumbers(first: 100) { nodes { id friendlyName } } }"
NUMBERS_CALL = "GET /numbers?page=1&limit=100"
RENAME = 'mutation($id: ID!) { updatePhoneNumber(id: $id, input: {friendlyName: "new"}) { phoneNumber { id } } }'


class Gate:
    """Answers of the moment when they were asked for, held back until the gate is opened."""

    def __init__(self, gateway: Gateway) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self._gateway = gateway

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode().removeprefix("/api/v1")
        copy = httpx.Request(request.method, f"http://upstream{target}", headers=request.headers)
        response = await self._gateway.upstream._demo.handle_async_request(copy)
        body = await response.aread()
        self.reached.set()
        await self.opened.wait()
        return httpx.Response(response.status_code, headers=response.headers, content=body)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def gate(gateway: Gateway) -> Gate:
    return Gate(gateway)


async def test_fifty_identical_queries_at_once_cost_the_calls_of_one(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.ask(NESTED) for _ in range(50)))

    assert gateway.calls == NESTED_CALLS
    assert all(answer["data"] == answers[0]["data"] for answer in answers)
    assert sum(map(spent, answers)) == 2
    assert sum(answer["extensions"]["quota"]["saved"]["coalesced"] for answer in answers) == 49 * 2


async def test_two_keys_share_nothing_and_cost_twice_the_calls(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.ask(NESTED, key=key) for _ in range(25) for key in ("demo", "demo-2")))

    assert sorted(gateway.calls) == sorted(NESTED_CALLS * 2)
    assert answers[0]["data"] != answers[1]["data"]
    assert all(answer["data"] == answers[i % 2]["data"] for i, answer in enumerate(answers))


async def test_the_first_caller_may_leave_without_failing_the_others(gateway: Gateway, gate: Gate) -> None:
    gateway.upstream.play("GET .*", gate)
    first = asyncio.ensure_future(gateway.ask(NUMBERS))
    await gate.reached.wait()
    others = [asyncio.ensure_future(gateway.ask(NUMBERS)) for _ in range(3)]
    await settle()

    first.cancel()
    await settle()
    gate.opened.set()
    answers = await asyncio.gather(*others)

    assert gateway.calls == [NUMBERS_CALL]
    assert all(len(answer["data"]["phoneNumbers"]["nodes"]) == 60 for answer in answers)
    assert [spent(answer) for answer in answers] == [0, 0, 0]


async def test_the_last_caller_to_leave_ends_the_call_and_the_next_begins_anew(gateway: Gateway, gate: Gate) -> None:
    gateway.upstream.play("GET .*", gate)
    callers = [asyncio.ensure_future(gateway.ask(NUMBERS)) for _ in range(2)]
    await gate.reached.wait()
    for caller in callers:
        caller.cancel()
    await settle()
    gate.opened.set()

    answer = await gateway.ask(NUMBERS)

    assert gateway.calls == [NUMBERS_CALL] * 2
    assert spent(answer) == 1


async def test_a_batch_of_an_operation_that_is_over_does_not_begin() -> None:
    begun: list[list[str]] = []

    async def fetch(keys: list[str]) -> list[str | Exception]:
        begun.append(keys)
        return [*keys]

    async def operation() -> tuple[Loader[str, str], asyncio.Task[str]]:
        loader: Loader[str, str] = Loader(fetch)
        return loader, asyncio.ensure_future(loader.load("a"))

    loader, left = await asyncio.ensure_future(operation())
    await settle()

    assert isinstance(left.exception(), Unavailable)
    with pytest.raises(Unavailable):
        await loader.load("b")

    assert begun == []


async def test_a_call_given_up_from_below_fails_those_who_wait_for_it() -> None:
    async def fetch(_: list[str]) -> list[str | Exception]:
        raise asyncio.CancelledError

    with pytest.raises(Unavailable):
        await Loader[str, str](fetch).load("a")


async def test_a_failure_is_shared_by_those_who_wait_and_not_kept_for_those_who_come(gateway: Gateway) -> None:
    gateway.upstream.play("GET .*", httpx.Response(500), httpx.Response(403))

    shared = await asyncio.gather(*(gateway.ask(NUMBERS) for _ in range(3)))
    later = await gateway.ask(NUMBERS)

    assert gateway.calls == [NUMBERS_CALL] * 2
    assert [errors_of(answer) for answer in shared] == [[("UPSTREAM_ERROR", ["phoneNumbers"])]] * 3
    assert errors_of(later) == [("FORBIDDEN", ["phoneNumbers"])]


async def test_a_read_after_a_write_does_not_join_one_from_before(gateway: Gateway, gate: Gate) -> None:
    changed = next(iter(gateway.workspaces["demo"].numbers))
    gateway.upstream.play("GET .*", gate)
    before = asyncio.ensure_future(gateway.data(NUMBERS))
    await gate.reached.wait()
    await gateway.data(RENAME, {"id": changed})

    after = asyncio.ensure_future(gateway.data(NUMBERS))
    await settle()
    gate.opened.set()
    old, new = await asyncio.gather(before, after)

    assert gateway.calls == [NUMBERS_CALL, f"PUT /numbers/{changed}", NUMBERS_CALL]
    assert old["phoneNumbers"]["nodes"][0]["friendlyName"] != "new"
    assert new["phoneNumbers"]["nodes"][0]["friendlyName"] == "new"


async def test_a_read_begun_while_a_write_is_under_way_is_not_joined_after_it(gateway: Gateway, gate: Gate) -> None:
    changed = next(iter(gateway.workspaces["demo"].numbers))
    writing = asyncio.Event()
    written = asyncio.Event()
    gateway.upstream.play("PUT .*", _wait(gateway, writing, written))
    write = asyncio.ensure_future(gateway.data(RENAME, {"id": changed}))
    await writing.wait()
    gateway.upstream.play("GET .*", gate)
    during = asyncio.ensure_future(gateway.data(NUMBERS))
    await gate.reached.wait()
    written.set()
    await write

    after = asyncio.ensure_future(gateway.data(NUMBERS))
    await settle()
    gate.opened.set()
    await during

    assert (await after)["phoneNumbers"]["nodes"][0]["friendlyName"] == "new"
    assert gateway.calls == [f"PUT /numbers/{changed}", NUMBERS_CALL, NUMBERS_CALL]


def _wait(gateway: Gateway, reached: asyncio.Event, go: asyncio.Event) -> Fault:
    """Let a write through only when told to."""

    async def answer(request: httpx.Request) -> httpx.Response:
        reached.set()
        await go.wait()
        target = request.url.raw_path.decode().removeprefix("/api/v1")
        copy = httpx.Request(
            request.method, f"http://upstream{target}", headers=request.headers, content=await request.aread()
        )
        return await gateway.upstream._demo.handle_async_request(copy)

    return answer


async def test_a_write_goes_to_its_end_though_its_caller_has_left(gateway: Gateway) -> None:
    changed = next(iter(gateway.workspaces["demo"].numbers))
    writing, go = asyncio.Event(), asyncio.Event()
    gateway.upstream.play("PUT .*", _wait(gateway, writing, go))
    caller = asyncio.ensure_future(gateway.ask(RENAME, {"id": changed}))
    await writing.wait()

    caller.cancel()
    await settle()
    go.set()
    await settle()

    assert gateway.workspaces["demo"].numbers[changed]["friendlyName"] == "new"
    assert gateway.calls == [f"PUT /numbers/{changed}"]


async def test_identical_writes_are_never_shared(gateway: Gateway) -> None:
    changed = next(iter(gateway.workspaces["demo"].numbers))

    await asyncio.gather(*(gateway.data(RENAME, {"id": changed}) for _ in range(3)))

    assert gateway.calls == [f"PUT /numbers/{changed}"] * 3


@pytest.fixture
async def hasty() -> AsyncIterator[Gateway]:
    async with open_gateway(settings={"deadline": "0.05"}) as gateway:
        yield gateway


async def test_a_deadline_ends_one_callers_wait_and_the_call_where_nobody_else_waits(hasty: Gateway) -> None:
    hasty.upstream.play("GET .*", Gate(hasty))

    answer = await hasty.ask(NUMBERS)

    assert errors_of(answer) == [("UPSTREAM_TIMEOUT", ["phoneNumbers"])]
    assert (hasty.calls, spent(answer)) == ([NUMBERS_CALL], 1)


async def test_a_worker_among_several_joins_no_read_begun_before_anothers_write() -> None:
    space = sample_workspace()
    changed = next(iter(space.numbers))
    options: Any = {"workspaces": {"demo": space}, "settings": {"workers": "2"}}
    async with open_gateway(**options) as one, open_gateway(**options) as two:
        gate = Gate(two)
        two.upstream.play(NUMBERS_CALL.replace("?", "[?]"), gate, through(two, lambda: None))
        early = asyncio.ensure_future(two.data(NUMBERS))
        await gate.reached.wait()
        await one.data(RENAME, {"id": changed})

        late = await two.data(NUMBERS)
        gate.opened.set()
        await early

    assert two.calls == [NUMBERS_CALL] * 2
    assert {row["id"]: row["friendlyName"] for row in late["phoneNumbers"]["nodes"]}[changed] == "new"


async def test_a_worker_among_several_joins_the_reads_of_an_operation_all_the_same() -> None:
    async with open_gateway(settings={"workers": "2", "max_batch": "2"}) as gateway:
        batch = [{"query": NUMBERS}] * 2
        response = await gateway.http.post("/graphql", json=batch, headers={"X-API-Key": "demo"})

        assert gateway.calls == [NUMBERS_CALL]
    assert response.json()[0]["data"] == response.json()[1]["data"]
