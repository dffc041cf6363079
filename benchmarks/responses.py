"""Cost of responses that are larger than what was fetched: CPU, the CPU of the event loop's longest pause, memory.

One agent has all numbers. Each case has a process of its own, whose memory is measured from outside the allocator:

    pip install -e '.[test,bench]'
    python -m benchmarks.responses [numbers]
"""

import asyncio
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import httpx
import uvloop

from benchmarks.bench_execution import NUMBER, Instant
from gateway.app import create_app
from gateway.settings import load

AGENT = "id name description status type workspaceId createdAt updatedAt"
DOCUMENTS = {
    "flat": f"numbers {{ {NUMBER} }}",
    "nested": f"numbers {{ agent {{ numbers {{ {NUMBER} }} }} }}",
    "nested, wide": f"numbers {{ agent {{ numbers {{ agent {{ {AGENT} }} }} }} }}",
    "30 lists": " ".join(f"a{at}: numbers {{ {NUMBER} }}" for at in range(30)),
    "30 thin lists": " ".join(f"a{at}: numbers {{ id }}" for at in range(30)),
    "30 nested lists": " ".join(f"a{at}: numbers {{ agent {{ numbers {{ {NUMBER} }} }} }}" for at in range(30)),
    "29 agents of each": f"numbers {{ {' '.join(f'a{at}: agent {{ id }}' for at in range(29))} }}",
}
TICK = 0.001


async def _run(numbers: int, document: str, *, compiled: bool) -> str:
    upstream = Instant(1, numbers)
    app = create_app(load({}, {"upstream_url": "http://upstream", "compiled": str(compiled)}), transport=upstream)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        last = time.process_time()
        while True:
            await asyncio.sleep(TICK)
            now = time.process_time()
            longest, last = max(longest, now - last), now

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client,
    ):
        headers = {"X-API-Key": "demo", "Accept-Encoding": "identity"}
        agent = f'{{ agent(id: "{upstream.agent_id}") {{ SELECTED }} }}'
        for selected in ("id", "numbers { __typename }"):  # the demo API has answered once
            await client.post("/graphql", json={"query": agent.replace("SELECTED", selected)}, headers=headers)
        watching = asyncio.ensure_future(watch())
        await asyncio.sleep(5 * TICK)
        longest, memory = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, cpu = time.perf_counter(), time.process_time()
        query = agent.replace("SELECTED", DOCUMENTS[document])
        response = await client.post("/graphql", json={"query": query}, headers=headers)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        watching.cancel()
    codes = [error["extensions"]["code"] for error in response.json().get("errors", ())]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    return (
        f"{document:18} {'compiled' if compiled else 'graphql-core':13} {len(response.content) / 2**20:6.1f} MiB"
        f" {seconds:6.2f} s {cpu:6.2f} s CPU {longest * 1000:5.0f} ms pause {grown:5.0f} MiB grown {' '.join(codes)}"
    )


def _measure(numbers: int, document: str, compiled: bool) -> str:  # noqa: FBT001
    return uvloop.run(_run(numbers, document, compiled=compiled))


def main() -> None:
    """Print a line for each document and execution."""
    numbers = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for document in DOCUMENTS:
        for compiled in (True, False):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                print(process.submit(_measure, numbers, document, compiled).result(), flush=True)


if __name__ == "__main__":
    main()
