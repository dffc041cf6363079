"""The README's tables, held against the code."""

import re
from pathlib import Path

from gateway.settings import describe
from gateway.upstream import errors

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_lists_every_setting_with_its_default() -> None:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.description} |" for setting in describe()]

    assert [row for row in README.splitlines() if row.startswith("| `GATEWAY_")] == rows


def test_names_no_setting_that_does_not_exist() -> None:
    known = {setting.variable for setting in describe()}

    assert set(re.findall(r"GATEWAY_[A-Z_]+[A-Z]", README)) <= known


def test_names_every_code() -> None:
    def codes(kind: type[errors.UpstreamError]) -> set[str]:
        own = {kind.code} if hasattr(kind, "code") else set()
        return own.union(*(codes(below) for below in kind.__subclasses__()))

    assert all(f"`{code}`" in README for code in codes(errors.UpstreamError))
