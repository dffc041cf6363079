"""The bound of what is remembered: bytes of memory, of all tenants together, the least recently used first to go."""

import json
import tracemalloc

from gateway.demo.rest_api import sample_workspace
from gateway.upstream.cache import Cache, CacheSize
from gateway.upstream.resources import NUMBERS, PageRequest, Read


def page(at: int) -> tuple[Read, bytes]:
    """A page of numbers as the upstream sends it."""
    rows = list(sample_workspace(numbers=100, prefix=str(at)).numbers.values())
    body = {"data": rows, "pagination": {"page": at, "limit": 100, "total": 10_000}}
    return NUMBERS.page(PageRequest(at, 100)), json.dumps(body).encode()


def hold(memory: Cache, read: Read, body: bytes) -> None:
    memory.add(read, read.decode(body), 0.0, len(body))


def test_the_least_recently_used_answers_go_first_and_all_tenants_together_keep_the_bound() -> None:
    budget = CacheSize(300_000)
    one, two = Cache(budget), Cache(budget)
    first, *others = [page(at) for at in range(1, 30)]
    hold(one, *first)
    for read, body in others:
        hold(two, read, body)
        assert one.get(first[0], 0.0)
        assert budget.used <= 300_000

    assert two.get(others[-1][0], 0.0)
    assert two.get(others[0][0], 0.0) is None
    assert two.get(NUMBERS.object(others[0][0].decode(others[0][1]).rows[0].id), 0.0) is None


def test_what_is_counted_is_what_it_takes_in_memory() -> None:
    bodies = [page(at) for at in range(1, 21)]
    tiny = [(NUMBERS.owned_by(f"agent-{i}"), b'{"data":[]}') for i in range(500)]
    for answers in (bodies, tiny):
        budget = CacheSize(2**30)
        memory = Cache(budget)
        tracemalloc.start()
        for read, body in answers:
            hold(memory, read, body)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert 0.4 * budget.used < taken < 1.1 * budget.used


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    memory = Cache(CacheSize(2000))

    for i in range(50):
        hold(memory, NUMBERS.owned_by(f"agent-{i}"), b'{"data":[]}')
        hold(memory, *page(i + 1))

    assert not any((memory._objects, memory._owned, memory._pages))


def test_what_was_read_again_replaces_what_was_read_before_and_no_more() -> None:
    memory = Cache(CacheSize(2**20))
    listed, body = page(1)
    number = json.loads(body)["data"][0]
    owned = json.dumps({"data": [number]}).encode()
    single = NUMBERS.object(number["id"])
    of_agent = NUMBERS.owned_by(number["agentId"])
    for read, answer in ((listed, body), (of_agent, owned), (of_agent, owned)):
        hold(memory, read, answer)

    hold(memory, single, json.dumps(number | {"friendlyName": "newer"}).encode())
    hold(memory, *page(1))
    hold(memory, NUMBERS.page(PageRequest(1, 100)), body)
    memory._size.drop(next(iter(memory._size._entries.values())))

    held = memory.get(single, 0.0)
    assert held
    assert held.listing.rows[0].id == number["id"]
    assert memory.get(listed, 0.0)
