"""Fields that fail for many rows: what is told is bounded, and so is the work."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from graphql import ExecutionResult, GraphQLError

from gateway.demo.rest_api import Workspace, create_demo, sample_workspace
from gateway.execution.engine import Engine
from gateway.execution.errors import MAX_FAILURES, MAX_FIELD_ERRORS
from gateway.execution.limits import Limits
from gateway.execution.response import ResponseSize
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream.client import Client
from tests.harness import UPSTREAM, Clock, Recorder, errors_of, open_gateway

BOUNDLESS = 2**40
UNKNOWN = " ".join(f"a{at}: numbers(status: UNKNOWN) {{ id }}" for at in range(5))
MULTIPLIED = f"{{ agents {{ nodes {{ numbers {{ agent {{ {UNKNOWN} }} }} }} }} }}"
NAMED = " ".join(f"a{at}: agent {{ name }}" for at in range(9))
both = pytest.mark.parametrize("compiled", [True, False])


class Bench:
    """An engine on a demo API, and the upstream between the two."""

    def __init__(self, workspace: Workspace, *, compiled: bool, **settings: str) -> None:
        self.upstream = Recorder(create_demo({"demo": workspace}, clock=Clock()))
        self.engine = Engine(Limits(), introspection=True, compiled=compiled)
        self._client = Client(load({}, {"upstream_url": UPSTREAM, **settings}), self.upstream)

    async def execute(self, text: str, limit: int = BOUNDLESS) -> ExecutionResult:
        context = Context(await self._client.session("demo", "id"))
        return await self.engine.execute(self.engine.prepare(text), None, {}, context, ResponseSize(limit))


@contextmanager
def count_tasks() -> Iterator[list[None]]:
    """Collect an item for each task that is made."""
    made: list[None] = []
    loop = asyncio.get_running_loop()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(None)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(make)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


async def test_an_argument_that_cannot_be_used_fails_once_for_all_rows() -> None:
    bench = Bench(sample_workspace(agents=1, numbers=2000), compiled=True)

    with count_tasks() as tasks:
        result = await bench.execute(MULTIPLIED)

    *told, left_out = result.errors or [GraphQLError("none")]
    assert [error.path for error in told] == [
        ["agents", "nodes", 0, "numbers", at, "agent", f"a{alias}"] for at in range(20) for alias in range(5)
    ]
    assert left_out.message.startswith("8900 more errors of this code are left out")
    assert result.data
    assert (bench.engine.counts.compiled, bench.engine.counts.fallen_back) == (1, 0)
    assert len(tasks) < 50


async def test_an_operation_of_graphql_core_that_fails_everywhere_is_ended() -> None:
    bench = Bench(sample_workspace(agents=1, numbers=2000), compiled=False)

    with count_tasks() as tasks:
        result = await bench.execute(MULTIPLIED)

    *told, ended, left_out = result.errors or [GraphQLError("none")]
    assert result.data is None
    assert len(told) == MAX_FIELD_ERRORS
    assert f"failed at more than {MAX_FAILURES} places" in ended.message
    assert "left out" in left_out.message
    assert len(tasks) < 10_000


@both
async def test_an_ended_operation_is_answered_with_its_errors(*, compiled: bool) -> None:
    workspace = sample_workspace(agents=1, numbers=300)
    for number in workspace.numbers.values():
        del number["phoneNumber"]
    text = f"{{ agents {{ nodes {{ {' '.join(f'a{at}: numbers {{ phoneNumber }}' for at in range(9))} }} }} }}"
    async with open_gateway(
        workspaces={"demo": workspace}, settings={"compiled": str(compiled), "max_batch": "2"}
    ) as gateway:
        queries = [{"query": text}, {"query": "{ agents { totalCount } }"}]
        response = await gateway.http.post("/graphql", json=queries, headers={"X-API-Key": "demo"})

    ended, other = response.json()
    codes = [code for code, _ in errors_of(ended)]
    assert ended["data"] is None
    assert codes == [*["UPSTREAM_ERROR"] * MAX_FIELD_ERRORS, "OPERATION_TOO_LARGE", "UPSTREAM_ERROR"]
    assert other["data"] == {"agents": {"totalCount": 1}}


FAULTS: dict[str, list[tuple[str, httpx.Response]]] = {
    "point reads": [("GET /agents/.*", httpx.Response(403)), (r"GET /agents\?.*", httpx.Response(500))],
    "no connection": [("GET /agents.*", httpx.Response(503))],
    "unreadable": [
        ("GET /agents/.*", httpx.Response(200, json={"name": 1})),
        (r"GET /agents\?.*", httpx.Response(500)),
    ],
}


@both
@pytest.mark.parametrize("fault", FAULTS)
async def test_errors_of_each_row_and_alias_are_counted_not_made(fault: str, *, compiled: bool) -> None:
    bench = Bench(sample_workspace(agents=40, numbers=100), compiled=compiled, max_rest_calls="30")
    for call, response in FAULTS[fault]:
        bench.upstream.play(call, response)

    result = await bench.execute(f"{{ phoneNumbers(first: 100) {{ nodes {{ {NAMED} }} }} }}")

    paths = [tuple(error.path) for error in result.errors or () if error.path]
    codes = {getattr(error.original_error, "code", None) for error in result.errors or ()}
    assert result.data
    assert 0 < len(paths) <= MAX_FIELD_ERRORS * len(codes)
    assert len(set(paths)) == len(paths)
    assert any("left out" in error.message for error in result.errors or ())
    assert bench.engine.counts.fallen_back == 0


async def test_a_code_with_one_place_is_told_beside_one_with_thousands() -> None:
    bench = Bench(sample_workspace(agents=1, numbers=2000), compiled=True)
    bench.upstream.play("GET /numbers/.*", httpx.Response(403))

    result = await bench.execute(f'{MULTIPLIED[:-1]} x: phoneNumber(id: "n") {{ id }} }}')

    assert ["x"] in [error.path for error in result.errors or ()]
    assert bench.engine.counts.fallen_back == 0


@both
async def test_an_object_that_many_refer_to_is_completed_once(*, compiled: bool) -> None:
    bench = Bench(sample_workspace(agents=1, numbers=300), compiled=compiled)
    text = "{ agents { nodes { numbers { agent { numbers { agent { id } } } } } } }"

    with count_tasks() as tasks:
        result = await bench.execute(text)

    assert not result.errors
    assert len(tasks) < 300 * 20
