"""What is known of a key's quota, from headers alone, and which attempt may be made again."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.client import ATTEMPTS, may_retry
from gateway.upstream.quota import FIRST_PAUSE, LONGEST_PAUSE, MOST, WINDOW, Quota, QuotaState

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

    quota.in_flight += 1
    quota.in_flight += 1
    refused = quota.refuse_for(NOW)
    quota.in_flight -= 1

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
        (told(500), LONGEST_PAUSE),
        (told(500, NOW + 90), 90),
        ({}, 60),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "9" * 5000}, WINDOW),
        ({"retry-after": "-1"}, 60),
        ({"retry-after": "6.2"}, 7),
        ({"retry-after": "inf"}, WINDOW),
        ({"retry-after": "nan"}, 60),
        ({"retry-after": "5, 8"}, 8),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True)}, 1),
        ({"retry-after": formatdate(NOW + 90, usegmt=True), "date": formatdate(NOW + 60, usegmt=True)}, 30),
        (told(500, NOW + 3000), LONGEST_PAUSE),
        (told(500, NOW + 3000) | {"retry-after": "3000"}, LONGEST_PAUSE),
        (told(0, NOW + 3000), 3000),
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
        (told(0, "nan"), 60),
        (told(0, ""), 60),
        (told(0, (NOW + 240) * 1000), 240),
        (told(0, (NOW + 240) * 10**9), 240),
        (told(0, 240), 240),
        (told(0, "240.6"), 241),
        (told(0, 0), 1),
        (told(0, -5), 1),
        (told(0, 7200), WINDOW),
        (told(0, f"{NOW + 900}, {NOW + 240}"), 240),
        (told(0, formatdate(NOW + 240, usegmt=True)), 240),
        (told(0, formatdate(NOW + 240).replace("-0000", "")), 240),
        (told(0, "2027-01-15T08:04:00Z"), 240),
        (told(0, "2027-01-15T10:04:00.000+02:00"), 240),
        (told(0, "2027-01-15 08:04:00"), 240),
        (told(0, "2027-01-15T08:04:00Z", Date=formatdate(NOW - 60, usegmt=True)), 300),
        (told(0, "tomorrow"), 60),
    ],
)
def test_never_locks_a_key_out_for_longer_than_a_window_whatever_the_clocks_say(
    headers: dict[str, str], wait: int
) -> None:
    assert learned(headers).refuse_for(NOW) == wait


@pytest.mark.parametrize("remaining", ["many", "", "nan", "0x5", "5 calls", "1,000"])
def test_takes_no_notice_of_a_count_that_cannot_be_read(remaining: str) -> None:
    assert learned({}).state(NOW) is None
    assert learned(told(remaining)).state(NOW) is None


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        (told("5.0", limit="1e3"), QuotaState(1000, 5, NOW + 600)),
        (told("9, 5", limit="100, 200;w=3600"), QuotaState(200, 5, NOW + 600)),
        (told(5, "soon"), QuotaState(1000, 5, NOW + WINDOW)),
        (told(5, limit=""), QuotaState(1000, 5, NOW + 600)),
        (told(4999, limit="nan"), QuotaState(4999, 4999, NOW + 600)),
        ({"x-ratelimit-remaining": "0"}, QuotaState(1000, 0, NOW + 60)),
        (told("inf", limit="-inf"), QuotaState(0, MOST, NOW + 600)),
    ],
)
def test_reads_a_count_in_any_form_with_what_is_documented_for_the_rest(
    headers: dict[str, str], state: QuotaState
) -> None:
    assert learned(headers).state(NOW) == state


def test_what_a_response_leaves_out_is_as_it_was_told_before() -> None:
    quota = learned(told(9, NOW + 500, limit=200))

    quota.learn({"x-ratelimit-remaining": "8"}, status=200, now=NOW)

    assert quota.state(NOW) == QuotaState(200, 8, NOW + 500)


def answer(quota: Quota, now: float, headers: dict[str, str], status: int = 200) -> None:
    """Send a call and answer it, with no other under way."""
    assert quota.refuse_for(now) is None
    since = quota.learned
    quota.in_flight += 1
    quota.learn(headers, status=status, now=now, since=since)
    quota.in_flight -= 1


@pytest.mark.parametrize(("limit", "remaining"), [(5000, 4000), (1000, 900), (10, 9)])
def test_a_limit_or_a_count_that_was_raised_within_the_window_is_believed(limit: int, remaining: int) -> None:
    quota = learned(told(1))

    answer(quota, NOW, told(remaining, limit=limit))

    assert quota.state(NOW) == QuotaState(limit, remaining, NOW + 600)


def test_a_raised_limit_is_believed_from_any_response() -> None:
    quota = learned(told(0))

    quota.learn(told(4000, limit=5000), status=200, now=NOW)

    assert quota.refuse_for(NOW) is None


@pytest.mark.parametrize(("headers", "status"), [(told(0, NOW + 3600), 200), (told(0, NOW + 3600), 429), ({}, 429)])
def test_a_spent_quota_is_probed_by_one_call_after_a_pause_that_grows(headers: dict[str, str], status: int) -> None:
    quota, now, pauses = Quota(), NOW, []
    answer(quota, now, headers, status)
    for _ in range(3):
        paused = next(seconds for seconds in range(1, 400) if quota.refuse_for(now + seconds) is None)
        now += paused
        pauses.append(paused)
        answer(quota, now, told(0, NOW + 3600), 429)

    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]


def test_only_one_probe_is_under_way_and_none_just_before_the_reset() -> None:
    quota = learned(told(0))

    quota.in_flight += 1
    second = quota.refuse_for(NOW + 300)
    quota.in_flight -= 1

    assert second == 300
    assert quota.refuse_for(NOW + 300) is None
    assert quota.refuse_for(NOW + 600 - FIRST_PAUSE) == FIRST_PAUSE


@pytest.mark.parametrize("headers", [told(900), {}])
def test_a_probe_that_is_answered_opens_the_quota(headers: dict[str, str]) -> None:
    quota = learned(told(0))

    answer(quota, NOW + 300, headers, 404)

    assert quota.refuse_for(NOW + 300) is None
    assert quota.refuse_for(NOW + 300, reserve=50) is None


def test_a_probe_that_fails_leaves_the_quota_closed() -> None:
    quota = learned(told(0))

    answer(quota, NOW + 300, {}, 502)

    assert quota.state(NOW + 300) == QuotaState(1000, 0, NOW + 600)


def test_a_burst_that_ends_the_quota_makes_one_pause() -> None:
    quota = Quota()
    begun = [quota.learned] * 50
    quota.in_flight = 50
    for since in begun:
        quota.learn(told(0, NOW + 3600), status=429, now=NOW, since=since)
        quota.in_flight -= 1

    assert quota.refuse_for(NOW + FIRST_PAUSE - 1) == 3600 - FIRST_PAUSE + 1
    assert quota.refuse_for(NOW + FIRST_PAUSE) is None


def test_nothing_goes_out_before_the_time_of_a_retry_after() -> None:
    quota = learned({"retry-after": "600"}, status=429)

    assert [quota.refuse_for(NOW + seconds) for seconds in (10, 300, 599)] == [590, 300, 1]


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
