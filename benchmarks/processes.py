"""Processes of the benchmarks: started in a group of their own, pinned to a core, measured, ended by their id.

`mock`, `gateways` and `load` start theirs here. CPU and memory come from Linux's /proc, of a process and all below
it. What is measured has the first core for itself, the REST API and the load share the second: `CORES` says which
those are, or nothing where there is one core or no `taskset`, and `unpinned()` says so.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import click
import httpx

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")

_ALLOWED = sorted(os.sched_getaffinity(0))
CORES = (_ALLOWED[0], _ALLOWED[1]) if len(_ALLOWED) > 1 and shutil.which("taskset") else (None, None)
"""The core of what is measured, and that of the REST API and the load."""


def unpinned() -> str:
    """Say why nothing is pinned, or nothing where it is."""
    if CORES[0] is not None:
        return ""
    return "one core for everything" if len(_ALLOWED) < 2 else "no taskset: processes wander between the cores"


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """Return the command that runs a command on one core."""
    return list(command) if core is None else ["taskset", "-c", str(core), *command]


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def end_on_sigterm() -> None:
    """Let SIGTERM end a benchmark as Ctrl+C does, so that nothing it started outlives it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Started:
    """A running process; it has the caller's environment and `env`, and what it prints is kept in case it fails."""

    def __init__(
        self, command: Sequence[str], *, core: int | None, cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            pinned(core, command),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def printed(self) -> str:
        """Return the last of what it has printed."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def first(self, probe: Callable[[], T], *, seconds: float = 40, every: float = 0.1) -> T:
        """Return what `probe` returns as soon as it reaches the process.

        Raises:
            click.ClickException: the process has ended, or was not reached within so many seconds.
        """
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            try:
                return probe()
            except httpx.TransportError:
                time.sleep(every)
        raise click.ClickException(f"{self._process.args!r} did not start:\n{self.printed()}")

    def cpu_seconds(self) -> float:
        """Return user and system time so far, with that of children that have ended."""
        return sum(self.cpu_by_process())

    def cpu_by_process(self) -> list[float]:
        """Return the same for each process of the family."""
        return [sum(map(int, _stat(pid)[11:15])) / TICKS for pid in self._family()]

    def rss(self, line: str = "VmRSS") -> float:
        """Return resident memory in MiB; as `VmHWM`, its peak since `reset_peak`."""
        return sum(_kib(pid, line) for pid in self._family()) / 1024

    def reset_peak(self) -> None:
        """Let the peak of resident memory begin anew."""
        for pid in self._family():
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")

    def _family(self) -> Iterator[int]:
        """Yield the process and all below it."""
        waiting = [self._process.pid]
        while waiting:
            pid = waiting.pop()
            yield pid
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text("ascii").split())


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; the second, a name in parentheses, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()


def _kib(pid: int, line: str) -> int:
    """Return one line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(found.split()[1]) for found in lines if found.startswith(f"{line}:"))
