"""No document is expensive: the work and the answer of each hostile kind are bounded."""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

import pytest

from tests.harness import Gateway
from tests.hostile import all_kinds

CALLS = 400_000
"""Calls of functions, Python's and C's, that one request may take: some 50 ms."""
INTROSPECTED = 128 * 1024
"""Bytes of an answer that introspects; any other is an error of at most 4 KiB for each error."""


class Calls:
    """Counts calls of functions: unlike time, the same on any machine under any load."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, _: FrameType, event: str, __: object) -> None:
        self.count += event in {"call", "c_call"}


async def ask(gateway: Gateway, text: str, variables: Mapping[str, Any]) -> tuple[bytes, list[dict[str, Any]]]:
    response = await gateway.http.post("/graphql", json={"query": text, "variables": variables})
    return response.content, response.json().get("errors", [])


@pytest.mark.parametrize("kind", all_kinds())
async def test_a_hostile_document_makes_little_work_and_a_short_answer(gateway: Gateway, kind: str) -> None:
    text, variables = all_kinds()[kind]

    with Calls() as calls:
        content, errors = await ask(gateway, text, variables)

    assert calls.count < CALLS
    of_fields = [error for error in errors if "path" in error]
    assert len(errors) - len(of_fields) <= 5
    assert all(len(error["message"]) <= 200 for error in errors)
    assert all(len(error.get("locations", [])) <= 5 for error in errors)
    assert len(content) < (4096 if errors else INTROSPECTED)
