"""CPU of one operation from document to JSON, compiled and by graphql-core alone, on a REST API that answers at once.

Not in the test run. A round is 10 operations, so a round's milliseconds x 100 are microseconds for each:

    pip install -e '.[test,bench]'
    pytest benchmarks/bench_execution.py --benchmark-timer=time.process_time --benchmark-columns=min,median
"""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
import uvloop

from gateway.demo.rest_api import create_demo, sample_workspace
from gateway.execution.engine import Engine
from gateway.execution.limits import Limits
from gateway.execution.response import ResponseSize
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream.client import Client

OPERATIONS = 10
NUMBER = "id phoneNumber friendlyName status createdAt"
AGENT = "id name description status type workspaceId createdAt updatedAt"
QUERIES = {
    "Q1": "{ agent(id: %r) { id name numbers { id phoneNumber status } } }",
    "Q2": "{ agents(first: 50) { nodes { id name numbers { id phoneNumber status agent { id name } } } } }",
    "Q3": f"{{ agents(first: 100) {{ nodes {{ {AGENT} numbers {{ {NUMBER} }} }} }} }}",
    "Q4": f"{{ phoneNumbers(first: 100) {{ nodes {{ {NUMBER} agent {{ id name status }} }} }} }}",
}


class Instant(httpx.AsyncBaseTransport):
    """A REST API that was asked before, and gives the same answer at once."""

    def __init__(self, agents: int, numbers: int) -> None:
        workspace = sample_workspace(agents=agents, numbers=numbers)
        self.agent_id = next(iter(workspace.agents))
        self._demo = httpx.ASGITransport(app=create_demo({"demo": workspace}, clock=lambda: 1.8e9, quota=10**9))
        self._known: dict[httpx.URL, tuple[int, bytes]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url not in self._known:
            answer = await self._demo.handle_async_request(request)
            self._known[request.url] = answer.status_code, await answer.aread()
        status, content = self._known[request.url]
        return httpx.Response(status, content=content)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("size", [(500, 2000), (40, 90)], ids=str)
@pytest.mark.parametrize("query", QUERIES)
def test_operation(benchmark: Any, query: str, size: tuple[int, int], *, compiled: bool) -> None:
    engine = Engine(Limits(), introspection=True, compiled=compiled)
    transport = Instant(*size)
    client = Client(load({}, {"upstream_url": "http://upstream"}), transport)
    text = (QUERIES[query] % transport.agent_id if query == "Q1" else QUERIES[query]).replace("'", '"')

    async def operation() -> bytes:
        context = Context(await client.session("demo", "id"))
        result = await engine.execute(engine.prepare(text), None, None, context, ResponseSize(2**24))
        assert not result.errors, result.errors
        return msgspec.json.encode(result.data)

    async def operations() -> None:
        for _ in range(OPERATIONS):
            await asyncio.ensure_future(operation())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        benchmark.pedantic(lambda: runner.run(operations()), rounds=8, warmup_rounds=2)
