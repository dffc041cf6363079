"""CPU of one GET of 1 or 17 KB, through `HttpClient` alone and through a session, by transport and calls in flight.

Not in the test run. A round is 400 GETs, so a round's milliseconds x 2.5 are microseconds for each:

    pip install -e '.[test,bench]'
    pytest benchmarks/bench_rest_calls.py --benchmark-timer=time.process_time --benchmark-columns=min,median
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import uvloop

from gateway.settings import load
from gateway.upstream.client import Client
from gateway.upstream.resources import AGENTS, Read
from gateway.upstream.transport.base import Request

GETS = 400
READS = {"1 KB": AGENTS.object("1000"), "17 KB": AGENTS.object("17000")}
UPSTREAM = """
import asyncio, json
quota = "X-RateLimit-Limit: 1000\\r\\nX-RateLimit-Remaining: 999\\r\\nX-RateLimit-Reset: 1893456000\\r\\n"
def answer(size):
    body = json.dumps({"id": str(size), "name": "A", "status": "ACTIVE", "type": "custom", "createdAt":
        "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z", "description": "x" * (size - 200)}).encode()
    return f"HTTP/1.1 200 OK\\r\\n{quota}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body
answers = {size: answer(int(size)) for size in (b"1000", b"17000")}
class Upstream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(answers[data.split(b" ", 2)[1].rpartition(b"/")[2]])
async def main():
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A REST API in a process of its own, so that its CPU does not count."""
    with subprocess.Popen([sys.executable, "-c", UPSTREAM], stdout=subprocess.PIPE, text=True) as upstream:
        assert upstream.stdout
        yield f"http://127.0.0.1:{upstream.stdout.readline().strip()}"
        upstream.terminate()


async def through_the_client(client: Client, key: str, read: Read) -> None:
    headers = {"X-API-Key": key, "X-Request-Id": "r1", "Accept": "application/json", "Accept-Encoding": "gzip"}
    await client.http.attempt(Request("GET", read.target, headers, None, key))


async def through_a_session(client: Client, key: str, read: Read) -> None:
    await (await client.session(key, "r1")).read([read])


@pytest.mark.parametrize("transport", ["built-in", "httpx"])
@pytest.mark.parametrize("get", [through_the_client, through_a_session])
@pytest.mark.parametrize("in_flight", [1, 20])
@pytest.mark.parametrize("size", READS)
def test_get(
    benchmark: Callable[..., Any],
    url: str,
    get: Callable[[Client, str, Read], Awaitable[None]],
    in_flight: int,
    size: str,
    transport: str,
) -> None:
    loop = uvloop.new_event_loop()
    plugged = httpx.AsyncHTTPTransport() if transport == "httpx" else None
    client = Client(load({}, {"upstream_url": url}), plugged)

    async def caller(key: str) -> None:
        for _ in range(GETS // in_flight):
            await get(client, key, READS[size])

    async def callers() -> None:
        await asyncio.gather(*(caller(f"key-{number}") for number in range(in_flight)))  # one key each: none is shared

    benchmark(lambda: loop.run_until_complete(callers()))

    loop.run_until_complete(client.aclose())
    loop.close()
