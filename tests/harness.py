"""The gateway behind its HTTP door, and the demo API behind a transport that records and fails as told.

A test asks `Gateway.ask` and reads `Gateway.calls`, the REST calls that reached the transport, in order.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from structlog.testing import LogCapture

from gateway.app import create_app
from gateway.demo.rest_api import Workspace, create_demo, sample_workspace
from gateway.execution.response import Bounds, Pace, ResponseSize
from gateway.observability.logging import PROCESSORS
from gateway.settings import load

Fault = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]

UPSTREAM = "http://upstream/api/v1"


class Clock:
    """Unix seconds that pass as real ones do: between two readings, while REST calls are under way, and when told.

    Args:
        now: the first reading.
        tick: seconds from one reading to the next.
        call: seconds that each REST call takes.
    """

    def __init__(self, now: float = 1_800_000_000.0, *, tick: float = 0.001, call: float = 0.05) -> None:
        self.now = now
        self.call = call
        self._tick = tick

    def __call__(self) -> float:
        self.now += self._tick
        return self.now


class Recorder(httpx.AsyncBaseTransport):
    """The REST API: writes down each call, takes its time, answers with a scripted fault or from the demo."""

    def __init__(self, demo: Any, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self.calls: list[str] = []
        self.requests: list[httpx.Request] = []
        self._demo = httpx.ASGITransport(app=demo)
        self._faults: list[tuple[re.Pattern[str], list[Fault]]] = []

    def play(self, call: str, *faults: Fault) -> None:
        """Answer calls that match the pattern (`GET /agents/.*`) with these, the last one for ever."""
        self._faults.insert(0, (re.compile(call), list(faults)))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode().removeprefix("/api/v1")
        call = f"{request.method} {target}"
        self.calls.append(call)
        self.requests.append(request)
        self._clock.now += self._clock.call
        for pattern, faults in self._faults:
            if pattern.fullmatch(call):
                fault = faults.pop(0) if len(faults) > 1 else faults[0]
                if isinstance(fault, Exception):
                    raise fault
                return fault if isinstance(fault, httpx.Response) else await fault(request)
        url = f"http://upstream{target}"
        copy = httpx.Request(request.method, url, headers=request.headers, content=await request.aread())
        return await self._demo.handle_async_request(copy)


class Gateway:
    """A gateway and everything a test wants of it."""

    def __init__(
        self, http: httpx.AsyncClient, upstream: Recorder, clock: Clock, demo: Mapping[str, Workspace]
    ) -> None:
        self.http = http
        self.upstream = upstream
        self.clock = clock
        self.workspaces = demo

    @property
    def calls(self) -> list[str]:
        """The REST calls so far; taken by reading."""
        calls, self.upstream.calls = self.upstream.calls, []
        return calls

    async def ask(
        self, query: str, variables: Mapping[str, Any] | None = None, *, key: str | None = "demo", **headers: str
    ) -> dict[str, Any]:
        """POST an operation and return the answer's JSON."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["X-API-Key"] = key
        response = await self.http.post("/graphql", json={"query": query, "variables": variables}, headers=sent)
        answer: dict[str, Any] = response.json()
        return answer

    async def data(self, query: str, variables: Mapping[str, Any] | None = None, *, key: str = "demo") -> Any:
        """POST an operation that must succeed, and return its data."""
        answer = await self.ask(query, variables, key=key)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]


@asynccontextmanager
async def open_gateway(
    *,
    workspaces: Mapping[str, Workspace] | None = None,
    settings: Mapping[str, str] | None = None,
    transport: Callable[[Recorder], httpx.AsyncBaseTransport] | None = None,
    clock: Clock | None = None,
    **demo: Any,
) -> AsyncIterator[Gateway]:
    """Start a gateway on a demo API; `settings` by field name, `demo` as `create_demo` takes them."""
    spaces = workspaces or {"demo": sample_workspace(), "demo-2": sample_workspace(agents=5, numbers=11, prefix="x")}
    clock = clock or Clock()
    upstream = Recorder(create_demo(spaces, clock=clock, **demo), clock)
    values = {"upstream_url": UPSTREAM, **(settings or {})}
    app = create_app(load({}, values), transport=transport(upstream) if transport else upstream, clock=clock)
    async with app.router.lifespan_context(app):
        door = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=door, base_url="http://gateway") as http:
            yield Gateway(http, upstream, clock, spaces)


@contextmanager
def capture_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Collect the lines of the gateway's logger instead of writing them."""
    capture, before = LogCapture(), list(PROCESSORS)
    PROCESSORS[:] = [capture]
    try:
        yield capture.entries
    finally:
        PROCESSORS[:] = before


def bounds(limit: int = 2**24) -> Bounds:
    """Return bounds of an operation that has no session."""
    session: Any = None
    return Bounds(session, ResponseSize(limit), Pace())


def errors_of(answer: Mapping[str, Any]) -> list[tuple[str, list[str | int] | None]]:
    """The code and path of each error."""
    return [(error["extensions"]["code"], error.get("path")) for error in answer.get("errors", ())]


def spent(answer: Mapping[str, Any]) -> int:
    """What the answer says it spent."""
    return int(answer.get("extensions", {}).get("quota", {}).get("spent", 0))
