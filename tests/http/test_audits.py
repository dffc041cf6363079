"""The 61 audits of the npm package `graphql-http` against a gateway on a real socket, each a test of its own.

They are run as its authors run them, by Node's plain `fetch` with no header added: GETs pass the gate against CSRF
since Node says `Sec-Fetch-Mode: cors` without an `Origin`, which no page can make a browser do. `npm ci` in
`tests/node` installs them.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server import serve

IDS = """
    22EB 4655 47DE 80D8 82A3 BF61 78D5 2C94 5A70 9C48 9ABE 03D4 A5BF 423L LKJ0 LKJ1 LKJ2 LKJ3 34A2
    13EE 6C00 6C01 6C02 6C03 8161 B8B3 94B0 0220 94B1 0221 94B2 0222 4760 4761 4762 4763 2EA1 28B9
    D6D5 6A70 58B0 58B1 58B2 58B3 428F 1B7A B6DC BCF8 B7N8 8764 3E3A 572B FDE2 7B9B 865D 556A D586
    51FE 74FF 5E5B 86EE
"""
AUDITS = IDS.split()


@pytest.fixture(scope="session")
def results(node: tuple[str, Path]) -> dict[str, Any]:
    program, folder = node
    with serve() as port:
        command = [program, "audits.mjs", f"http://127.0.0.1:{port}/graphql"]
        finished = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    return {result["id"]: result for result in json.loads(finished.stdout)}


@pytest.mark.parametrize("audit", AUDITS)
def test_passes_audit(results: dict[str, Any], audit: str) -> None:
    result = results[audit]

    assert result["status"] == "ok", (result["name"], result["reason"])


def test_knows_every_audit_of_the_package(results: dict[str, Any]) -> None:
    assert list(results) == AUDITS
