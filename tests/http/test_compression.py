"""The HTTP clients that say they take zstd, or do: each can decode what it gets."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import needs_chromium, open_browser, open_visit
from tests.process import Process, started

QUERY = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
HEADERS = {"X-API-Key": "demo", "Content-Type": "application/json"}
FETCH = """async ([headers, query]) => {
    const response = await fetch("/graphql", { method: "POST", headers, body: JSON.stringify({ query }) })
    return [response.headers.get("content-encoding"), (await response.json()).data]
}"""


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo") as process:
        yield process


@pytest.fixture(scope="module")
def data(demo: Process) -> Any:
    headers = HEADERS | {"Accept-Encoding": "identity"}
    return httpx.post(f"{demo.address}/graphql", json={"query": QUERY}, headers=headers).json()["data"]


@pytest.mark.parametrize("client", ["Node.js fetch", "@whatwg-node/node-fetch"])
def test_is_decoded_by_node(demo: Process, data: Any, node: tuple[str, Path], client: str) -> None:
    program, folder = node
    command = [program, "encodings.mjs", f"{demo.address}/graphql", QUERY, client]
    finished = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)

    assert json.loads(finished.stdout) == ["gzip", data]


def test_is_decoded_by_curl(demo: Process, data: Any) -> None:
    sent = [argument for field in HEADERS.items() for argument in ("-H", ": ".join(field))]
    body = json.dumps({"query": QUERY})
    command = ["curl", "-s", "--compressed", "-D", "/dev/stderr", f"{demo.address}/graphql", *sent, "-d", body]
    finished = subprocess.run(command, check=True, capture_output=True, timeout=20)

    assert b"content-encoding: gzip" in finished.stderr
    assert json.loads(finished.stdout)["data"] == data


@pytest.mark.parametrize("accepted", [None, "gzip, deflate, br, zstd"])
def test_is_decoded_by_httpx(demo: Process, data: Any, accepted: str | None) -> None:
    headers = HEADERS | ({"Accept-Encoding": accepted} if accepted else {})
    response = httpx.post(f"{demo.address}/graphql", json={"query": QUERY}, headers=headers)

    assert (response.headers["content-encoding"], response.json()["data"]) == ("gzip", data)


@needs_chromium
def test_is_decoded_by_chromium(demo: Process, data: Any) -> None:
    with open_browser() as chromium, open_visit(chromium) as visit:
        visit.page.goto(f"{demo.address}/healthz")

        assert visit.page.evaluate(FETCH, [HEADERS, QUERY]) == ["gzip", data]
