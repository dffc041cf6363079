"""Compiled execution against graphql-core alone: the same documents and the same faults, so the same answers.

Equal must be the data, byte for byte; every error with its message, path, locations and code; and the writes
sent. Errors are compared as a sorted list: their order is that of completion. Where several fatal errors compete
for one null, GraphQL leaves open which of them is told: then the data must be equal and so must be the
places that the told errors made null. Where the budget is too small, which calls it is spent on is a matter of order:
answers may differ at the very places that were refused a call for it, and nowhere else.

REST calls may not be more than graphql-core's. Only where a row holds what the wire cannot bring (every type was
checked when it was decoded) they are not compared: there graphql-core ends a list at the first bad row.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import httpx
import msgspec
import pytest
from graphql import ExecutionResult, parse

from gateway.execution.engine import Document, Engine
from gateway.execution.limits import Limits
from gateway.schema.context import Context
from gateway.settings import load
from gateway.upstream.client import Client
from gateway.upstream.models import Listing
from tests.drawing import Drawing

Place = tuple[str | int, ...]

DOCUMENTS = 2000
BLOCK = 250
"""Documents of one test; a block that fails is soon run again."""


def _agent(i: int) -> dict[str, Any]:
    return {
        "id": f"a{i}",
        "name": f"Agent {i}",
        "description": None if i % 2 else "on call",
        "status": ["ACTIVE", "INACTIVE", "mystery"][i % 3],
        "type": "standard",
        "workspaceId": "w",
        "createdAt": f"2025-01-0{i + 1}T00:00:00Z",
        "updatedAt": "2025-02-01T00:00:00Z",
    }


def _number(i: int) -> dict[str, Any]:
    row = {"id": f"n{i}", "phoneNumber": f"+49{i}", "status": ["active", "assigned"][i % 2], "createdAt": "2025-03-01"}
    owner: Any = {11: None, 12: "gone"}.get(i, f"a{i % 4}")
    return row | ({"agentId": owner} if i % 5 else {"agentId": owner, "agent": _agent(i % 4), "friendlyName": f"f{i}"})


class World(httpx.AsyncBaseTransport):
    """A REST API of five agents and 13 numbers; each answer takes some turns of the event loop."""

    def __init__(self, faults: "Faults") -> None:
        self.agents = [_agent(i) for i in range(5)]
        self.numbers = [_number(i) for i in range(13)]
        self.calls: list[str] = []
        self._faults = faults

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        self.calls.append(f"{request.method} {target}")
        for _ in range(self._faults.turns):
            await asyncio.sleep(0)
        fault = self._faults.answer(f"{request.method} {target}")
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            return httpx.Response(fault, json={"error": {"message": "no", "code": "NO"}})
        found = self._write(request) if request.method != "GET" else self._read(request.url)
        return httpx.Response(404 if found is None else 200, json=found)

    def _read(self, url: httpx.URL) -> Any:
        match url.path.strip("/").split("/"):
            case ["agents", id_, "numbers"]:
                known = any(row["id"] == id_ for row in self.agents)
                return {"data": [row for row in self.numbers if row["agentId"] == id_]} if known else None
            case [kind, id_]:
                return next((row for row in getattr(self, kind) if row["id"] == id_), None)
        page, limit, status = int(url.params["page"]), int(url.params["limit"]), url.params.get("status")
        rows = [row for row in getattr(self, url.path.strip("/")) if status in {None, row["status"].upper()}]
        told = {"page": page, "limit": limit, "total": len(rows)}
        return {"data": rows[(page - 1) * limit : page * limit], "pagination": told}

    def _write(self, request: httpx.Request) -> Any:
        if request.method == "POST":
            self.numbers.append({**_number(len(self.numbers)), **json.loads(request.content)})
            return self.numbers[-1]
        row = self._read(request.url)
        if row and request.method == "DELETE":
            self.numbers.remove(row)
        elif row:
            row.update(json.loads(request.content))
        return row


class Faults:
    """What goes wrong in one comparison, the same for both executions.

    On the wire: a status or an exception for all calls of a kind or for one target, or a small budget. In the
    rows, where only a bug of ours could put them: null, odd types, exceptions.
    """

    KINDS = (
        *("GET /agents?", "GET /numbers?", "GET /agents/a", "GET /agents/a1 ", "GET /numbers/n"),
        *("/numbers ", "/agents/a2/numbers ", "PUT", "POST", "DELETE"),
    )
    ANSWERS = (
        *(404, 404, 500, 500, 403, 429, 401, 302),
        *(httpx.ReadTimeout("late"), httpx.ConnectError("down"), asyncio.CancelledError()),
    )
    ROWS = (
        *(("a1", "name", None), ("a1", "name", 12), ("a2", "status", "ODD"), ("a2", "type", None), ("a0", "id", 7)),
        *(("a3", "description", ["list"]), ("a3", "created_at", ValueError("value")), ("a0", "updated_at", 2.5)),
        *(("n1", "phone_number", None), ("n2", "agent_id", 5), ("n2", "status", None), ("n3", "agent_id", "a/../b")),
        *(("n3", "friendly_name", True), ("n4", "created_at", b"bytes"), ("n5", "phone_number", KeyError("value"))),
    )

    def __init__(self, random: Random) -> None:
        wire, rows = random.choice([(0, 0), (1, 0), (1, 0), (2, 0), (0, 1), (1, 2)])
        self.turns = random.choice([1, 3, 6, 12, 25])
        """Turns of the event loop until an answer is there."""
        self.budget = random.choice([100, 100, 100, 3])
        self.rows = random.sample(self.ROWS, rows)
        self._wire = {random.choice(self.KINDS): random.choice(self.ANSWERS) for _ in range(wire)}

    def answer(self, call: str) -> int | BaseException | None:
        """Return what goes wrong with a call."""
        return next((fault for kind, fault in self._wire.items() if kind in f"{call} "), None)

    def spoil(self, listing: Any) -> Any:
        """Put odd values into an answer's rows, if it has any."""
        if not isinstance(listing, Listing):
            return listing
        for row in (*listing.rows, *listing.agents):
            for id_, name, value in self.rows:
                if row.id == id_:
                    setattr(row, name, value)
        return listing


