"""An Omnia-compatible REST API in memory.

`gateway demo` stands on it and the test-suite uses it as its upstream, through `httpx.ASGITransport`.
It imports nothing of the gateway, so that a misreading of the API cannot hide in both. Facts: the
vendor's public "Phone Numbers" page, then its OpenAPI 1.0.0; where those disagree, `DemoOptions` chooses.
"""

import asyncio
import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn, TypeAlias, TypedDict, Unpack
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Wire: TypeAlias = dict[str, JSON]

QUOTA_WINDOW = 3600  # seconds; vendor page: 1,000 requests per hour and key
_DEFAULT_LIMIT = 50
_AGENT_STATUSES = {"active": "ACTIVE", "inactive": "INACTIVE", "suspended": "SUSPENDED"}
# The OpenAPI names the first two, the guide the other two: either set is taken.
_NUMBER_STATUSES = {"active": "ACTIVE", "inactive": "INACTIVE", "assigned": "assigned", "unassigned": "unassigned"}
_RULES: dict[str, tuple[Callable[[JSON], bool], str]] = {
    "phoneNumber": (lambda v: bool(re.fullmatch(r"\+[1-9][0-9]{1,14}", str(v))), "Must be E.164, as in +493023125000"),
    "friendlyName": (lambda v: v is None or isinstance(v, str), "Must be a string or null"),
    "agentId": (lambda v: v is None or isinstance(v, str), "Must be a string or null"),
    "status": (lambda v: str(v).casefold() in _NUMBER_STATUSES, f"Must be one of {', '.join(_NUMBER_STATUSES)}"),
}
_FIRST_CREATED = datetime(2024, 1, 15, 8, 30, tzinfo=UTC).timestamp()
_ROLES = ("Reception", "Booking", "Emergency Line", "Billing", "Reminders")
# Blocks that BNetzA, Ofcom, ARCEP and ACMA keep free for fiction; three digits follow.
_PLACES = (
    ("Berlin", "+493023125", "de"), ("London", "+442079460", "en"), ("Paris", "+33199000", "fr"),
    ("München", "+498999998", "de"), ("Edinburgh", "+441314960", "en"), ("Lyon", "+33465710", "fr"),
    ("Hamburg", "+494066969", "de"), ("Manchester", "+441614960", "en"), ("Sydney", "+61255500", "en"),
)  # fmt: skip


@dataclass
class Workspace:
    """What one API key sees: objects as wire dicts by id, in order of creation, and its quota."""

    id: str
    agents: dict[str, Wire]
    numbers: dict[str, Wire]
    calls_used: int = 0  # in this window
    window_ends: int = 0  # unix seconds
    numbers_created: int = 0  # by POST; keeps ids from repeating after a delete


class DemoOptions(TypedDict, total=False):
    """How the answers look where the vendor's documents disagree or leave room."""

    embed_agent: Literal["none", "partial", "whole"]  # what an assigned number carries as `agent`; default "none"
    has_more: bool  # `pagination.hasMore` in place of `totalPages`; default False
    max_limit: int  # items per page, above it 400; default 100
    clamp: bool  # above it a page of `max_limit` in place of 400; default False
    update_method: Literal["PUT", "PATCH", "both"]  # the other one answers 405; default "PUT"


def sample_workspace(*, agents: int = 12, numbers: int = 60, prefix: str = "") -> Workspace:
    """Make a dental group's data: the same at every call, each tenth number unassigned; `prefix` seeds the ids."""
    workspace = Workspace(_cuid(f"{prefix}/workspace", _FIRST_CREATED), {}, {})
    workspace.agents = {str(a["id"]): a for a in (_agent(workspace.id, i) for i in range(agents))}
    owners = list(workspace.agents)
    workspace.numbers = {str(n["id"]): n for n in (_number(workspace.id, i, owners) for i in range(numbers))}
    return workspace


def create_demo(
    workspaces: Mapping[str, Workspace] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    latency: float = 0.0,
    quota: int = 1000,
    on_call: Callable[[str], None] | None = None,
    **options: Unpack[DemoOptions],
) -> Starlette:
    """Build the API as an app with its paths at the root.

    `workspaces` maps API keys; without it `demo` and `demo-2` see sample data. `clock` tells unix seconds, `sleep`
    waits `latency` seconds before each answer, `quota` is the calls per hour and workspace, and `on_call` is told
    of each answered call, such as `GET /agents?page=1&limit=50 200`.
    """
    if workspaces is None:
        workspaces = {"demo": sample_workspace(), "demo-2": sample_workspace(agents=5, numbers=11, prefix="demo-2")}
    request_ids = itertools.count(1)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request, path = Request(scope, receive), scope["path"].removeprefix(scope.get("root_path", ""))
        workspace = workspaces.get(key := request.headers.get("x-api-key", ""))
        within_quota, headers = _spend(workspace or Workspace("", {}, {}), quota, clock())
        if latency:
            await sleep(latency)
        try:
            if workspace is None:
                _refuse(401, "UNAUTHORIZED" if key else "MISSING_API_KEY", "A valid X-API-Key is required")
            if not within_quota:
                _refuse(429, "RATE_LIMIT_EXCEEDED", "Too many requests")
            call = _Call(workspace, options, clock(), path.split("/")[1:], request.query_params, await request.body())
            response = call.answer(request.method)
        except _Refused as refused:
            response = refused.response
        response.headers.update(headers | {"X-Request-Id": f"req_{next(request_ids):08d}"})
        await response(scope, receive, send)
        if on_call:
            query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
            on_call(f"{request.method} {quote(path)}{query} {response.status_code}")

    app = Starlette()
    # No route: its pattern would not match a path with a line break, and every path is answered here.
    app.router.default = answer
    return app


