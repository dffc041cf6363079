"""CPU of decoding one answer of the REST API into rows: pages of agents and numbers, of 1, 50 and 100 rows.

Not in the test run. An agent is of 1.3 KB; a number comes with no agent, a part of it, or the whole:

    pip install -e '.[test,bench]'
    pytest benchmarks/bench_decode.py --benchmark-columns=min,median
"""

import asyncio
from typing import Any, Literal

import httpx
import pytest

from benchmarks.mock import workspace
from gateway.demo.rest_api import create_demo
from gateway.upstream.resources import AGENTS, NUMBERS, PageRequest, Read

pytestmark = pytest.mark.benchmark(group="decode")

Embed = Literal["none", "partial", "whole"]


def answer(read: Read, embed: Embed) -> bytes:
    """Return the body that the demo answers a read with."""
    demo = create_demo({"demo": workspace(100, 100)}, embed_agent=embed)
    request = httpx.Request("GET", f"http://demo{read.target}", headers={"X-API-Key": "demo"})

    async def ask() -> bytes:
        return await (await httpx.ASGITransport(demo).handle_async_request(request)).aread()

    return asyncio.run(ask())


@pytest.mark.parametrize("rows", [1, 50, 100])
def test_agents(benchmark: Any, rows: int) -> None:
    read = AGENTS.page(PageRequest(1, rows))

    listing = benchmark(read.decode, answer(read, "none"))

    assert len(listing.rows) == rows


@pytest.mark.parametrize("embed", ["none", "partial", "whole"])
@pytest.mark.parametrize("rows", [1, 50, 100])
def test_numbers(benchmark: Any, rows: int, embed: Embed) -> None:
    read = NUMBERS.page(PageRequest(1, rows))

    listing = benchmark(read.decode, answer(read, embed))

    assert len(listing.rows) == rows
    assert bool(listing.agents) == (embed == "whole")
