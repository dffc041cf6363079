"""The clients that frontends use, set up as documented, on real servers and an upstream that takes time."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process import Process, running, started
from tests.test_cli import free_port, wait_for

CLIENTS = {
    "fetch POST": ["POST"],
    "fetch GET": ["GET"],
    "fetch HEAD": ["HEAD"],
    "urql POST": ["POST"],
    "urql GET": ["GET"],
    "graphql-request POST": ["POST"],
    "graphql-request GET": ["GET"],
    "apollo POST": ["POST"],
    "apollo GET": ["GET"],
    "apollo persisted": ["POST", "POST"],  # the hash alone, then once with its text
    "apollo persisted GET": ["GET"],  # which is known by then
}
QUERY = "{ agents(first: 3) { nodes { name numbers { phoneNumber agent { id } } } } }"
CALLS = ["GET /agents?page=1&limit=3 200", "GET /numbers?page=1&limit=100 200"]
SERVERS = {
    "gateway serve": [],
    "hypercorn": ["-m", "hypercorn", "gateway.cli:from_environment()", "--bind", "127.0.0.1:{port}"],
    "granian": ["-m", "granian", "gateway.cli:from_environment", "--factory", "--interface=asgi", "--port={port}"],
}


@contextmanager
def served(server: str, upstream: str) -> Iterator[Process]:
    """The gateway on one of the servers."""
    if not SERVERS[server]:
        with started("serve", "--upstream-url", upstream) as process:
            yield process
        return
    command = [argument.format(port=free_port()) for argument in SERVERS[server]]
    with running(*command, environ={"GATEWAY_UPSTREAM_URL": upstream}) as process:
        wait_for(process.address)
        yield process
        process.stop()


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo", "--latency-ms", "20") as process:
        yield process


@pytest.fixture(scope="module", params=SERVERS)
def results(demo: Process, node: tuple[str, Path], request: pytest.FixtureRequest) -> dict[str, Any]:
    """What each client got, what it should, and the REST calls of all of them."""
    program, folder = node
    with served(request.param, f"{demo.address}/demo/api/v1") as gateway:
        expected = gateway.ask(QUERY)["data"]
        demo.rest_calls(2)
        command = [program, "clients.mjs", f"{gateway.address}/graphql"]
        finished = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    answers: dict[str, Any] = json.loads(finished.stdout)
    return answers | {"expected": expected, "calls": demo.rest_calls(2 * len(CLIENTS))}


@pytest.mark.parametrize("client", CLIENTS)
def test_answers_client(results: dict[str, Any], client: str) -> None:
    assert results[client] == {
        "data": True if client == "fetch HEAD" else results["expected"],
        "requests": [[method, 200] for method in CLIENTS[client]],
    }


def test_sends_each_rest_call_of_a_client_once(results: dict[str, Any]) -> None:
    assert sorted(results["calls"]) == sorted(CALLS * len(CLIENTS))
