"""Answers that are not of the documented shape, over real sockets: one row that does not fit costs that row at most."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from gateway.http.server import Protocol
from tests.harness import errors_of
from tests.raw_upstream import RawUpstream, answer, raw_upstream
from tests.server import serve

AGENTS = "{ agents(first: 100) { totalCount nodes { id name description status type createdAt } } }"
OWNED = "{ agents(first: 100) { nodes { id numbers { id phoneNumber } } } }"
Ask = Callable[[str], Any]
Rows = list[Any]


def agent(i: int, **keys: Any) -> dict[str, Any]:
    times = {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-02T00:00:00Z"}
    return {"id": f"a{i}", "name": f"Agent {i}", "status": "ACTIVE", "type": "custom", **times, **keys}


def number(i: int, owner: str | None, **keys: Any) -> dict[str, Any]:
    row = {"id": f"n{i}", "phoneNumber": f"+49{i}", "status": "ACTIVE", "createdAt": "2026-01-01T00:00:00Z"}
    return row | {"agentId": owner} | keys


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


class Rest:
    """Rows that may be anything, behind the paths and pages of the REST API; `pagination` changes what pages tell."""

    def __init__(self, agents: Rows, numbers: Rows = (), pagination: Callable[[Any], Any] = lambda told: told) -> None:  # type: ignore[assignment]
        self.lists: dict[str, Rows] = {"agents": list(agents), "numbers": list(numbers)}
        self.pagination = pagination

    def __call__(self, call: str) -> bytes:
        url = urlsplit(call.partition(" ")[2])
        match url.path.strip("/").split("/"):
            case ["agents", id_, "numbers"]:
                owned = [row for row in self.lists["numbers"] if isinstance(row, dict) and row.get("agentId") == id_]
                return self.write({"data": owned})
            case [kind, id_]:
                found = [row for row in self.lists[kind] if isinstance(row, dict) and str(row.get("id")) == id_]
                return self.write(found[0]) if found else answer(b"{}", "404 Not Found")
            case [kind]:
                asked = {name: int(value[0]) for name, value in parse_qs(url.query).items()}
                told = self.pagination(asked | {"total": len(self.lists[kind])})
                rows = self.lists[kind][(asked["page"] - 1) * asked["limit"] :][: asked["limit"]]
                return self.write({"data": rows} | ({} if told is None else {"pagination": told}))
        raise AssertionError(call)

    def write(self, body: Any) -> bytes:
        return answer(json.dumps(body).encode())


@asynccontextmanager
async def asking(rest: Callable[[str], bytes], **settings: str) -> AsyncIterator[tuple[Ask, RawUpstream]]:
    """Serve a gateway on a REST API, both on sockets."""
    async with raw_upstream() as upstream, httpx.AsyncClient() as http:
        upstream.answers = rest
        with serve(Protocol, upstream_url=upstream.url, **settings) as port:

            async def ask(query: str) -> Any:
                sent = {"query": query}
                asked = await http.post(f"http://127.0.0.1:{port}/graphql", json=sent, headers={"X-API-Key": "key"})
                return asked.json()

            yield ask, upstream


ROWS: list[tuple[Any, dict[str, Any] | None, list[str]]] = [
    (agent(3, name="\ud83d x \ude00"), {"name": "\ufffd x \ufffd"}, []),
    (agent(3, name="\U0001f600"), {"name": "\U0001f600"}, []),
    (agent(3, name="\\ud83d"), {"name": "\\ud83d"}, []),
    (agent(3, id=3), {"id": "3"}, []),
    (agent(3, id=123456789012345678901234567890), {"id": "123456789012345678901234567890"}, []),
    (agent(3, name=12.5), {"name": "12.5"}, []),
    (without(agent(3), "status", "type"), {"status": "UNKNOWN", "type": "UNKNOWN"}, []),
    (agent(3, status=None, type=7), {"status": "UNKNOWN", "type": "UNKNOWN"}, []),
    (agent(3, status="active", description=["a list"]), {"status": "ACTIVE", "description": None}, []),
    (agent(3, updatedAt=None), {}, []),
    (agent(3, name=None), None, ["name"]),
    (agent(3, name=True), None, ["name"]),
    (agent(3, createdAt=1767225600), None, ["createdAt"]),
    (without(agent(3), "id"), None, ["id"]),
    (None, None, ["id"]),
    ("a string", None, ["id"]),
    ([agent(3)], None, ["id"]),
]


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_row_that_does_not_fit_is_repaired_or_the_only_one_missing(compiled: str) -> None:
    rest = Rest([])
    async with asking(rest, compiled=compiled, quota_reserve="0") as (ask, upstream):
        for row, repaired, unreadable in ROWS:
            rows = [agent(i) for i in range(100)]
            rest.lists["agents"] = [*rows[:3], row, *rows[4:]]

            told = await ask(AGENTS)

            nodes, shown = told["data"]["agents"]["nodes"], {"description": None, **agent(3, type="CUSTOM")}
            assert errors_of(told) == [("UPSTREAM_ERROR", ["agents", "nodes", 3, name]) for name in unreadable], row
            expected = [] if repaired is None else [without(shown, "updatedAt") | repaired]
            assert nodes[3:-96] == expected, row
            assert [node["id"] for node in nodes[:3] + nodes[-96:]] == [f"a{i}" for i in range(100) if i != 3]
            assert told["data"]["agents"]["totalCount"] == 100
    assert upstream.calls == ["GET /agents?page=1&limit=100"] * len(ROWS)


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_value_that_nobody_selected_is_no_error(compiled: str) -> None:
    rest = Rest([agent(0, name=None, createdAt=None), agent(1)], [number(0, "a0", phoneNumber=None)])
    async with asking(rest, compiled=compiled) as (ask, _):
        told = await ask("{ agents { nodes { id } edges { node { id numbers { id } } } } }")
        named = await ask("{ agents { edges { node { named: name } } nodes { numbers { phoneNumber } } } }")

    owned = [{"node": {"id": "a0", "numbers": [{"id": "n0"}]}}, {"node": {"id": "a1", "numbers": []}}]
    assert told["data"] == {"agents": {"nodes": [{"id": "a0"}, {"id": "a1"}], "edges": owned}}
    assert "errors" not in told
    assert named["data"]["agents"] == {"edges": [{"node": {"named": "Agent 1"}}], "nodes": [{"numbers": []}] * 2}
    assert sorted(errors_of(named), key=str) == [
        ("UPSTREAM_ERROR", ["agents", "edges", 0, "node", "named"]),
        ("UPSTREAM_ERROR", ["agents", "nodes", 0, "numbers", 0, "phoneNumber"]),
    ]


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_a_row_that_does_not_fit_leaves_the_list_scan_as_it_is(compiled: str) -> None:
    numbers: Rows = [number(i, f"a{i % 5}") for i in range(40)]
    numbers[7] |= {"friendlyName": "\ud83d", "id": 7}
    numbers[8], numbers[9] = without(numbers[8], "status"), None
    async with asking(Rest([agent(i) for i in range(5)], numbers), compiled=compiled) as (ask, upstream):
        told = await ask(OWNED)

    assert sorted(upstream.calls) == ["GET /agents?page=1&limit=100", "GET /numbers?page=1&limit=100"]
    assert "errors" not in told
    nodes = told["data"]["agents"]["nodes"]
    assert [len(node["numbers"]) for node in nodes] == [8, 8, 8, 8, 7]
    assert nodes[2]["numbers"][1] == {"id": "7", "phoneNumber": "+497"}


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_the_numbers_of_an_agent_without_an_id_are_an_error_of_their_own(compiled: str) -> None:
    rest = Rest([agent(0), without(agent(1), "id"), agent(2), agent(3)], [number(0, "a0")])
    async with asking(rest, compiled=compiled) as (ask, _):
        told = await ask("{ agents { nodes { name numbers { id } } } }")

    nodes = [{"name": f"Agent {i}", "numbers": []} for i in range(4)]
    assert told["data"]["agents"]["nodes"] == [
        nodes[0] | {"numbers": [{"id": "n0"}]},
        nodes[1] | {"numbers": None},
        *nodes[2:],
    ]
    assert errors_of(told) == [("UPSTREAM_ERROR", ["agents", "nodes", 1, "numbers"])]


async def test_a_single_object_is_repaired_or_null_with_an_error_at_the_value() -> None:
    async with asking(Rest([agent(0, name=None), agent(1, id=1, status=None)], [number(0, None, id=9)])) as (ask, _):
        told = await ask(
            '{ a: agent(id: "a0") { id name } b: agent(id: "a0") { id } c: agent(id: "1") { id status }'
            ' d: phoneNumber(id: "9") { id agent { id } } }'
        )

    one = {"id": "1", "status": "UNKNOWN"}
    assert told["data"] == {"a": None, "b": {"id": "a0"}, "c": one, "d": {"id": "9", "agent": None}}
    assert errors_of(told) == [("UPSTREAM_ERROR", ["a", "name"])]


@pytest.mark.parametrize("body", ["{}", "null", "[]", '"a1"', "7", '{"data": {}}', "", '{"id": "a1', '{"id": null}'])
async def test_what_is_no_object_with_an_id_cannot_be_read(body: str) -> None:
    async with asking(lambda _: answer(body.encode())) as (ask, _):
        told = await ask('{ agent(id: "a1") { status } agents { totalCount } }')

    assert told["data"] == {"agent": None, "agents": None}
    assert sorted(errors_of(told)) == [("UPSTREAM_ERROR", ["agent"]), ("UPSTREAM_ERROR", ["agents"])]


UNUSUAL: list[tuple[Callable[[Any], Any], int, bool]] = [
    (lambda _: None, 61, True),
    (lambda _: {}, 61, True),
    (lambda told: without(told, "total") | {"hasMore": False}, 60, False),
    (lambda told: without(told, "total") | {"hasMore": True}, 61, True),
    (lambda told: {name: str(value) for name, value in told.items()}, 90, True),
    (lambda told: {name: float(value) for name, value in told.items()}, 90, True),
    (lambda told: told | {"total": 2**31}, 2**31 - 1, True),
    (lambda told: told | {"total": 10**30}, 2**31 - 1, True),
    (lambda told: told | {"total": "1e3"}, 1000, True),
    (lambda told: told | {"total": "many", "page": [1], "limit": None}, 61, True),
    (lambda told: told | {"total": -1}, 61, True),
    (lambda _: "page 1", 61, True),
]


@pytest.mark.parametrize(("pagination", "total", "more"), UNUSUAL)
async def test_pagination_is_read_as_far_as_it_can_be(
    *, pagination: Callable[[Any], Any], total: int, more: bool
) -> None:
    rest = Rest([agent(i) for i in range(90)], pagination=pagination)
    async with asking(rest) as (ask, upstream):
        told = await ask("{ agents(first: 60) { totalCount nodes { id } pageInfo { hasNextPage } } }")

    page = told["data"]["agents"]
    assert "errors" not in told
    assert (len(page["nodes"]), page["totalCount"], page["pageInfo"]["hasNextPage"]) == (60, total, more)
    assert upstream.calls == ["GET /agents?page=1&limit=60"]


@pytest.mark.parametrize(
    "pagination", [lambda _: None, lambda told: told | {"total": 7}, lambda told: told | {"total": 1000}]
)
async def test_a_walk_brings_every_row_whatever_the_total_says(pagination: Callable[[Any], Any]) -> None:
    rest, ids, after = Rest([agent(i) for i in range(130)], pagination=pagination), [], ""
    async with asking(rest) as (ask, _):
        for _ in range(4):
            told = await ask(
                f"{{ agents(first: 50{after}) {{ nodes {{ id }} pageInfo {{ hasNextPage endCursor }} }} }}"
            )
            page = told["data"]["agents"]
            ids += [node["id"] for node in page["nodes"]]
            if not page["pageInfo"]["hasNextPage"]:
                break
            after = f', after: "{page["pageInfo"]["endCursor"]}"'

    assert ids == [f"a{i}" for i in range(130)]


BODY = {"data": [agent(0)], "pagination": {"page": 1, "limit": 50, "total": 1}}
TEXT = json.dumps(BODY)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-32-be"),
        TEXT.replace("Agent 0", "Agent \udcff").encode("utf-8", "surrogateescape"),
        json.dumps({**BODY, "more": {"\ud83d": ["\ude00"]}}).encode(),
        (TEXT[:-1] + ', "more": ' + "9" * 5000 + "}").encode(),
        json.dumps(BODY | {"pagination": None}).encode(),
    ],
    ids=[
        "bom",
        "utf-16",
        "utf-32",
        "bytes that are no text",
        "surrogates elsewhere",
        "a long number",
        "null pagination",
    ],
)
async def test_text_is_read_in_any_form_that_json_allows(body: bytes) -> None:
    async with asking(lambda _: answer(body)) as (ask, _):
        told = await ask("{ agents { totalCount nodes { id } } }")

    assert told["data"] == {"agents": {"totalCount": 1, "nodes": [{"id": "a0"}]}}


async def test_an_empty_list_may_be_null() -> None:
    body = answer(b'{"data": null, "pagination": {"page": 1, "limit": 50, "total": 0}}')
    async with asking(lambda _: body) as (ask, _):
        told = await ask('{ phoneNumbers { totalCount nodes { id } } agent(id: "a1") { id numbers { id } } }')

    assert told["data"] == {"phoneNumbers": {"totalCount": 0, "nodes": []}, "agent": {"id": "a1", "numbers": []}}


async def test_the_upstreams_message_is_read_as_its_rows_are() -> None:
    body = b'\xef\xbb\xbf{"error": {"message": "no \\ud83d", "code": "BAD"}}'
    async with asking(lambda _: answer(body, "400 Bad Request")) as (ask, _):
        told = await ask("{ agents { totalCount } }")

    assert told["errors"][0]["message"] == "no \ufffd"
