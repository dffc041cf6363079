"""Relay connections over page and limit: every window is the plain slice, whatever the list does meanwhile."""

import asyncio
import base64
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.demo.rest_api import sample_workspace
from gateway.schema.pagination import Window, connect
from gateway.upstream.models import AgentRow, AgentStatus, AgentType, Listing, Pagination
from gateway.upstream.resources import PageRequest, believed
from tests.harness import Gateway, errors_of, open_gateway

PAGE = "query($first: Int! = 50, $after: String, $status: PhoneNumberStatus) {"
PAGE += " phoneNumbers(first: $first, after: $after, status: $status) {"
PAGE += " totalCount nodes { id } edges { cursor node { id } }"
PAGE += " pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"
LIE = "GET /numbers[?].*"


def row(i: int) -> AgentRow:
    return AgentRow(f"a{i}", "", AgentStatus.ACTIVE, AgentType.CUSTOM, "", "")


class List:
    """A list of `total` rows behind page and limit, as far as it keeps to them."""

    def __init__(self, total: int, *, most: int = 100, least: int = 1, says: int | None = None) -> None:
        self.total, self.most, self.least, self.says = total, most, least, says
        self.requests: list[PageRequest] = []

    async def fetch(self, requests: list[PageRequest], _: int | None) -> list[Listing[AgentRow]]:
        return [self._page(request) for request in requests]

    def _page(self, request: PageRequest) -> Listing[AgentRow]:
        self.requests.append(request)
        limit = max(self.least, min(self.most, request.limit))
        stop = min(request.page * limit, self.total)
        told = self.total if self.says is None else self.says
        rows = [row(i) for i in range((request.page - 1) * limit, stop)]
        return Listing(rows, believed(Pagination(request.page, limit, told), request, len(rows)))


def after(start: int) -> str | None:
    """The cursor in front of row `start`, made by the connection itself."""
    return Window([row(0)], start, start - 1, SCOPE).page_info.end_cursor if start else None


SCOPE = asyncio.run(connect(List(0).fetch, 1, None, filters=("x",), total=None)).scope


def run(rows: List, start: int, first: int, total: int | None = None) -> Window[AgentRow]:
    return asyncio.run(connect(rows.fetch, first, after(start), filters=("x",), total=total))


@settings(deadline=None)
@given(total=st.integers(0, 400), start=st.integers(0, 450), first=st.integers(1, 100), known=st.booleans())
def test_every_window_is_the_plain_slice_in_two_calls_at_most(
    total: int, start: int, first: int, *, known: bool
) -> None:
    rows = List(total)

    found = run(rows, start, first, total if known else None)

    assert [node.id for node in found.nodes] == [f"a{i}" for i in range(total)][start : start + first]
    assert found.total_count == total
    assert found.page_info.has_next_page is (start + first < total)
    assert found.page_info.has_previous_page is (start > 0 and total > 0)
    assert len(rows.requests) <= 2
    assert [edge.cursor for edge in found.edges] == [after(i + 1) for i in range(start, start + len(found.nodes))]


