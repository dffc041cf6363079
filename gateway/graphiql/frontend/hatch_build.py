# ruff: noqa: INP001 -- not a module of the gateway: hatchling loads it by its path
"""The build step of GraphiQL, run by hatchling for every wheel, also the editable one.

Runs `npm ci` and `build.mjs` in a temporary directory and puts the result where `gateway.graphiql` looks for it,
unless what is there was made from the same sources. Never fails the installation: without npm, or where npm
cannot reach its registry, it warns and goes on without a bundle. `OMNIA_SKIP_GRAPHIQL_BUILD=1` skips it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SKIP: Final = "OMNIA_SKIP_GRAPHIQL_BUILD"

_STAMP: Final = "SOURCES.sha256"
_TIMEOUT: Final = 600.0
"""Seconds for each npm command: a registry that hangs must not hang the installation."""


class GraphiQLBuildHook(BuildHookInterface[BuilderConfig]):
    """Builds the bundle before hatchling collects the files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build the bundle, or say why there is none."""
        problem = build_bundle(Path(self.root) / "gateway" / "graphiql", os.environ)
        if problem:
            self.app.display_warning(f"GraphiQL was not built: {problem}. The gateway works without it.")


def build_bundle(room: Path, environ: Mapping[str, str]) -> str | None:
    """Bring `room/static` up to date with the sources in `room`; return what prevented it, None where all is well."""
    if environ.get(SKIP, "") not in ("", "0"):
        return f"{SKIP} is set"
    static, stamp = room / "static", _stamp(room)
    if (static / "main.js").is_file() and _read(static / _STAMP) == stamp:
        return None
    npm = shutil.which("npm", path=environ.get("PATH"))
    if npm is None:
        return "npm was not found"
    with tempfile.TemporaryDirectory(prefix="omnia-graphiql-") as temporary:
        copy = Path(temporary)
        for source in _sources(room):
            target = copy / source.relative_to(room)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for command in ("ci", "run build"):
            problem = _npm([npm, *command.split()], copy / "frontend", environ)
            if problem:
                return problem
        (copy / "static" / _STAMP).write_text(stamp)
        shutil.rmtree(static, ignore_errors=True)
        shutil.copytree(copy / "static", static)
    return None


def _npm(command: list[str], directory: Path, environ: Mapping[str, str]) -> str | None:
    told = f"`npm {' '.join(command[1:])}`"
    try:
        done = subprocess.run(  # noqa: S603 -- our own command, found on PATH
            command, cwd=directory, env=environ, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{told} did not run: {error}"
    return f"{told} failed:\n{(done.stderr or done.stdout)[-2000:]}\n" if done.returncode else None


def _sources(room: Path) -> Iterator[Path]:
    yield from (room / "boot.js", room / "page.css")
    for path in sorted((room / "frontend").rglob("*")):
        if (
            path.is_file()
            and path.suffix != ".py"
            and not {"node_modules", "__pycache__"} & set(path.relative_to(room).parts)
        ):
            yield path


def _stamp(room: Path) -> str:
    """Digest the sources: by content, for a checkout or an archive gives every file the same age."""
    digest = hashlib.sha256()
    for path in _sources(room):
        digest.update(f"{path.relative_to(room).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
