"""Fixtures: a gateway on the demo's sample workspaces. And a rule: under CI nothing is skipped."""

import os
from collections.abc import AsyncIterator, Generator
from typing import TypeVar

import pytest

from tests.harness import Gateway, open_gateway

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened


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
