"""Measures what a flood of bad callers costs the good ones: latency of a good caller alone and beside each attack.

    python -m benchmarks.attack

Starts `gateway demo` in a process of its own, and attacks it from here, so that on few cores the attacker's own work
counts against the gateway too. Not part of the test run; prints one line for each attack.
"""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import click

CONNECTIONS = 800
SAMPLES = 300
QUERY = json.dumps({"query": "{ agents(first: 5) { nodes { name numbers { phoneNumber } } } }"}).encode()
HEAD = b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-API-Key: demo\r\n"

Attack = Callable[[int], contextlib.AbstractAsyncContextManager[int]]


async def good_caller(port: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of a good caller's latency, in milliseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(SAMPLES):
        started = time.perf_counter()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(QUERY) + QUERY)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200"), head
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        times.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0.003)
    writer.close()
    times.sort()
    return times[len(times) // 2], times[len(times) * 99 // 100]


@contextlib.asynccontextmanager
async def half_open(port: int, start: bytes, drip: bytes) -> AsyncIterator[int]:
    """Hold connections open that each began a request, and drip a byte on one after the other."""
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    for _, writer in pairs:
        writer.write(start)

    async def dripping() -> None:
        while True:
            for _, writer in pairs:
                writer.write(drip)
                await asyncio.sleep(0.005)

    task = asyncio.create_task(dripping())
    await asyncio.sleep(0.5)
    try:
        yield len(pairs)
    finally:
        task.cancel()
        for _, writer in pairs:
            writer.close()


async def refusals(port: int, body: bytes) -> None:
    """Send a request that is refused, 20 a second: the largest refusals cost 8 ms each."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def refused(port: int, body: bytes) -> AsyncIterator[int]:
    """Send requests that are refused beside the good ones."""
    task = asyncio.create_task(refusals(port, body))
    try:
        yield 1
    finally:
        task.cancel()


def memory(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def document(text: str) -> bytes:
    """Return the body that asks for a document."""
    return json.dumps({"query": text}).encode()


DOUBLING = "{ ...A0 } " + " ".join(f"fragment A{n} on Query {{ ...A{n + 1} ...A{n + 1} }}" for n in range(25))
ATTACKS: dict[str, Attack] = {
    "nothing said": lambda port: half_open(port, b"", b""),
    "slow headers": lambda port: half_open(port, b"POST /graphql HTTP/1.1\r\nX-A: ", b"a"),
    "slow bodies": lambda port: half_open(port, HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "25 doubled fragments": lambda port: refused(port, document(DOUBLING + " fragment A25 on Query { __typename }")),
    "1,000 aliases": lambda port: refused(
        port, document("{" + " ".join(f"a{n}: __typename" for n in range(1000)) + "}")
    ),
    "10,000 directives": lambda port: refused(port, document("{ __typename " + "@skip(if: false) " * 10_000 + "}")),
    "1 MiB of nothing": lambda port: refused(port, b" " * (1024 * 1024)),
    "deep JSON": lambda port: refused(port, b'{"a":' * 200_000),
}


async def measure(port: int, pid: int) -> None:
    """Print a line for each attack."""
    await good_caller(port)
    median, alone = await good_caller(port)
    click.echo(
        f"{'good caller alone':24} median {median:5.1f} ms  p99 {alone:5.1f} ms               {memory(pid):5.0f} MiB"
    )
    for name, attack in ATTACKS.items():
        async with attack(port):
            median, p99 = await good_caller(port)
            size = memory(pid)
        click.echo(f"{name:24} median {median:5.1f} ms  p99 {p99:5.1f} ms ({p99 / alone:4.1f} x)  {size:8.0f} MiB")
    started = time.perf_counter()
    readers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(reader.read() for reader, _ in readers))
    click.echo(f"{CONNECTIONS} silent connections were closed after {time.perf_counter() - started:.1f} s")


def main() -> None:
    """Attack a demo of its own."""
    command = [sys.executable, "-m", "gateway", "demo", "--port", "0", "--log-level", "error", "--graphiql", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            found = next(
                match for line in process.stdout if (match := re.search(rb"http://127.0.0.1:(\d+)/graphql", line))
            )
            drain = subprocess.Popen(["/bin/cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
            asyncio.run(measure(int(found[1]), process.pid))
        finally:
            process.terminate()
            process.wait()
        drain.wait()


if __name__ == "__main__":
    main()