@settings(deadline=None)
@given(
    total=st.integers(0, 300),
    start=st.integers(0, 320),
    first=st.integers(1, 100),
    most=st.integers(7, 100),
    least=st.integers(1, 100),
    known=st.sampled_from([None, 0, 5, 1000]),
)
def test_a_page_size_of_the_upstreams_own_and_a_total_that_was_wrong_cost_calls_never_rows(
    total: int, start: int, first: int, most: int, least: int, known: int | None
) -> None:
    rows = List(total, most=most, least=min(least, most))

    found = run(rows, start, first, known)

    assert [node.id for node in found.nodes] == [f"a{i}" for i in range(total)][start : start + first]
    assert len(rows.requests) <= 6 + -(-min(first, max(total - start, known or 0)) // most)


@settings(deadline=None)
@given(
    total=st.integers(0, 150),
    says=st.integers(-5, 5000),
    start=st.integers(0, 200),
    first=st.integers(1, 100),
    most=st.integers(1, 100),
)
def test_a_list_that_tells_a_wrong_total_ends_and_sends_nobody_in_circles(
    total: int, says: int, start: int, first: int, most: int
) -> None:
    rows = List(total, says=says, most=most)

    found = run(rows, start, first)

    assert len(rows.requests) <= 205
    plain = [f"a{i}" for i in range(total)][start : start + first]
    # behind a total that is too low, a page size of the upstream's own may leave the rest to the next window
    assert [node.id for node in found.nodes] == plain[: len(found.nodes) if most < 100 and says < total else None]
    assert found.nodes or not found.page_info.has_next_page


async def test_a_listing_without_pagination_is_the_whole_list() -> None:
    found = await connect(lambda *_: asyncio.sleep(0, [Listing([row(0), row(1)])]), 50, None, filters=(), total=None)

    assert (len(found.nodes), found.total_count) == (2, 2)


@pytest.mark.parametrize("first", [1, 7, 20, 33, 60, 100])
async def test_walks_the_whole_list_by_end_cursors(gateway: Gateway, first: int) -> None:
    ids: list[str] = []
    cursor = None
    while True:
        page = (await gateway.data(PAGE, {"first": first, "after": cursor}))["phoneNumbers"]
        ids += [node["id"] for node in page["nodes"]]
        cursor = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break

    assert ids == list(gateway.workspaces["demo"].numbers)
    assert len(gateway.calls) == -(-60 // first)


async def test_a_page_tells_its_place_and_its_cursors(gateway: Gateway) -> None:
    page = (await gateway.data(PAGE, {"first": 10}))["phoneNumbers"]
    rest = (await gateway.data(PAGE, {"first": 50, "after": page["edges"][9]["cursor"]}))["phoneNumbers"]

    assert gateway.calls == ["GET /numbers?page=1&limit=10", "GET /numbers?page=1&limit=60"]
    assert page["totalCount"] == rest["totalCount"] == 60
    assert [edge["node"] for edge in page["edges"]] == page["nodes"]
    assert page["pageInfo"] == {
        "hasNextPage": True,
        "hasPreviousPage": False,
        "startCursor": page["edges"][0]["cursor"],
        "endCursor": page["edges"][9]["cursor"],
    }
    assert rest["pageInfo"]["hasPreviousPage"] is True


async def test_two_pages_of_a_known_list_go_out_together() -> None:
    async with open_gateway(workspaces={"demo": sample_workspace(numbers=300)}) as gateway:
        page = (await gateway.data(PAGE, {"first": 50}))["phoneNumbers"]
        nodes = (await gateway.data(PAGE, {"first": 100, "after": page["pageInfo"]["endCursor"]}))["phoneNumbers"]

        calls = gateway.calls
    assert calls == ["GET /numbers?page=1&limit=50", "GET /numbers?page=2&limit=50", "GET /numbers?page=3&limit=50"]
    assert len(nodes["nodes"]) == 100


async def test_an_empty_list_has_no_cursors() -> None:
    async with open_gateway(workspaces={"demo": sample_workspace(agents=0, numbers=0)}) as gateway:
        page = (await gateway.data(PAGE))["phoneNumbers"]

    none = {"hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None}
    assert page == {"totalCount": 0, "nodes": [], "edges": [], "pageInfo": none}


async def test_a_cursor_behind_the_end_of_a_list_that_shrank_answers_an_empty_page(gateway: Gateway) -> None:
    page = (await gateway.data(PAGE, {"first": 50}))["phoneNumbers"]
    numbers = gateway.workspaces["demo"].numbers
    for id_ in list(numbers)[5:]:
        del numbers[id_]

    rest = (await gateway.data(PAGE, {"first": 5, "after": page["pageInfo"]["endCursor"]}))["phoneNumbers"]

    assert (rest["nodes"], rest["totalCount"]) == ([], 5)
    assert (rest["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasPreviousPage"]) == (False, True)


@pytest.mark.parametrize(
    "cursor",
    ["x", "!", "====", "MA", "ünï", "\u0000", "LTE6", "9" * 400, base64.b64encode(b"1:000000000000").decode()],
)
async def test_a_cursor_that_nobody_made_is_refused_without_a_call(gateway: Gateway, cursor: str) -> None:
    answer = await gateway.ask(PAGE, {"after": cursor})

    assert errors_of(answer) == [("BAD_USER_INPUT", ["phoneNumbers"])]
    assert "Omit it" in answer["errors"][0]["message"]
    assert gateway.calls == []


@pytest.mark.parametrize("offset", ["-1", "1.5", "1e3", "²", "1234567890", "", " 1", "0x1"])
async def test_a_forged_offset_is_refused(gateway: Gateway, offset: str) -> None:
    made = (await gateway.data(PAGE, {"first": 1}))["phoneNumbers"]["pageInfo"]["endCursor"]
    scope = base64.urlsafe_b64decode(made + "==").decode().partition(":")[2]
    forged = base64.urlsafe_b64encode(f"{offset}:{scope}".encode()).decode().rstrip("=")

    answer = await gateway.ask(PAGE, {"after": forged})

    assert errors_of(answer) == [("BAD_USER_INPUT", ["phoneNumbers"])]


@pytest.mark.parametrize(
    "other",
    [
        "phoneNumbers(after: $c, status: ASSIGNED) { totalCount }",
        "agents(after: $c) { totalCount }",
        'agents(after: $c, search: "berlin") { totalCount }',
        "agents(after: $c, status: ACTIVE) { totalCount }",
    ],
)
async def test_a_cursor_of_another_list_or_filter_is_refused(gateway: Gateway, other: str) -> None:
    made = (await gateway.data(PAGE, {"first": 1}))["phoneNumbers"]["pageInfo"]["endCursor"]
    spent = gateway.calls

    answer = await gateway.ask(f"query($c: String) {{ {other} }}", {"c": made})

    assert [code for code, _ in errors_of(answer)] == ["BAD_USER_INPUT"]
    assert (len(spent), gateway.calls) == (1, [])


async def test_a_cursor_goes_on_within_its_filter_and_null_or_empty_begins_anew(gateway: Gateway) -> None:
    ask = 'query($c: String) { agents(first: 1, after: $c, status: ACTIVE, search: "BERLIN") { nodes { name }'
    ask += " pageInfo { endCursor } } }"
    one = (await gateway.data(ask, {"c": None}))["agents"]
    two = (await gateway.data(ask, {"c": one["pageInfo"]["endCursor"]}))["agents"]

    assert gateway.calls == [
        "GET /agents?page=1&limit=1&status=ACTIVE&search=BERLIN",
        "GET /agents?page=2&limit=1&status=ACTIVE&search=BERLIN",
    ]
    assert one["nodes"] != two["nodes"]
    assert one == (await gateway.data(ask, {"c": ""}))["agents"]


@pytest.mark.parametrize("first", [0, -1, 101, 2147483647])
@pytest.mark.parametrize("listing", ["agents", "phoneNumbers"])
async def test_first_out_of_range_is_refused_without_a_call(gateway: Gateway, listing: str, first: int) -> None:
    answer = await gateway.ask(f"{{ {listing}(first: {first}) {{ totalCount }} }}")

    assert errors_of(answer) == [("BAD_USER_INPUT", [listing])]
    assert "1 to 100" in answer["errors"][0]["message"]
    assert gateway.calls == []


@pytest.mark.parametrize(
    ("pagination", "served", "expected"),
    [
        ({"limit": 0, "total": 60}, 50, (50, 60, True)),
        ({"limit": 50, "total": 60}, 0, (0, 60, False)),
        ({"limit": 50, "total": 60}, 8, (8, 60, True)),
        ({"limit": 50, "total": 8}, 50, (50, 51, True)),
        ({"limit": 50, "total": 8}, 40, (40, 40, False)),
        ({"limit": 50, "total": 500}, 60, (50, 500, True)),
        ({"limit": 50, "total": -3}, 50, (50, 51, True)),
        ({"limit": -1, "total": 50}, 50, (50, 50, False)),
    ],
)
async def test_a_lying_list_ends_after_few_calls(
    gateway: Gateway, pagination: dict[str, Any], served: int, expected: tuple[int, int, bool]
) -> None:
    numbers = list(gateway.workspaces["demo"].numbers.values())[:served]
    gateway.upstream.play(LIE, httpx.Response(200, json={"data": numbers, "pagination": {"page": 1} | pagination}))

    page = (await gateway.data(PAGE))["phoneNumbers"]

    assert (len(page["nodes"]), page["totalCount"], page["pageInfo"]["hasNextPage"]) == expected
    assert len(gateway.calls) <= 2


@pytest.mark.parametrize("option", [{"has_more": True}, {"max_limit": 20, "clamp": True}, {"embed_agent": "whole"}])
async def test_a_page_is_the_same_in_every_dialect(option: dict[str, Any]) -> None:
    async with open_gateway(**option) as gateway:
        page = (await gateway.data(PAGE, {"first": 100}))["phoneNumbers"]

        calls = gateway.calls
    assert [node["id"] for node in page["nodes"]] == list(gateway.workspaces["demo"].numbers)
    later = ["GET /numbers?page=2&limit=20", "GET /numbers?page=3&limit=20"] if "clamp" in option else []
    assert calls == ["GET /numbers?page=1&limit=100", *later]


async def test_a_failed_page_fails_its_connection_only(gateway: Gateway) -> None:
    gateway.upstream.play(LIE, httpx.Response(500))

    answer = await gateway.ask("{ phoneNumbers { totalCount } agents { totalCount } }")

    assert answer["data"] == {"phoneNumbers": None, "agents": {"totalCount": 12}}
    assert errors_of(answer) == [("UPSTREAM_ERROR", ["phoneNumbers"])]


async def test_a_search_is_escaped_and_bounded(gateway: Gateway) -> None:
    ask = "query($s: String) { agents(search: $s) { totalCount } }"
    await gateway.data(ask, {"s": "a&status=x#/../ü"})
    await gateway.data(ask, {"s": "x" * 200})

    assert gateway.calls[0] == "GET /agents?page=1&limit=50&search=a%26status%3Dx%23%2F..%2F%C3%BC"
    assert errors_of(await gateway.ask(ask, {"s": "x" * 201})) == [("BAD_USER_INPUT", ["agents"])]
    assert gateway.calls == []
