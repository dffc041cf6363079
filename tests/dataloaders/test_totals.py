"""Totals that are wrong: the rows that came are believed, and a list scan ends where an empty page proves the end."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.upstream.models import Pagination
from gateway.upstream.resources import SIZES_LAST, ListSizes
from tests.upstream.test_repair import Rest, agent, asking, number, without

OWNED = "{ agents(first: 100) { totalCount nodes { id numbers { id } } } }"
AGENTS_PAGE = "GET /agents?page=1&limit=100"


def pages(*numbers: int) -> list[str]:
    return [f"GET /numbers?page={page}&limit=100" for page in numbers]


def singles(agents: int) -> list[str]:
    return [f"GET /agents/a{i}/numbers" for i in range(agents)]


def workspace(numbers: int, agents: int = 8) -> tuple[list[Any], list[Any]]:
    return [agent(i) for i in range(agents)], [number(i, f"a{i % agents}") for i in range(numbers)]


def told(total: Callable[[int], int]) -> Callable[[Any], Any]:
    return lambda pagination: pagination | {"total": total(pagination["total"])}


@pytest.mark.parametrize(
    ("numbers", "total", "first", "again"),
    [
        (60, lambda total: total + 5, pages(1, 2), pages(1)),
        (60, lambda total: total + 1000, pages(1, 2), pages(1)),
        (60, lambda total: total - 20, pages(1), pages(1)),
        (60, lambda _: 0, pages(1), pages(1)),
        (100, lambda total: total + 5, pages(1, 2), pages(1, 2)),  # a full page shows no end
        (250, lambda total: total + 5, pages(1, 2, 3, 4), pages(1, 2, 3)),
        (250, lambda total: total + 150, pages(1, 2, 3, 4), pages(1, 2, 3)),
        (250, lambda total: total, pages(1, 2, 3), pages(1, 2, 3)),
    ],
)
async def test_a_wrong_total_of_numbers_costs_one_page_once(
    numbers: int, total: Callable[[int], int], first: list[str], again: list[str]
) -> None:
    rest = Rest(*workspace(numbers), pagination=told(lambda rows: rows if rows == 8 else total(rows)))
    async with asking(rest) as (ask, upstream):
        answers = [await ask(OWNED)]
        calls = list(upstream.calls)
        answers.append(await ask(OWNED))

    owned = [[{"id": f"n{n}"} for n in range(numbers) if n % 8 == i] for i in range(8)]
    for answer in answers:
        assert [node["numbers"] for node in answer["data"]["agents"]["nodes"]] == owned
    assert sorted(calls) == sorted([AGENTS_PAGE, *first])
    assert sorted(upstream.calls[len(calls) :]) == sorted([AGENTS_PAGE, *again])


@pytest.mark.parametrize("numbers", [90, 260])
async def test_a_page_that_is_short_though_more_follow_is_not_taken_for_the_last(numbers: int) -> None:
    class Clamped(Rest):
        """Never sends more than 50 rows, and tells the limit that was asked for."""

        def __call__(self, call: str) -> bytes:
            if not call.startswith("GET /numbers?"):
                return super().__call__(call)
            page, limit = (int(part.partition("=")[2]) for part in call.partition("?")[2].split("&"))
            rows = self.lists["numbers"][(page - 1) * min(limit, 50) :][: min(limit, 50)]
            pagination = {"page": page, "limit": limit, "total": len(self.lists["numbers"])}
            return self.write({"data": rows, "pagination": pagination})

    async with asking(Clamped(*workspace(numbers))) as (ask, _):
        answer = await ask(OWNED)

    owned = [[{"id": f"n{n}"} for n in range(numbers) if n % 8 == i] for i in range(8)]
    assert [node["numbers"] for node in answer["data"]["agents"]["nodes"]] == owned


async def test_a_list_that_grows_after_its_total_was_found_wrong_is_seen_to_its_end() -> None:
    rest = Rest(*workspace(60), pagination=told(lambda rows: rows if rows == 8 else 1000))
    async with asking(rest) as (ask, _):
        await ask(OWNED)
        rest.lists["numbers"].append(number(60, "a0"))
        for _ in range(2):
            answer = await ask(OWNED)

            assert answer["data"]["agents"]["nodes"][0]["numbers"][-1] == {"id": "n60"}


class Capped(Rest):
    """Never sends more than `most` numbers on a page, and tells nothing or something else of the pages."""

    def __init__(self, numbers: int, most: int, tell: Callable[[Any], Any], agents: int = 8) -> None:
        super().__init__(*workspace(numbers, agents))
        self.most, self.tell = most, tell

    def __call__(self, call: str) -> bytes:
        if not call.startswith("GET /numbers?"):
            return super().__call__(call)
        page, limit = (int(part.partition("=")[2]) for part in call.partition("?")[2].split("&"))
        size, rows = min(limit, self.most), self.lists["numbers"]
        shown = rows[(page - 1) * size :][:size]
        pages = -(-len(rows) // size)
        told = self.tell(
            {"page": page, "limit": size, "total": len(shown), "totalPages": pages, "hasMore": page < pages}
        )
        return self.write({"data": shown} | ({"pagination": told} if told else {}))


TELLS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda _: None,
    "no pages": lambda told: {"page": told["page"]},
    "a negative total": lambda told: {"page": told["page"], "limit": told["limit"], "total": -1},
    "more than its total": lambda told: without(told, "totalPages"),
    "more pages than its total": lambda told: without(told, "hasMore"),
    "only more": lambda told: without(told, "total", "totalPages"),
    "only pages": lambda told: without(told, "total", "hasMore"),
    "always more": lambda told: {"page": told["page"], "limit": told["limit"], "hasMore": True},
    "always more than its total": lambda told: without(told, "totalPages") | {"hasMore": True},
}


@pytest.mark.parametrize("tell", TELLS.values(), ids=TELLS)
@pytest.mark.parametrize(("numbers", "most"), [(180, 50), (250, 100), (90, 20), (100, 100), (30, 100), (0, 100)])
async def test_a_page_that_leaves_open_whether_there_is_more_proves_nothing(
    tell: Callable[[Any], Any], numbers: int, most: int
) -> None:
    for first in (100, 37):
        async with asking(Capped(numbers, most, tell), quota_reserve="0") as (ask, upstream):
            for _ in range(2):
                answer = await ask(OWNED)

                owned = [[{"id": f"n{n}"} for n in range(numbers) if n % 8 == i] for i in range(8)]
                assert [node["numbers"] for node in answer["data"]["agents"]["nodes"]] == owned
            assert len(upstream.calls) <= 2 * (1 + 2 * 8 + 1)
            ids, after = [], ""
            for _ in range(20):
                query = "{ phoneNumbers(first: %d%s) { totalCount pageInfo { hasNextPage endCursor } nodes { id } } }"
                page = (await ask(query % (first, after)))["data"]["phoneNumbers"]
                ids += [node["id"] for node in page["nodes"]]
                if not page["pageInfo"]["hasNextPage"]:
                    break
                assert page["totalCount"] > len(ids)
                after = f', after: "{page["pageInfo"]["endCursor"]}"'

            assert ids == [f"n{n}" for n in range(numbers)]


async def test_a_list_that_is_the_same_on_every_page_is_not_repeated() -> None:
    rest = Rest([agent(i) for i in range(3)], pagination=lambda _: None)
    body = rest("GET /agents?page=1&limit=50")
    async with asking(lambda _: body) as (ask, upstream):
        told = await ask("{ agents { totalCount pageInfo { hasNextPage } nodes { id } } }")

    nodes = [{"id": f"a{i}"} for i in range(3)]
    assert told["data"] == {"agents": {"totalCount": 3, "pageInfo": {"hasNextPage": False}, "nodes": nodes}}
    assert upstream.calls == ["GET /agents?page=1&limit=50", "GET /agents?page=2&limit=3"]


async def test_a_total_that_becomes_right_is_believed_again() -> None:
    ghosts = 10
    rest = Rest(*workspace(50), pagination=told(lambda rows: rows if rows == 8 else rows + ghosts))
    async with asking(rest) as (ask, _):
        await ask(OWNED)
        ghosts = 0
        rest.lists["numbers"] += [number(50 + i, "a1") for i in range(10)]
        listed = await ask("{ phoneNumbers(first: 50) { totalCount pageInfo { hasNextPage } nodes { id } } }")
        answer = await ask(OWNED)

    page = listed["data"]["phoneNumbers"]
    assert (page["totalCount"], page["pageInfo"]["hasNextPage"], len(page["nodes"])) == (60, True, 50)
    owned = [[{"id": f"n{n}"} for n in range(50) if n % 8 == i] for i in range(8)]
    owned[1] += [{"id": f"n{50 + i}"} for i in range(10)]
    assert [node["numbers"] for node in answer["data"]["agents"]["nodes"]] == owned


def test_what_was_proven_of_a_list_is_forgotten_after_a_while() -> None:
    sizes = ListSizes()
    sizes.prove("numbers", 65, 60, now=1000.0)

    assert sizes.correct("numbers", Pagination(1, 50, 65), 50, now=1001.0) == 60
    assert sizes.correct("numbers", Pagination(1, 100, 65), 60, now=1001.0 + SIZES_LAST) == 65
    assert sizes.correct("numbers", Pagination(1, 100, 65), 60, now=1001.0) == 65


@pytest.mark.parametrize(("total", "rows"), [(66, 60), (65, 61), (60, 60)])
def test_what_was_proven_of_a_list_is_forgotten_once_it_tells_otherwise(total: int, rows: int) -> None:
    sizes = ListSizes()
    sizes.prove("numbers", 65, 60, now=1000.0)

    assert sizes.correct("numbers", Pagination(1, 100, total), rows, now=1001.0) == total
    assert sizes.disproved("numbers", now=1001.0) is None