def _spend(workspace: Workspace, quota: int, now: float) -> tuple[bool, dict[str, str]]:
    if now >= workspace.window_ends:
        workspace.calls_used, workspace.window_ends = 0, int(now) + QUOTA_WINDOW
    within_quota = workspace.calls_used < quota
    workspace.calls_used += within_quota
    remaining, reset = str(max(quota - workspace.calls_used, 0)), str(workspace.window_ends)
    headers = {"X-RateLimit-Limit": str(quota), "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
    return within_quota, headers


@dataclass
class _Refused(Exception):
    response: JSONResponse


def _refuse(status: int, code: str, message: str, **headers: str) -> NoReturn:
    raise _Refused(JSONResponse({"error": {"message": message, "code": code}}, status, headers))


@dataclass(frozen=True)
class _Call:
    """One call with a known key. Nothing here awaits, so each is one step for all the others."""

    workspace: Workspace
    options: DemoOptions
    now: float
    path: list[str]
    query: Mapping[str, str]
    body: bytes

    def answer(self, method: str) -> Response:
        match self.path:
            case ["agents"]:
                answers = {"GET": self.list_agents}
            case ["agents", agent_id]:
                answers = {"GET": lambda: JSONResponse(self.agent(agent_id))}
            case ["agents", _, "numbers"]:
                answers = {"GET": self.agent_numbers}
            case ["numbers"]:
                answers = {"GET": self.list_numbers, "POST": self.create_number}
            case ["numbers", _]:
                answers = {"GET": lambda: JSONResponse(self.show(self.number())), "DELETE": self.delete_number}
                chosen = self.options.get("update_method", "PUT")
                answers |= {name: self.update_number for name in ("PUT", "PATCH") if chosen in (name, "both")}
            case _:
                _refuse(404, "NOT_FOUND", "No such route")
        if method not in answers:
            _refuse(405, "METHOD_NOT_ALLOWED", "Method not allowed", Allow=", ".join(answers))
        return answers[method]()

    def list_agents(self) -> Response:
        status, search = self.status(_AGENT_STATUSES), self.query.get("search", "").casefold()
        found = [a for a in self.workspace.agents.values() if status in (None, a["status"])]
        return self.page([a for a in found if search in f"{a['name']}\n{a.get('description') or ''}".casefold()])

    def list_numbers(self) -> Response:
        status = self.status(_NUMBER_STATUSES)
        return self.page([n for n in self.workspace.numbers.values() if status in (None, n["status"])])

    def agent_numbers(self) -> Response:
        agent_id, numbers = self.agent(self.path[1])["id"], self.workspace.numbers.values()
        return JSONResponse({"data": [self.show(n) for n in numbers if n.get("agentId") == agent_id]})

    def create_number(self) -> Response:
        given = self.fields("phoneNumber", "agentId", "friendlyName", required=("phoneNumber", "agentId"))
        self.agent(given["agentId"])
        if any(number["phoneNumber"] == given["phoneNumber"] for number in self.workspace.numbers.values()):
            _refuse(409, "CONFLICT", "This phone number exists already")
        self.workspace.numbers_created += 1
        number_id = _cuid(f"{self.workspace.id}/created/{self.workspace.numbers_created}", self.now)
        number: Wire = {"id": number_id, **given, "status": "assigned", "createdAt": _rfc3339(self.now)}
        self.workspace.numbers[number_id] = number
        return JSONResponse(self.show(number), 201)

    def update_number(self) -> Response:
        number, given = self.number(), self.fields("friendlyName", "agentId", "status")
        if given.get("agentId") is not None:
            self.agent(given["agentId"])
        if "agentId" in given and number["status"] in ("assigned", "unassigned"):
            number["status"] = "unassigned" if given["agentId"] is None else "assigned"
        if "status" in given:
            given["status"] = _NUMBER_STATUSES[str(given["status"]).casefold()]
        number.update(given)
        return JSONResponse(self.show(number))

    def delete_number(self) -> Response:
        del self.workspace.numbers[str(self.number()["id"])]
        return Response()

    def agent(self, agent_id: JSON) -> Wire:
        return self.workspace.agents.get(str(agent_id)) or _refuse(404, "NOT_FOUND", "Agent not found")

    def number(self) -> Wire:
        return self.workspace.numbers.get(self.path[1]) or _refuse(404, "NOT_FOUND", "Phone number not found")

    def show(self, item: Wire) -> Wire:
        embed, agent = self.options.get("embed_agent", "none"), self.workspace.agents.get(str(item.get("agentId")))
        if embed == "none" or agent is None:
            return item
        return {**item, "agent": agent if embed == "whole" else {"id": agent["id"], "name": agent["name"]}}

    def page(self, found: list[Wire]) -> Response:
        most = self.options.get("max_limit", 100)
        page, limit = self.count("page", 1), self.count("limit", min(_DEFAULT_LIMIT, most))
        if limit > most and not self.options.get("clamp"):
            _refuse(400, "BAD_REQUEST", f"limit must be at most {most}")
        total, limit = len(found), min(limit, most)
        end = page * limit
        pagination: Wire = {"page": page, "limit": limit, "total": total}
        pagination |= (
            {"hasMore": end < total} if self.options.get("has_more") else {"totalPages": math.ceil(total / limit)}
        )
        return JSONResponse({"data": [self.show(item) for item in found[end - limit : end]], "pagination": pagination})

    def count(self, name: str, default: int) -> int:
        text = self.query.get(name, str(default))
        known = re.fullmatch(r"[1-9][0-9]{0,8}", text)
        return int(text) if known else _refuse(400, "BAD_REQUEST", f"{name} must be a positive integer")

    def status(self, known: Mapping[str, str]) -> str | None:
        status = known.get(self.query.get("status", "").casefold())
        if status is None and "status" in self.query:
            _refuse(400, "BAD_REQUEST", f"status must be one of {', '.join(known)}")
        return status

    def fields(self, *allowed: str, required: Collection[str] = ()) -> Wire:
        try:
            body: Wire = {**json.loads(self.body)}
        except (TypeError, ValueError, RecursionError):
            _refuse(400, "INVALID_BODY", "The body is not a JSON object")
        given = {name: body[name] for name in allowed if name in body}
        wrong: Wire = {name: [_RULES[name][1]] for name in given if not _RULES[name][0](given[name])}
        wrong |= {name: ["Required"] for name in required if given.get(name) is None}
        if wrong:
            body = {"error": "Invalid body", "details": {"formErrors": [], "fieldErrors": wrong}}
            raise _Refused(JSONResponse(body, 400))
        return given


def _agent(workspace_id: str, i: int) -> Wire:
    (city, _, language), role = _PLACES[i % len(_PLACES)], _ROLES[(i + i // len(_PLACES) * 2) % len(_ROLES)]
    created, kind = _FIRST_CREATED + i * 25_980, "custom" if i % 12 == 6 else "standard"
    task = f"Takes {role.lower()} calls for the dental practice in {city}."
    agent: Wire = {"id": _cuid(f"{workspace_id}/agent/{i}", created), "name": f"{city} {role}"}
    # An optional key may be null or missing: one agent of twelve each.
    agent |= {} if i % 12 == 7 else {"description": None if i % 12 == 10 else task}
    agent |= {"status": {5: "INACTIVE", 8: "SUSPENDED"}.get(i % 12, "ACTIVE"), "type": kind}
    agent |= {"workspaceId": workspace_id, "createdAt": _rfc3339(created), "updatedAt": _rfc3339(created + 93_600)}
    prompt = f"{task} Ask one question at a time, keep to two sentences and give no medical advice. Where a caller is "
    prompt += "in pain, offer today's emergency slot first. Spell names back, and confirm each date with its weekday."
    config: Wire = {"systemPrompt": prompt, "firstMessage": f"{city} practice, how may I help you?", "temperature": 0.4}
    return agent | {"standardConfig": config | {"language": language, "voice": {"provider": "elevenlabs"}}}


def _number(workspace_id: str, i: int, owners: list[str]) -> Wire:
    owner = owners[i % len(owners)] if owners and i % 10 != 9 else None
    (city, block, _), created = _PLACES[i % (len(owners) or 1) % len(_PLACES)], _FIRST_CREATED + 90_000 + i * 6_180
    number: Wire = {"id": _cuid(f"{workspace_id}/number/{i}", created), "phoneNumber": f"{block}{i:03d}"}
    number |= {} if i % 7 == 6 else {"friendlyName": None if i % 7 == 3 else f"{city} line {i + 1}"}
    status = "INACTIVE" if i % 29 == 28 else "assigned" if owner else "unassigned"
    return number | {"agentId": owner, "status": status, "createdAt": _rfc3339(created)}


def _cuid(seed: str, at: float) -> str:
    """Make an id of the vendor's shape: `c`, the time in base 36, then hashed here what is random there."""
    digits, noise = "0123456789abcdefghijklmnopqrstuvwxyz", int.from_bytes(hashlib.sha256(seed.encode()).digest())
    parts = [int(at * 1000) // 36**k for k in range(7, -1, -1)] + [noise // 36**k for k in range(16)]
    return "c" + "".join(digits[part % 36] for part in parts)


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
