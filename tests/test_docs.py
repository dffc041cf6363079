"""README and docs, held against the code: tables, links, and examples that are run as they stand."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import describe
from gateway.upstream.errors import ErrorCode
from tests.harness import open_gateway
from tests.process import Process, started

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
}
README = PAGES["README.md"]
ADDRESS = "http://127.0.0.1:8000"


def code(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_lists_every_setting_with_its_default() -> None:
    rows = [f"| `{setting.variable}` | {setting.default} | {setting.description} |" for setting in describe()]

    assert [row for row in PAGES["docs/settings.md"].splitlines() if row.startswith("| `GATEWAY_")] == rows


@pytest.mark.parametrize("page", PAGES)
def test_names_no_setting_that_does_not_exist(page: str) -> None:
    known = {setting.variable for setting in describe()}

    assert set(re.findall(r"GATEWAY_[A-Z_]+[A-Z]", PAGES[page])) <= known


@pytest.mark.parametrize("page", PAGES)
def test_links_to_what_is_there(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page])
    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_names_files_that_are_there(page: str) -> None:
    names = re.findall(r"`([\w./]+/[\w.]+\.(?:py|mjs|js|yml|toml))`", PAGES[page])
    places = [ROOT, ROOT / "gateway", (ROOT / page).parent]

    assert [name for name in names if not any((place / name).exists() for place in places)] == []


def test_explains_every_code_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", PAGES["docs/errors.md"], re.MULTILINE)
    explained = [code for row in rows for code in re.findall("[A-Z_]+", row)]

    assert sorted(explained) == sorted(ErrorCode)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


async def test_the_first_query_answers_what_the_readme_shows() -> None:
    query = json.loads(re.findall(r"-d '(\{.*?\})' \| python3", README)[0])["query"]
    shown: dict[str, Any] = json.loads(code("json")[0])
    calls = re.findall(r"^  REST  (GET \S+) 200$", README, re.MULTILINE)

    async with open_gateway() as gateway:
        answer = await gateway.ask(query)
        assert gateway.calls == calls
    answer["extensions"]["quota"]["resetAt"] = shown["extensions"]["quota"]["resetAt"]

    assert answer == shown


@pytest.fixture(scope="module")
def demo() -> Iterator[Process]:
    with started("demo") as process:
        yield process


def test_the_python_example_walks_all_agents(demo: Process) -> None:
    example = next(block for block in code("python") if "httpx" in block).replace(ADDRESS, demo.address)

    printed = subprocess.run([sys.executable, "-c", example], check=True, capture_output=True, text=True).stdout

    assert len(printed.splitlines()) == 12
    assert "Berlin Reception 5\n" in printed


def test_the_apollo_example_prints_the_number_of_agents(demo: Process, node: tuple[str, Path]) -> None:
    program, folder = node
    example = next(block for block in code("js") if "ApolloClient" in block).replace(ADDRESS, demo.address)

    command = [program, "--input-type=module", "--eval", example]
    printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

    assert printed == "12\n"
