"""A Redis of the test's own, and gateways that share it."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from gateway.demo.rest_api import Workspace, sample_workspace
from tests.harness import Gateway, open_gateway

REDIS = shutil.which("redis-server")
LIST = "{ phoneNumbers(first: 100) { nodes { id friendlyName agent { id } } } }"
NAME = 'mutation($id: ID!) { updatePhoneNumber(id: $id, input: {friendlyName: "new"}) { phoneNumber { id } } }'
NESTED = "{ agents(first: 100) { nodes { id numbers { id } } } }"


class Store:
    """A redis-server of the test's own, which can be stopped and started again on its port."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        arguments = ("--port", str(self.port), "--save", "", "--dir", str(self._directory), *options)
        self._process = await asyncio.create_subprocess_exec(
            str(REDIS), "--bind", "127.0.0.1", *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout
        while b"Ready to accept connections" not in await self._process.stdout.readline():
            assert not self._process.stdout.at_eof()

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None and self._process.returncode is None

    async def stop(self) -> None:
        """Kill it; all that it held is lost."""
        if self._process and self.running:
            self._process.kill()
            await self._process.communicate()

    def client(self) -> Any:
        """A connection of the test's own; to be entered."""
        return Redis.from_url(self.url)

    async def contents(self) -> dict[bytes, tuple[Any, int]]:
        """Every key with its value and its time to live in seconds."""
        async with Redis.from_url(self.url) as redis:
            values: dict[bytes, Any] = {}
            keys: list[Any] = await redis.keys()
            for key in keys:
                stream = await redis.type(key) == b"stream"
                values[key] = await (redis.xrange(key) if stream else redis.get(key)), await redis.ttl(key)
            return values


class Slow:
    """A TCP proxy in front of it that holds each answer back for a while."""

    def __init__(self, port: int, delay: float) -> None:
        self._port = port
        self.delay = delay
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        below, above = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pump(reader, above, lambda: 0), self._pump(below, writer, lambda: self.delay))
        finally:
            writer.close()
            above.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float]
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(delay())
            writer.write(data)
        writer.close()


@asynccontextmanager
async def replicas(
    url: str, *, workspaces: Mapping[str, Workspace] | None = None, count: int = 2, **more: Any
) -> AsyncIterator[list[Gateway]]:
    """Gateways that share a Redis and an upstream."""
    spaces = workspaces or {"demo": sample_workspace()}
    settings = {"redis_url": url, "redis_timeout": "5", "cache_ttl": "60", **more.pop("settings", {})}
    async with AsyncExitStack() as stack:
        gateways = [open_gateway(workspaces=spaces, settings=settings, **more) for _ in range(count)]
        yield [await stack.enter_async_context(gateway) for gateway in gateways]


async def told(store: Store, entries: int) -> None:
    """Wait until the logs hold so many entries: answers are told in the background."""
    async with Redis.from_url(store.url) as redis:
        while sum([await redis.xlen(key) for key in await redis.keys("omnia:*:log")]) < entries:  # noqa: ASYNC110 - by Redis
            await asyncio.sleep(0.005)
