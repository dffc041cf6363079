"""The loaders: waiters are independent of each other, and an operation that is left spends nothing more."""

import asyncio
import gc
from collections.abc import Callable, Sequence

import httpx
import pytest
from aiodataloader import DataLoader

from gateway.dataloaders.loaders import Loader
from gateway.demo.rest_api import sample_workspace
from tests.harness import Gateway, errors_of, open_gateway

OWNED = "{ agents(first: 12) { nodes { id numbers { id } } } }"


class Source:
    """What a loader fetches from: writes batches down, and answers when it is opened."""

    def __init__(self, answer: Callable[[str], str | Exception] = str.upper) -> None:
        self.batches: list[list[str]] = []
        self.opened = asyncio.Event()
        self._answer = answer

    async def fetch(self, keys: list[str]) -> Sequence[str | Exception]:
        self.batches.append(keys)
        await self.opened.wait()
        return [self._answer(key) for key in keys]


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def started(loader: Loader[str, str], keys: str) -> list[asyncio.Task[str]]:
    """Start to load keys, each in a task of its own."""
    return [asyncio.ensure_future(loader.load(key)) for key in keys]


class Gate:
    """A fault that holds calls back until it is opened, then answers 404."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.full = asyncio.Event()
        self._waiting = 0

    async def __call__(self, _: httpx.Request) -> httpx.Response:
        self._waiting += 1
        if self._waiting == 2:
            self.full.set()
        await self.opened.wait()
        return httpx.Response(404)


async def test_a_waiter_that_is_cancelled_leaves_the_value_to_the_others() -> None:
    source = Source()
    loader: Loader[str, str] = Loader(source.fetch)
    first, second = started(loader, "aa")
    await settle()

    first.cancel()
    source.opened.set()

    assert await second == "A"
    assert await loader.load("a") == "A"
    assert (first.cancelled(), source.batches) == (True, [["a"]])


async def test_a_waiter_cancelled_before_its_batch_began_cancels_nobody() -> None:
    source = Source()
    source.opened.set()
    loader: Loader[str, str] = Loader(source.fetch)
    first, second = started(loader, "ab")
    await asyncio.sleep(0)

    first.cancel()

    assert await second == "B"
    assert await loader.load("a") == "A"
    assert source.batches == [["a", "b"]]


async def test_a_batch_that_nobody_waits_for_any_more_ends_in_silence() -> None:
    source = Source(lambda _: ValueError("unheard"))
    loader: Loader[str, str] = Loader(source.fetch)
    waiters = started(loader, "abc")
    await settle()

    for waiter in waiters:
        waiter.cancel()
    source.opened.set()
    await settle()

    with pytest.raises(ValueError, match="unheard"):
        await loader.load("a")
    assert source.batches == [["a", "b", "c"]]


async def test_a_load_that_fails_when_its_waiter_has_left_ends_in_silence() -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    source, over = Source(lambda _: ValueError("no")), asyncio.Event()
    loader: Loader[str, str] = Loader(source.fetch, operation=asyncio.ensure_future(over.wait()))
    (value,) = started(loader, "a")
    await settle()

    value.cancel()
    source.opened.set()
    await settle()
    over.set()
    await settle()
    del value, loader
    gc.collect()

    assert heard == []


async def test_a_load_that_its_operation_does_not_wait_for_ends_with_it() -> None:
    source, over = Source(), asyncio.Event()
    loader: Loader[str, str] = Loader(source.fetch, operation=asyncio.ensure_future(over.wait()))
    (early,) = started(loader, "a")
    await settle()
    (late,) = started(loader, "b")

    over.set()
    await settle()

    assert [str(value.exception()) for value in (early, late)] == [
        "The call to the upstream was given up; try again later."
    ] * 2
    assert source.batches[0] == ["a"]


async def test_loads_of_one_tick_are_one_batch_of_distinct_keys() -> None:
    source = Source()
    source.opened.set()
    loader: Loader[str, str] = Loader(source.fetch)

    values = await asyncio.gather(*(loader.load(key) for key in "abcabc"))

    assert values == ["A", "B", "C"] * 2
    assert source.batches == [["a", "b", "c"]]


async def test_a_loader_is_a_dataloader_that_can_be_primed_and_cleared() -> None:
    batches: list[list[str]] = []

    async def fetch(keys: list[str]) -> list[str]:
        batches.append(keys)
        return [key.upper() for key in keys]

    loader: Loader[str, str] = Loader(fetch)
    primed = await loader.prime("a", "given").prime("a", "late").load_many(["a", "b"])
    cleared = await loader.clear("a").load_many(["a", "b"])

    assert isinstance(loader, DataLoader)
    assert (primed, cleared, batches) == (["given", "B"], ["A", "B"], [["b"], ["a"]])


async def test_the_failure_of_one_key_is_its_own_and_stays_until_cleared() -> None:
    source = Source(lambda key: KeyError(key) if key == "b" else key)
    source.opened.set()
    loader: Loader[str, str] = Loader(source.fetch)

    values = await asyncio.gather(*map(loader.load, "abc"), return_exceptions=True)
    again = await asyncio.gather(loader.load("b"), return_exceptions=True)
    loader.clear_all()
    cleared = await asyncio.gather(loader.load("b"), return_exceptions=True)

    assert [type(value) for value in (*values, *again, *cleared)] == [str, KeyError, str, KeyError, KeyError]
    assert source.batches == [["a", "b", "c"], ["b"]]


async def test_a_batch_that_fails_as_a_whole_fails_every_key_and_is_not_remembered() -> None:
    calls: list[list[str]] = []

    async def fetch(keys: list[str]) -> Sequence[str | Exception]:
        calls.append(keys)
        if len(calls) == 1:
            raise RuntimeError
        return keys

    loader: Loader[str, str] = Loader(fetch)

    failed = await asyncio.gather(loader.load("a"), loader.load("b"), return_exceptions=True)

    assert [type(error) for error in failed] == [RuntimeError, RuntimeError]
    assert await loader.load("a") == "a"


async def test_what_was_asked_for_before_all_is_cleared_is_answered_and_asked_for_anew_after_it() -> None:
    source = Source()
    loader: Loader[str, str] = Loader(source.fetch)
    before = asyncio.ensure_future(loader.load_batch(["a"]))
    await asyncio.sleep(0)

    loader.clear_all()
    after = asyncio.ensure_future(loader.load_batch(["a"]))
    source.opened.set()

    assert [*await before, *await after] == ["A", "A"]
    assert source.batches == [["a"], ["a"]]


async def test_a_running_batch_survives_the_garbage_collector() -> None:
    source = Source()
    loader: Loader[str, str] = Loader(source.fetch)
    waiter = loader.load("a")
    await settle()

    gc.collect()
    source.opened.set()

    assert await waiter == "A"


async def test_a_caller_that_leaves_does_not_fail_another_with_the_same_question(gateway: Gateway) -> None:
    gate = Gate()
    gateway.upstream.play("GET /agents/a1", gate)
    ask = '{ agent(id: "a1") { name } }'
    leaver, stayer = (asyncio.ensure_future(gateway.ask(ask)) for _ in range(2))
    await settle()

    leaver.cancel()
    await settle()
    gate.opened.set()

    assert (await stayer)["data"] == {"agent": None}
    assert gateway.calls == ["GET /agents/a1"]


async def test_an_operation_whose_caller_left_sends_nothing_more() -> None:
    settings = {"upstream_connections": "2"}
    async with open_gateway(
        workspaces={"demo": sample_workspace(agents=12, numbers=5000)}, settings=settings
    ) as gateway:
        gate = Gate()
        gateway.upstream.play("GET /agents/.*", gate)
        leaver = asyncio.ensure_future(gateway.ask(OWNED))
        await gate.full.wait()

        leaver.cancel()
        await settle()
        gate.opened.set()
        await settle()
        calls = gateway.calls

    assert len(calls) == 4  # the list, page 1 of the numbers, and the two that were under way


async def test_the_same_question_in_many_places_is_asked_once(gateway: Gateway) -> None:
    id_ = next(iter(gateway.workspaces["demo"].agents))
    fields = " ".join(f'q{i}: agent(id: "{id_}") {{ name numbers {{ id agent {{ name }} }} }}' for i in range(9))

    data = await gateway.data(f"{{ {fields} }}")

    assert gateway.calls == [f"GET /agents/{id_}", f"GET /agents/{id_}/numbers"]
    assert [data[f"q{i}"] for i in range(9)] == [data["q0"]] * 9


async def test_the_same_error_in_many_places_is_asked_once_and_told_at_each(gateway: Gateway) -> None:
    id_ = next(iter(gateway.workspaces["demo"].agents))
    gateway.upstream.play("GET /agents/.*", httpx.Response(500))
    fields = " ".join(f'q{i}: agent(id: "{id_}") {{ name }}' for i in range(5))

    answer = await gateway.ask(f"{{ {fields} }}")

    assert gateway.calls == [f"GET /agents/{id_}"]
    assert sorted(errors_of(answer)) == [("UPSTREAM_ERROR", [f"q{i}"]) for i in range(5)]


async def test_every_failure_of_a_batch_has_its_own_path(gateway: Gateway) -> None:
    gateway.upstream.play("GET /(agents/|numbers).*", httpx.Response(500))

    answer = await gateway.ask(OWNED)

    assert sorted(errors_of(answer)) == [("UPSTREAM_ERROR", ["agents", "nodes", i, "numbers"]) for i in range(12)]
    assert len(gateway.calls) == 14
