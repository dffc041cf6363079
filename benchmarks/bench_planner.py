"""CPU of the planner's two decisions, the cheapest and the dearest case of each.

Not in the test run:

    pip install -e '.[test,bench]'
    pytest benchmarks/bench_planner.py --benchmark-columns=min,median
"""

from typing import Any

import pytest

from gateway.dataloaders.planner import pages_to_read, window
from gateway.upstream.resources import MAX_LIMIT, Size

pytestmark = pytest.mark.benchmark(group="planner")

DECISIONS = {
    "nothing known": (100, 100, None, 0, 1),
    "singles": (3, 3, Size(2000, MAX_LIMIT), 0, 0),
    "sweep": (100, 100, Size(2000, MAX_LIMIT), 0, 20),
}
WINDOWS = {
    "first page": (0, 100, 1),
    "aligned": (300, 100, 1),
    "inside a page": (37, 10, 1),
    "two neighbours": (99, 100, 2),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_pages_to_read(benchmark: Any, name: str) -> None:
    keys, missing, size, read, pages = DECISIONS[name]

    assert benchmark(pages_to_read, keys, missing, size, read) == pages


@pytest.mark.parametrize("name", WINDOWS)
def test_window(benchmark: Any, name: str) -> None:
    start, count, requests = WINDOWS[name]

    assert len(benchmark(window, start, count)) == requests
