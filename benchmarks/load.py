"""Load: `wrk` asks a gateway as fast as it answers, and what that cost the gateway is read from its process.

`compare` and `scale` call `measure`. `wrk` stops with a request in flight on each connection, which most gateways
work on to the end: `measure` waits until the gateway is idle before it reads a counter, and counts those requests too.
A gateway that gives them up looks a little cheaper than it is: by as much as its REST calls are fewer than alone.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.gateways import Gateway
from benchmarks.mock import Mock
from benchmarks.processes import CORES, pinned

SCRIPT = Path(__file__).parent / "load.lua"
CONNECTIONS = 32
KEYS = 64
"""API keys in turn: more than connections, so that no two requests in flight could share their REST calls."""
IDLE = 0.03
"""CPU seconds in `PAUSE`, below which a gateway is idle."""
PAUSE = 0.4


@dataclass(frozen=True)
class Answered:
    """What `wrk` saw; `bytes` are those of whole answers, heads included."""

    requests: int
    seconds: float
    bytes: int
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True)
class Figures:
    """What a load cost, as medians of the runs.

    `cores` is how many it kept busy: fewer than it was given means that something else was at work on them.
    `spread` is the dearest run's CPU above the cheapest's in percent, `short` whether answers were smaller under load
    than alone, as they are where errors take the data's place.
    """

    cpu_ms: float
    spread: float
    rest_calls: float
    per_second: float
    p50_ms: float
    p99_ms: float
    cores: float
    peak_mib: float
    errors: int
    short: bool


@contextlib.contextmanager
def running(gateway: Gateway, documents: Sequence[str], seconds: int) -> Iterator["subprocess.Popen[str]"]:
    """Run `wrk` for so many seconds; leaving the context early ends it."""
    wrk = shutil.which("wrk")
    if not wrk:
        raise click.ClickException("The load comes from wrk, which is not installed: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as bodies:
        bodies.writelines(json.dumps({"query": document}) + "\n" for document in documents)
        bodies.flush()
        options = ["--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s", "--timeout=60s"]
        command = pinned(CORES[1] if gateway.pinned else None, [wrk, *options, f"--script={SCRIPT}", gateway.url])
        env = {**os.environ, "BENCH_BODIES": bodies.name, "BENCH_KEYS": str(KEYS)}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                process.terminate()


def answered(process: "subprocess.Popen[str]", seconds: int) -> Answered:
    """Wait for `wrk`'s end, and return what it saw."""
    printed, _ = process.communicate(timeout=seconds + 90)
    lines = [line for line in printed.splitlines() if line.startswith('{"requests"')]
    if not lines:
        raise click.ClickException(f"wrk has failed:\n{printed}")
    return Answered(**json.loads(lines[-1]))


def load(gateway: Gateway, documents: Sequence[str], seconds: int) -> Answered:
    """Ask the documents in turn for so many seconds."""
    with running(gateway, documents, seconds) as process:
        return answered(process, seconds)


def drain(gateway: Gateway, rest: Mock) -> None:
    """Wait until a gateway is idle, 16 seconds at the most."""
    for _ in range(40):
        cpu, calls = gateway.process.cpu_seconds(), rest.calls()
        time.sleep(PAUSE)
        if rest.calls() == calls and gateway.process.cpu_seconds() - cpu < IDLE:
            return


@dataclass(frozen=True)
class _Run:
    seen: Answered
    cpu_ms: float
    rest_calls: float
    cores: float


def _run(gateway: Gateway, rest: Mock, document: str, seconds: int) -> _Run:
    cpu, calls = gateway.process.cpu_seconds(), rest.calls()
    seen = load(gateway, [document], seconds)
    drain(gateway, rest)
    begun = seen.requests + CONNECTIONS
    cpu = gateway.process.cpu_seconds() - cpu
    return _Run(seen, cpu * 1000 / begun, (rest.calls() - calls) / begun, cpu / begun * seen.requests / seen.seconds)


def measure(gateway: Gateway, rest: Mock, document: str, *, seconds: int, runs: int = 1) -> Figures:
    """Load a gateway with one document, after a warm-up of at most three seconds."""
    size = len(json.dumps(gateway.ask(document), ensure_ascii=False, separators=(",", ":")).encode())
    load(gateway, [document], min(3, seconds))
    drain(gateway, rest)
    gateway.process.reset_peak()
    all_runs = [_run(gateway, rest, document, seconds) for _ in range(runs)]
    cpu, seen = [run.cpu_ms for run in all_runs], [run.seen for run in all_runs]
    return Figures(
        cpu_ms=statistics.median(cpu),
        spread=100 * (max(cpu) / min(cpu) - 1),
        rest_calls=statistics.median(run.rest_calls for run in all_runs),
        per_second=statistics.median(each.requests / each.seconds for each in seen),
        p50_ms=statistics.median(each.p50_ms for each in seen),
        p99_ms=statistics.median(each.p99_ms for each in seen),
        cores=statistics.median(run.cores for run in all_runs),
        peak_mib=gateway.process.rss("VmHWM"),
        errors=sum(each.errors for each in seen),
        short=any(each.bytes < 0.95 * size * each.requests for each in seen),
    )
