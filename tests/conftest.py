"""Fixtures: a gateway on the demo's sample workspaces. And a rule: under CI nothing is skipped."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.harness import Gateway, open_gateway

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_asyncio_loop_factories(item: pytest.Function) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module's `LOOPS`, on each of which its tests run; asyncio's own where it has none."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]]
    loops = getattr(item.module, "LOOPS", {"asyncio": asyncio.new_event_loop})
    return loops


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened


@pytest.fixture(scope="session")
def node() -> tuple[str, Path]:
    """Node.js, and the folder of its packages, installed where that was not done since the lock has changed."""
    folder, program, npm = Path(__file__).parent / "node", shutil.which("node"), shutil.which("npm")
    if not program or not npm:
        pytest.skip("Node.js and npm are not installed here")
    lock, kept = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    fresh = kept.is_file() and kept.stat().st_mtime >= lock.stat().st_mtime
    installed = fresh or not subprocess.run([npm, "ci"], cwd=folder, check=False).returncode
    if not installed:
        pytest.skip("npm ci in tests/node has failed")
    return program, folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judged((yield))


def _judged(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}; under CI that is a failure"
    return report
