"""A real `gateway demo` process, called over a real socket as a stranger would."""

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.process import Process, started
from tests.test_cli import begun

NESTED = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
SLOW = "{ agents(first: 1) { totalCount } }"


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo") as process:
        yield process
        assert process.stop() == 0


def test_agents_with_numbers_cost_two_rest_calls(demo: Process) -> None:
    answer = demo.ask(NESTED)

    assert sorted(demo.rest_calls(2)) == ["GET /agents?page=1&limit=50 200", "GET /numbers?page=1&limit=100 200"]
    assert answer["extensions"]["quota"]["spent"] == 2
    assert sum(len(agent["numbers"]) for agent in answer["data"]["agents"]["nodes"]) == 54


def test_adds_changes_and_removes_a_number(demo: Process) -> None:
    agent = demo.ask("{ agents(first: 1) { nodes { id name } } }")["data"]["agents"]["nodes"][0]
    demo.rest_calls(1)
    number = "{ phoneNumber { id friendlyName agent { id } } }"

    added = demo.ask(
        f"mutation($input: AssignPhoneNumberInput!) {{ assignPhoneNumber(input: $input) {number} }}",
        input={"phoneNumber": "+493012345", "agentId": agent["id"]},
    )["data"]["assignPhoneNumber"]["phoneNumber"]
    changed = demo.ask(
        f'mutation($id: ID!) {{ updatePhoneNumber(id: $id, input: {{friendlyName: "Hall", agentId: null}}) {number} }}',
        id=added["id"],
    )["data"]["updatePhoneNumber"]["phoneNumber"]
    gone = demo.ask("mutation($id: ID!) { deletePhoneNumber(id: $id) { deletedPhoneNumberId } }", id=added["id"])

    id_ = added["id"]
    assert added == {"id": id_, "friendlyName": None, "agent": {"id": agent["id"]}}
    assert changed == {"id": id_, "friendlyName": "Hall", "agent": None}
    assert gone["data"] == {"deletePhoneNumber": {"deletedPhoneNumberId": id_}}
    assert demo.rest_calls(3) == ["POST /numbers 201", f"PUT /numbers/{id_} 200", f"DELETE /numbers/{id_} 200"]


def test_serves_graphiql_to_browsers_and_health_to_probes(demo: Process) -> None:
    page = httpx.get(f"{demo.address}/graphql", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    health = httpx.get(f"{demo.address}/healthz")

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "GraphiQL" in page.text
    assert "content-security-policy" in page.headers
    assert (health.status_code, health.text) == (200, "ok")
    assert "server" not in {*page.headers, *health.headers}


def test_only_introspection_works_without_a_key(demo: Process) -> None:
    schema = demo.ask("{ __schema { queryType { name } } }", key=None)
    answer = demo.ask(NESTED, key=None)

    assert schema == {"data": {"__schema": {"queryType": {"name": "Query"}}}}
    assert answer["data"] == {"agents": None}
    assert [error["extensions"] for error in answer["errors"]] == [{"code": "UNAUTHENTICATED"}]
    assert demo.rest_calls(0) == []


def test_demo_serves_its_rest_api(demo: Process) -> None:
    answer = httpx.get(f"{demo.address}/demo/api/v1/agents?limit=1", headers={"X-API-Key": "demo"})

    assert (answer.status_code, answer.json()["pagination"]["total"]) == (200, 12)
    assert demo.rest_calls(1) == ["GET /agents?limit=1 200"]


def test_reports_an_upstream_that_is_down() -> None:
    with started("serve", "--upstream-url", "http://127.0.0.1:9/api/v1") as gateway:
        answer = gateway.ask(NESTED)

        assert [(error["path"], error["extensions"]["code"]) for error in answer["errors"]] == [
            (["agents"], "UPSTREAM_UNAVAILABLE")
        ]
        assert "127.0.0.1" not in json.dumps(answer)
        assert gateway.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_finishes_an_operation_after_the_stop_signal(number: signal.Signals) -> None:
    with started("demo", "--latency-ms", "300") as slow, begun(slow.address, NESTED) as operation:
        assert slow.stop(number) == 0
        assert "errors" not in json.load(operation.getresponse())
        assert sorted(slow.rest_calls(2)) == ["GET /agents?page=1&limit=50 200", "GET /numbers?page=1&limit=100 200"]


def test_a_second_interrupt_stops_at_once() -> None:
    with started("demo", "--latency-ms", "60000") as slow, begun(slow.address, SLOW):
        slow.popen.send_signal(signal.SIGINT)
        time.sleep(0.1)

        assert slow.stop(signal.SIGINT) == 0


def test_worker_processes_finish_their_operations_and_stop(demo: Process) -> None:
    rest = f"{demo.address}/demo/api/v1"
    with started("serve", "--workers", "2", "--upstream-url", rest) as gateway, ThreadPoolExecutor() as pool:
        answers = [pool.submit(gateway.ask, SLOW) for _ in range(8)]

        assert [answer.result()["data"] for answer in answers] == [{"agents": {"totalCount": 12}}] * 8
        assert gateway.stop() == 0
        with pytest.raises(httpx.ConnectError):
            gateway.ask(SLOW)
