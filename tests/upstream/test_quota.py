"""What is known of a key's quota, from headers alone, and which attempt may be made again."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.quota import MOST, WINDOW, Quota, QuotaState
from gateway.upstream.retry import ATTEMPTS, may_retry

NOW = 1_800_000_000.0
VALUES = st.text(st.characters(max_codepoint=255), max_size=20) | st.floats().map(str) | st.integers().map(str)


def told(remaining: object, reset: object = NOW + 600, limit: object = 1000, **more: str) -> dict[str, str]:
    names = {"x-ratelimit-limit": limit, "x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset}
    return {name: str(value) for name, value in names.items()} | {name.lower(): more[name] for name in more}


def learned(headers: dict[str, str], status: int = 200) -> Quota:
    quota = Quota()
    quota.learn(headers, status=status, now=NOW)
    return quota


def test_knows_nothing_before_the_first_answer_and_lets_everything_go() -> None:
    quota = Quota()

    assert quota.state(NOW) is None
    assert quota.refuse_for(NOW, reserve=999) is None


def test_learns_what_an_answer_tells() -> None:
    state = learned(told(42)).state(NOW)

    assert state == QuotaState(1000, 42, NOW + 600)
    assert state.reset_at == "2027-01-15T08:10:00Z"


def test_forgets_at_the_reset() -> None:
    quota = learned(told(0))

    assert quota.refuse_for(NOW + 599.4) == 1
    assert quota.refuse_for(NOW + 600) is None
    assert quota.state(NOW + 600) is None


@pytest.mark.parametrize(
    ("remaining", "reserve", "refused"),
    [(1, 0, False), (0, 0, True), (50, 50, True), (51, 50, False), (999, 5000, True), (1000, 5000, False)],
)
def test_refuses_a_call_that_would_eat_into_the_reserve(remaining: int, reserve: int, refused: bool) -> None:  # noqa: FBT001
    quota = learned(told(remaining))

    assert quota.refuse_for(NOW, reserve) == (600 if refused else None)


def test_counts_calls_under_way_as_spent() -> None:
    quota = learned(told(2))

    quota.begin()
    quota.begin()
    refused = quota.refuse_for(NOW)
    quota.end()

    assert refused == 600
    assert quota.refuse_for(NOW) is None


def test_believes_the_lowest_count_of_one_window_and_the_first_of_the_next() -> None:
    quota = learned(told(10))

    quota.learn(told(12), status=200, now=NOW)
    overtaken = quota.state(NOW)
    quota.learn(told(999, NOW + 4200), status=200, now=NOW + 601)

    assert overtaken == QuotaState(1000, 10, NOW + 600)
    assert quota.state(NOW + 601) == QuotaState(1000, 999, NOW + 4200)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (told(500), 600),
        ({}, 60),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "9" * 5000}, WINDOW),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:00 GMT"}, 60),
        ({"retry-after": "-1"}, 60),
    ],
)
def test_believes_a_429_whatever_else_it_says(headers: dict[str, str], wait: int) -> None:
    quota = learned(headers, status=429)

    assert quota.refuse_for(NOW) == wait
    assert quota.refuse_for(NOW + wait) is None


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (told(0, NOW - 300), 1),
        (told(0, NOW + 10**9), WINDOW),
        (told(0, NOW + 240, Date=formatdate(NOW - 60, usegmt=True)), 300),
        (told(0, NOW - 240, Date=formatdate(NOW - 600, usegmt=True)), 360),
        (told(0, NOW + 240, Date="yesterday"), 240),
        (told(0, NOW + 240, Date="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"), 240),
        (told(0, "inf"), WINDOW),
        (told(0, "-inf"), 1),
        (told(0, "nan"), 1),
    ],
)
def test_never_locks_a_key_out_for_longer_than_a_window_whatever_the_clocks_say(
    headers: dict[str, str], wait: int
) -> None:
    assert learned(headers).refuse_for(NOW) == wait


@pytest.mark.parametrize(
    "headers",
    [{}, told("many"), told(5, "soon"), told(5, NOW, ""), told(5, limit="1e3"), {"x-ratelimit-remaining": "0"}],
)
def test_takes_no_notice_of_headers_that_cannot_be_read(headers: dict[str, str]) -> None:
    assert learned(headers).state(NOW) is None


def test_keeps_every_number_within_what_graphql_can_tell() -> None:
    assert learned(told(10**12, limit=10**12)).state(NOW) == QuotaState(MOST, MOST, NOW + 600)
    assert learned(told(-7, limit=-7)).state(NOW) == QuotaState(0, 0, NOW + 600)


@given(st.dictionaries(st.sampled_from([*told(0), "date", "retry-after"]), VALUES))
def test_no_header_can_break_it_or_hold_a_key_for_long(headers: dict[str, str]) -> None:
    quota = learned(headers, status=429)

    wait = quota.refuse_for(NOW)

    assert wait is not None
    assert 1 <= wait <= WINDOW
    assert quota.state(NOW + wait + 1) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_never_repeats_a_write(method: str) -> None:
    assert not may_retry(method, 1, connection_failed=True)


def test_repeats_a_read_once_and_only_where_its_connection_failed() -> None:
    assert may_retry("GET", 1, connection_failed=True)
    assert not may_retry("GET", ATTEMPTS, connection_failed=True)
    assert not may_retry("GET", 1, connection_failed=False)
