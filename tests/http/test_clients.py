"""The clients that frontends use, set up as their documentation says, against a gateway on a real socket."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server import serve

CLIENTS = {
    "urql POST": ["POST"],
    "urql GET": ["GET"],
    "graphql-request POST": ["POST"],
    "graphql-request GET": ["GET"],
    "apollo POST": ["POST"],
    "apollo GET": ["GET"],
    "apollo persisted": ["POST", "POST"],  # the hash alone, then once with its text
    "apollo persisted GET": ["GET"],  # which is known by then
}


@pytest.fixture(scope="session")
def results(node: tuple[str, Path]) -> dict[str, Any]:
    program, folder = node
    with serve() as port:
        command = [program, "clients.mjs", f"http://127.0.0.1:{port}/graphql"]
        finished = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    answers: dict[str, Any] = json.loads(finished.stdout)
    return answers


@pytest.mark.parametrize("client", CLIENTS)
def test_answers_client(results: dict[str, Any], client: str) -> None:
    assert results[client] == {
        "data": {"rateLimit": None},
        "requests": [[method, 200] for method in CLIENTS[client]],
    }
