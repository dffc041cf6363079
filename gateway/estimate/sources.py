"""Finds the files of a check: by path, glob or folder, or on the standard input."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

SUFFIXES = (".graphql", ".gql")
STDIN = "-"


class NoFilesError(Exception):
    """A path, glob or folder that leads to no file; the message says which."""


def read_sources(patterns: Sequence[str], stdin: TextIO) -> dict[str, str]:
    """Return the texts of files by name, each once.

    Args:
        patterns: paths, globs (`**` for any depth), folders (searched for *.graphql and *.gql), or `-`.
        stdin: what `-` stands for.

    Raises:
        NoFilesError: a pattern leads to no file, or a file cannot be read.
    """
    texts: dict[str, str] = {}
    for pattern in patterns:
        if pattern == STDIN:
            texts["<stdin>"] = stdin.read()
            continue
        found = sorted(_files(pattern))
        if not found:
            raise NoFilesError(f"{pattern}: there is no such file, and no {' or '.join(SUFFIXES)} file below it.")
        for path in found:
            try:
                texts[str(path)] = path.read_text("utf-8", errors="replace")
            except OSError as error:
                raise NoFilesError(f"{path}: {error.strerror}.") from error
    return texts


def _files(pattern: str) -> Iterator[Path]:
    names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)  # noqa: PTH207 - a path of any kind
    for path in map(Path, names):
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        else:
            yield path
