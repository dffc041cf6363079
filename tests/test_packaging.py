"""What is published: pyproject.toml, the lock, the image's description and the changelog agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line.removesuffix(" \\")) for line in LOCK.splitlines() if "==" in line]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_pins_every_dependency_within_its_range(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(environment)
    }

    dependencies = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted = [entry for entry in dependencies if entry.marker is None or entry.marker.evaluate(environment)]

    assert [str(entry) for entry in wanted if pins.get(canonicalize_name(entry.name), "") not in entry.specifier] == []


def test_the_lock_has_hashes_and_names_no_host() -> None:
    entries = re.split(r"^(?=\S+==)", LOCK, flags=re.MULTILINE)[1:]

    assert len(entries) == len(PINS)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK


def test_the_changelog_knows_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert versions[:2] == ["Unreleased", PROJECT["version"]]


def test_the_image_takes_the_dependencies_before_the_sources_and_is_not_run_by_root() -> None:
    steps = re.findall(r"^(COPY|FROM|USER) (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert [kind for kind, _ in steps].count("FROM") == 2
    assert steps.index(("COPY", "requirements.lock ./")) < steps.index(("COPY", "gateway gateway"))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dict(steps)["USER"])
