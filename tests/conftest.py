"""Fixtures: a gateway on the demo's sample workspaces."""

from collections.abc import AsyncIterator

import pytest

from tests.harness import Gateway, open_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened
