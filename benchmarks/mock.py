"""The REST API that the benchmarks call: the answers of `gateway.demo.rest_api`, each made once and then kept.

    python -m benchmarks.mock --port 4600 [--agents 500] [--numbers 2000] [--latency-ms 0]

It must never be what holds a gateway back: a kept answer is one look-up, some 40,000 a second on one core. All API
keys see one workspace. The quota headers always say the same, so that no run ends at the quota. A write drops what is
kept of numbers. `GET /_calls` tells how many calls were answered. Nobody may send a request on a connection before
the last was answered; none of the gateways does.
"""

import asyncio
import contextlib
import itertools
import re
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

import click
import httpx
import uvloop

from benchmarks.processes import CORES, Started, free_port
from gateway.demo.rest_api import Workspace, create_demo, sample_workspace

PROMPT = " Greet a caller whose number is known by name. Never quote a price, offer a call back instead." * 6
NOBODY = b"/agents/"
"""Where Tailcall asks for the agent of a number that has none."""

_KEY = re.compile(rb"\r\nX-API-Key: *[^\r]", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)


def workspace(agents: int, numbers: int) -> Workspace:
    """Make sample data: each agent has 1 KB of configuration and an equal share of the numbers, those in a row.

    Each 25th number has no agent.
    """
    made = sample_workspace(agents=agents, numbers=numbers)
    for agent in made.agents.values():
        config: Any = agent["standardConfig"]
        config["systemPrompt"] += PROMPT
    owners = list(made.agents)
    for i, number in enumerate(made.numbers.values()):
        owner = owners[i * agents // numbers] if owners and i % 25 != 24 else None
        number.update(agentId=owner, status="assigned" if owner else "unassigned")
    return made


class Api:
    """The REST API: what was answered before, and the demo for what was not."""

    def __init__(self, data: Workspace, latency: float) -> None:
        self.calls = 0
        self.latency = latency
        self.kept = {NOBODY: _answer(200, b"null")}
        self._demo = httpx.ASGITransport(create_demo({"any": data}, quota=sys.maxsize))

    async def answer(self, method: str, target: bytes, body: bytes, *, known: bool) -> bytes:
        """Answer a call, of one `known` by a key, anew; keep the answer to a GET."""
        headers = {"X-API-Key": "any"} if known else {}
        request = httpx.Request(method, f"http://demo{target.decode('ascii')}", headers=headers, content=body)
        response = await self._demo.handle_async_request(request)
        answer = _answer(response.status_code, await response.aread())
        if method != "GET":
            self.kept = {path: kept for path, kept in self.kept.items() if b"numbers" not in path}
        elif response.status_code == HTTPStatus.OK:
            self.kept[target] = answer
        return answer


class Connection(asyncio.Protocol):
    """A caller's connection."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._received = b""
        self._transport: asyncio.Transport
        self._answering: asyncio.Task[None]  # the loop alone would let go of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, complete, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not complete or (length and len(body) < int(length[1])):
            return
        self._received = b""
        method, target, _ = head.split(b" ", 2)
        key = _KEY.search(head)
        if target == b"/_calls":
            self._send(_answer(200, b"%d" % self._api.calls))
            return
        self._api.calls += 1
        if method == b"GET" and key and (kept := self._api.kept.get(target)):
            self._send_later(kept)
        else:
            self._answering = asyncio.ensure_future(self._answer_anew(method.decode(), target, body, known=bool(key)))

    async def _answer_anew(self, method: str, target: bytes, body: bytes, *, known: bool) -> None:
        self._send_later(await self._api.answer(method, target, body, known=known))

    def _send_later(self, answer: bytes) -> None:
        if self._api.latency:
            asyncio.get_running_loop().call_later(self._api.latency, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


def _answer(status: int, body: bytes) -> bytes:
    quota = f"X-RateLimit-Limit: 1000\r\nX-RateLimit-Remaining: 999\r\nX-RateLimit-Reset: {int(time.time()) + 3600}"
    about = f"Content-Type: application/json\r\n{quota}\r\nX-Request-Id: req_bench\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{about}\r\n\r\n".encode() + body


class Mock(NamedTuple):
    """The REST API as the benchmarks see it from outside."""

    url: str
    http: httpx.Client

    def calls(self) -> int:
        """Return how many calls it has answered."""
        return int(self.http.get("/_calls").text)

    def get(self, path: str) -> Any:
        """Return an answer."""
        return self.http.get(path).raise_for_status().json()

    def every(self, kind: str) -> list[dict[str, Any]]:
        """Return all agents or all numbers, from the pages of their list."""
        first = self.get(f"/{kind}?page=1&limit=100")
        pages = range(2, first["pagination"]["totalPages"] + 1)
        rest = (self.get(f"/{kind}?page={page}&limit=100")["data"] for page in pages)
        return [*first["data"], *itertools.chain.from_iterable(rest)]


@contextlib.contextmanager
def started(agents: int, numbers: int, latency_ms: int = 0, *, pinned: bool = True) -> Iterator[Mock]:
    """Start the REST API in a process of its own."""
    port = free_port()
    sizes = {"--port": port, "--agents": agents, "--numbers": numbers, "--latency-ms": latency_ms}
    options = [str(part) for option in sizes.items() for part in option]
    url = f"http://127.0.0.1:{port}"
    http = httpx.Client(base_url=url, headers={"X-API-Key": "truth"}, trust_env=False, timeout=60)
    with http, Started([sys.executable, "-m", "benchmarks.mock", *options], core=CORES[1] if pinned else None) as rest:
        mock = Mock(url, http)
        rest.first(mock.calls)
        yield mock


async def serve(port: int, api: Api) -> None:
    """Serve on this machine until the process is ended."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(api), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--agents", default=500, show_default=True)
@click.option("--numbers", default=2000, show_default=True)
@click.option("--latency-ms", default=0, show_default=True, help="Added to every answer.")
def main(port: int, agents: int, numbers: int, latency_ms: int) -> None:
    """Serve the REST API."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve(port, Api(workspace(agents, numbers), latency_ms / 1000)))


if __name__ == "__main__":
    main()