class SpoiledSession:
    """A session whose answers hold what no answer of the wire could."""

    def __init__(self, session: Any, faults: Faults) -> None:
        self._session = session
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if name != "read":
            return found

        async def spoiled(*args: Any) -> Any:
            return [self._faults.spoil(answer) for answer in await found(*args)]

        return spoiled


async def _run(
    engine: Engine, document: Document, variables: dict[str, Any], faults: Faults
) -> tuple[ExecutionResult, list[str]]:
    """Execute on a world of its own; return the result and the REST calls."""
    world = World(faults)
    settings = load({}, {"upstream_url": "http://upstream", "max_rest_calls": str(faults.budget)})
    session: Any = SpoiledSession(await Client(settings, world).session("key", "id"), faults)
    result = await engine.execute(document, None, variables, Context(session))
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)  # graphql-core lets what it no longer wants go on
    return result, world.calls


def _told(result: ExecutionResult) -> list[str]:
    """Every error as one line, sorted."""
    lines = []
    for error in result.errors or ():
        code = getattr(error.original_error, "code", type(error.original_error).__name__)
        lines.append(json.dumps([error.formatted, code], sort_keys=True, default=str))
    return sorted(lines)


def _nulls(result: ExecutionResult, code: str = "") -> set[Place]:
    """Where the errors (of a code) made nulls: each one's path, as far as there is data."""
    found = set()
    for error in result.errors or ():
        if code not in getattr(error.original_error, "code", ""):
            continue
        at, place = msgspec.to_builtins(result.data), []
        for step in error.path or ():
            if at is None:
                break
            at = at[step]
            place.append(step)
        found.add(tuple(place))
    return found


def _differing(one: Any, other: Any, place: Place = ()) -> Iterator[Place]:
    """Where two answers differ, as deep down as it can be told."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        for name in one:
            yield from _differing(one[name], other[name], (*place, name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, (*place, at))
    elif one != other:
        yield place


def _assert_alike(result: ExecutionResult, expected: ExecutionResult, context: str) -> None:
    refused = _nulls(result, "REQUEST_LIMIT_EXCEEDED") | _nulls(expected, "REQUEST_LIMIT_EXCEEDED")
    if not refused:
        assert msgspec.json.encode(result.data) == msgspec.json.encode(expected.data), context
    assert refused.issuperset(_differing(*map(msgspec.to_builtins, (result.data, expected.data)))), context
    assert _told(result) == _told(expected) or refused >= _nulls(result) ^ _nulls(expected), context


def _writes(calls: Sequence[str]) -> list[str]:
    return [call for call in calls if not call.startswith("GET")]


@pytest.mark.parametrize("start", range(0, DOCUMENTS, BLOCK))
async def test_compiled_execution_answers_as_graphql_core_does_whatever_goes_wrong(start: int) -> None:
    plain, compiled = (Engine(Limits(), introspection=True, compiled=compiled) for compiled in (False, True))
    for seed in range(start, start + BLOCK):
        drawing, faults = Drawing(Random(seed)), Faults(Random(seed))

        document = Document(parse(drawing.text))
        # a second time what is compiled is kept, and the variables are others, some of which may not fit
        for variables in [drawing.variables, drawing.others()] if drawing.variables else [{}]:
            expected, allowed = await _run(plain, document, variables, faults)
            result, calls = await _run(compiled, document, variables, faults)

            context = f"seed {seed}: {drawing.text} {variables}"
            _assert_alike(result, expected, context)
            assert _writes(calls) == _writes(allowed), context
            assert len(calls) <= len(allowed) or faults.rows, context
    assert compiled.counts.compiled > BLOCK / 2
    assert plain.counts.compiled == plain.counts.fallen_back == 0


def test_drawn_documents_are_valid() -> None:
    engine = Engine(Limits(max_aliases=1000), introspection=True)

    for seed in range(150):
        assert engine.prepare(Drawing(Random(seed)).text)
