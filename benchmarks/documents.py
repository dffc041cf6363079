"""Measures the CPU time and the answer of each kind of hostile document, sent without a key.

    python -m benchmarks.documents [KIND...]

Prints one line for each kind, the costliest first: milliseconds of this process for parsing, limits, validation,
execution and the answer (the best of three), and the bytes of the answer. The goal is 50 ms.
"""

import asyncio
import gc
import json
import sys
import time

import click
import httpx
import structlog

from gateway.app import create_app
from gateway.settings import load
from tests.hostile import all_kinds


async def measure(kinds: list[str]) -> None:
    """Print a line for each kind whose name has one of these words in it."""
    app = create_app(load({}, {"upstream_url": "http://127.0.0.1:9/api/v1"}))
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    found: list[tuple[float, str]] = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as http:
        await http.post("/graphql", json={"query": "{ __typename }"})
        gc.freeze()  # as `gateway serve` does
        gc.set_threshold(10_000, 50, 1_000)
        for kind, (text, variables) in all_kinds().items():
            if kinds and not any(word in kind for word in kinds):
                continue
            spent = []
            for attempt in range(3):  # a text of its own, so that nothing is remembered
                body = json.dumps({"query": f"{text}#{attempt}", "variables": variables})
                started = time.process_time()
                response = await http.post(
                    "/graphql",
                    content=body,
                    headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                )
                spent.append(time.process_time() - started)
            errors = response.json().get("errors", [])
            told = errors[0]["message"][:70] if errors else "answered"
            line = f"{len(response.content):8} bytes  {len(errors):3} errors  {kind:36} {told!r}"
            found.append((min(spent) * 1000, line))
    for milliseconds, line in sorted(found, reverse=True):
        click.echo(f"{milliseconds:7.1f} ms  {line}")


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1:]))
