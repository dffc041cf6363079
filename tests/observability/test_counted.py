"""REST calls as they are counted, against what an upstream of plain sockets has seen, whatever becomes of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process import Process, running, started
from tests.raw_upstream import answer

CLIENTS = 20
CONNECTIONS = 2
AGENT = b'{"id": "a", "name": "A", "status": "ACTIVE", "type": "standard", "createdAt": "", "updatedAt": ""}'


class Upstream:
    """Counts requests; holds back those for `held`, closes the connection at those for `closed`."""

    def __init__(self) -> None:
        self.seen = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen += 1
                self._changed.set()
                if b"closed" in head:
                    break
                if b"held" in head:
                    await reader.read(1)
                    break
                writer.write(answer(AGENT))
        writer.close()

    async def ended(self) -> None:
        """Wait until its clients have closed every connection."""
        await asyncio.gather(*(task for task in self._tasks if task))

    async def until(self, seen: Callable[[int], bool]) -> None:
        while not seen(self.seen):
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def counting() -> AsyncIterator[tuple[Upstream, str]]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    async with server:
        yield upstream, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await upstream.ended()


async def send(address: str, agent: str) -> asyncio.StreamWriter:
    """Ask for an agent on a connection of its own, and do not wait for the answer."""
    url = httpx.URL(address)
    _, writer = await asyncio.open_connection(url.host, url.port)
    body = json.dumps({"query": f'{{ agent(id: "{agent}") {{ name }} }}'})
    lines = ["POST /graphql HTTP/1.1", f"Host: {url.host}", "X-API-Key: key", "Content-Type: application/json"]
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode())
    await writer.drain()
    return writer


async def ask(http: httpx.AsyncClient, agent: str) -> int:
    """Ask for an agent, and return what the answer says was spent."""
    body = {"query": f'{{ agent(id: "{agent}") {{ name }} }}'}
    told = (await http.post("/graphql", json=body, headers={"X-API-Key": "key"})).json()
    return int(told.get("extensions", {}).get("quota", {}).get("spent", 0))


async def counted(http: httpx.AsyncClient) -> float:
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    return next(
        sample.value for family in families for sample in family.samples if sample.name == "gateway_rest_calls_total"
    )


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def spent(gateway: Process, operations: int) -> list[int]:
    """What the log's lines of so many operations say was spent."""
    return [gateway.logged("operation")["spent"] for _ in range(operations)]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_metric_and_log_count_the_calls_that_the_upstream_saw(workers: str) -> None:
    async with counting() as (upstream, url):
        options = ("--upstream-connections", str(CONNECTIONS), "--log-format", "json", "--deadline", "2")
        with started("serve", "--workers", workers, "--upstream-url", url, *options) as gateway:
            async with httpx.AsyncClient(base_url=gateway.address, timeout=20) as http:
                assert await ask(http, "there") == 1
                clients = [await send(gateway.address, f"held-{at}") for at in range(CLIENTS)]
                await upstream.until(lambda seen: seen > CONNECTIONS)
                for client in clients:
                    client.close()
                    await client.wait_closed()
                lines = await asyncio.to_thread(spent, gateway, CLIENTS + 1)
                assert sum(lines) == upstream.seen == await counted(http)
                assert upstream.seen <= 1 + CONNECTIONS * int(workers)

                told = [await ask(http, "closed"), await ask(http, "there")]
                told += await asyncio.gather(*(ask(http, f"held-{at}") for at in range(3 * CONNECTIONS)))
                more = await asyncio.to_thread(spent, gateway, len(told))

                assert told[:2] == [2, 1]
                assert sum(told) == sum(more)
                assert sum(lines) + sum(more) == upstream.seen == await counted(http)
            assert gateway.stop() == 0


async def test_each_worker_shows_the_counts_of_all_workers(tmp_path: Path) -> None:
    async with counting() as (_, url):
        command = ("-m", "gateway", "serve", "--workers", "2", "--upstream-url", url, "--port", "0")
        with running(*command, environ={"TMPDIR": str(tmp_path)}) as gateway:
            for _ in range(20):  # each on a connection of its own, which either worker takes
                async with httpx.AsyncClient(base_url=gateway.address, timeout=20) as http:
                    await ask(http, "there")
            shown = []
            for _ in range(10):
                async with httpx.AsyncClient(base_url=gateway.address) as http:
                    text = (await http.get("/metrics")).text
                    shown.append(
                        (await counted(http), 'gateway_requests_total{status="200",type="query"} 20.0' in text)
                    )

            assert shown == [(20, True)] * 10
            assert len(files(tmp_path)) == 1
            assert gateway.stop() == 0
            assert not files(tmp_path)
