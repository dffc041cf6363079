"""A real `gateway` process, or another server's with the gateway in it, called over a real socket."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx


class Process:
    """A running server, with what it has printed."""

    def __init__(self, popen: "subprocess.Popen[str]", address: str, lines: "queue.SimpleQueue[str]") -> None:
        self.popen = popen
        self.address = address
        self._lines = lines

    def rest_calls(self, count: int) -> list[str]:
        """The REST calls listed since the last time; waits for so many."""
        calls: list[str] = []
        with contextlib.suppress(queue.Empty):
            while True:
                line = self._lines.get(timeout=5 if len(calls) < count else 0.05)
                if line.startswith("  REST  "):
                    calls.append(line.removeprefix("  REST  "))
        return calls

    def logged(self, event: str) -> dict[str, Any]:
        """The next line of the log with this event; waits for it."""
        while True:
            line = self._lines.get(timeout=10)
            if line.startswith("{") and (fields := json.loads(line))["event"] == event:
                found: dict[str, Any] = fields
                return found

    def ask(self, query: str, key: str | None = "demo", **variables: Any) -> dict[str, Any]:
        headers = {"X-API-Key": key} if key else {}
        body = {"query": query, "variables": variables}
        answer: dict[str, Any] = httpx.post(f"{self.address}/graphql", json=body, headers=headers, timeout=20).json()
        return answer

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(20)

    def output(self) -> str:
        """Everything printed since the last time, once the process has ended."""
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._lines.get(timeout=0.2))
        return "\n".join(lines)


def _pump(popen: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str]") -> None:
    for line in popen.stdout or ():
        lines.put(line.rstrip("\n"))


@contextlib.contextmanager
def running(*command: str, environ: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Start a server as `python` with these arguments; its address is read from what it prints."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environ or {})},
        start_new_session=True,
    ) as popen:
        reader = threading.Thread(target=_pump, args=(popen, lines))
        reader.start()
        try:
            found = None
            while not found:
                found = re.search(r"http://[^/ ]+", lines.get(timeout=20))
            yield Process(popen, found[0], lines)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)  # its workers too, which would outlive it
            reader.join()


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[Process]:
    """Start `gateway` on a free port."""
    with running("-m", "gateway", *arguments, "--port", "0") as process:
        yield process
