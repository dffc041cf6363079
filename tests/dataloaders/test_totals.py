"""Totals that are wrong: the rows that came are believed, and a list scan ends where an empty page proves the end."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.upstream.test_repair import Rest, agent, asking, number

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
        (100, lambda total: total + 5, pages(1, 2), pages(1)),
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
