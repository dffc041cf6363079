"""The README's tables, held against the code."""

import re
from pathlib import Path

from gateway.settings import describe
from gateway.upstream.errors import ErrorCode

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def test_lists_every_setting_with_its_default() -> None:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.description} |" for setting in describe()]

    assert [row for row in README.splitlines() if row.startswith("| `GATEWAY_")] == rows


def test_names_no_setting_that_does_not_exist() -> None:
    known = {setting.variable for setting in describe()}

    assert set(re.findall(r"GATEWAY_[A-Z_]+[A-Z]", README)) <= known


def test_lists_every_error_code_once() -> None:
    table = README.partition("| code | when |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    codes = [code for cell in cells for code in re.findall(r"`([A-Z_]+)`", cell)]

    assert sorted(codes) == sorted(ErrorCode)
