"""The planner: pages for a window, singles or sweep for a batch. Pure, so it is held against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dataloaders.planner import pages_to_read, window
from gateway.upstream.resources import PageRequest, Size


def covers(requests: list[PageRequest], start: int, count: int) -> bool:
    rows = {row for request in requests for row in range(request.start, request.stop)}
    return rows.issuperset(range(start, start + count))


def fewest(start: int, count: int, limit: int) -> int:
    """The fewest pages of one size that cover a window, by trying every size."""
    return min((start + count - 1) // size - start // size + 1 for size in range(1, limit + 1))


def simulate(keys: int, found: int, total: int, limit: int, *, known: bool) -> int:
    """The REST calls of one batch on a list that holds still, `found` of whose keys are on its last page."""
    size, read, missing, calls = Size(total, limit) if known else None, 0, keys, 0
    while more := pages_to_read(keys, missing, size, read):
        read, calls, size = read + more, calls + more, Size(total, limit)
        missing = keys - found if read >= size.pages else keys
    return calls + missing


@settings(deadline=None)
@given(start=st.integers(0, 3000), count=st.integers(1, 100), limit=st.integers(1, 100))
def test_a_window_is_covered_by_the_fewest_pages_of_an_allowed_limit_or_by_the_largest(
    start: int, count: int, limit: int
) -> None:
    requests = window(start, count, limit)

    assert covers(requests, start, count)
    assert len(requests) == fewest(start, count, limit) or requests[0].limit == limit
    assert len(requests) <= 1 + -(-count // limit)
    assert {request.limit for request in requests} <= set(range(1, limit + 1))
    assert [request.page for request in requests] == list(range(requests[0].page, requests[0].page + len(requests)))


@settings(deadline=None)
@given(start=st.integers(0, 100_000), count=st.integers(1, 100))
def test_one_page_wherever_one_will_do_and_never_more_than_two(start: int, count: int) -> None:
    requests = window(start, count)

    single = [size for size in range(count, 101) if start % size + count <= size]
    assert len(requests) == (1 if single else 2)
    assert requests[0].limit == (single[0] if single else requests[1].limit)


@settings(deadline=None)
@given(start=st.integers(0, 1000), count=st.integers(1, 100), limit=st.integers(1, 100))
def test_carries_no_more_rows_than_the_smallest_covering_pages(start: int, count: int, limit: int) -> None:
    requests = window(start, count, limit)

    if len(requests) > 2:  # the upstream's own limit is in the way: the largest there is
        return
    smaller = range(1, requests[0].limit)
    assert all((start + count - 1) // size - start // size + 1 > len(requests) for size in smaller)


@pytest.mark.parametrize(
    ("start", "count", "requests"),
    [
        (0, 50, [(1, 50)]),
        (50, 50, [(2, 50)]),
        (0, 100, [(1, 100)]),
        (1, 2, [(1, 3)]),
        (10, 20, [(1, 30)]),
        (50, 100, [(2, 50), (3, 50)]),
        (99, 2, [(34, 3)]),
        (100, 1, [(101, 1)]),
    ],
)
def test_windows_by_example(start: int, count: int, requests: list[tuple[int, int]]) -> None:
    assert window(start, count) == requests


@pytest.mark.parametrize(
    ("keys", "size", "read", "pages"),
    [
        (1, None, 0, 0),
        (2, None, 0, 0),
        (3, None, 0, 1),
        (50, None, 0, 1),
        (50, None, 1, 0),
        (1, Size(1, 100), 0, 0),
        (2, Size(0, 100), 0, 1),
        (2, Size(100, 100), 0, 1),
        (2, Size(101, 100), 0, 0),
        (3, Size(200, 100), 0, 2),
        (3, Size(201, 100), 0, 0),
        (3, Size(300, 100), 1, 2),
        (3, Size(400, 100), 1, 0),
        (5, Size(100, 0), 0, 0),
        (5, Size(90, 100), 1, 0),
    ],
)
def test_pages_to_read_by_example(keys: int, size: Size | None, read: int, pages: int) -> None:
    assert pages_to_read(keys, keys, size, read) == pages


@settings(deadline=None)
@given(keys=st.integers(1, 120), total=st.integers(0, 20_000), limit=st.integers(1, 100), known=st.booleans())
def test_never_more_than_one_call_above_one_for_each_key(keys: int, total: int, limit: int, *, known: bool) -> None:
    calls = simulate(keys, min(keys, total), total, limit, known=known)

    pages = max(1, -(-total // limit))
    assert calls <= keys + (not known) if total >= keys else calls <= keys + pages
    assert calls >= min(keys, pages)


def test_keys_found_early_end_the_sweep() -> None:
    assert pages_to_read(10, 0, Size(1000, 100), 1) == 0
    assert pages_to_read(10, 1, Size(200, 100), 1) == 0
    assert pages_to_read(10, 2, Size(200, 100), 1) == 1


def test_a_page_request_knows_its_rows() -> None:
    assert (PageRequest(3, 20).start, PageRequest(3, 20).stop) == (40, 60)
    assert (Size(0, 100).pages, Size(100, 100).pages, Size(101, 100).pages) == (1, 1, 2)
