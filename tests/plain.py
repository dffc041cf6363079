"""What the plain way answers, one REST call for each object, and the REST calls of a batch by their addresses."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from gateway.demo.rest_api import Workspace
from tests.harness import Gateway

OWNED = "query($n: Int!) { agents(first: $n) { nodes { id numbers { id } } } }"
NUMBER_PAGES = "GET /numbers[?].*"


def plain(workspace: Workspace, agent: str) -> list[dict[str, Any]]:
    """The ids of an agent's numbers as one REST call for that agent lists them."""
    return [{"id": number["id"]} for number in workspace.numbers.values() if number.get("agentId") == agent]


def aliased(field: str, ids: list[str], selection: str) -> str:
    fields = (f"q{i}: {field}(id: {json.dumps(id_)}) {{ {selection} }}" for i, id_ in enumerate(ids))
    return "{ " + " ".join(fields) + " }"


def through(gateway: Gateway, before: Callable[[], object]) -> Callable[[httpx.Request], Any]:
    """A fault that is none: `before` happens, then the demo answers."""

    async def answer(request: httpx.Request) -> httpx.Response:
        done = before()
        if asyncio.iscoroutine(done):
            await done
        url = f"http://upstream{request.url.raw_path.decode().removeprefix('/api/v1')}"
        return await gateway.upstream._demo.handle_async_request(httpx.Request("GET", url, headers=request.headers))

    return answer


async def late() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def pages(*numbers: int, limit: int = 100) -> list[str]:
    return [f"GET /numbers?page={page}&limit={limit}" for page in numbers]


def singles(workspace: Workspace, count: int) -> list[str]:
    return [f"GET /agents/{id_}/numbers" for id_ in list(workspace.agents)[:count]]
