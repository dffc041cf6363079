"""Says whether a wheel and an sdist hold what they should and nothing else.

python .ci/contents.py DIRECTORY, where `python -m build` put the two.
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

BUILT = "gateway/graphiql/static/"
SOURCES = "gateway/graphiql/frontend/"
UNPUBLISHED = {".ci", ".github", ".gitignore", ".dockerignore", ".pre-commit-config.yaml"}


def main(directory: Path) -> None:
    tracked = set(subprocess.check_output(["git", "ls-files"], text=True).split())
    [wheel], [sdist] = directory.glob("*.whl"), directory.glob("*.tar.gz")
    judge_wheel(set(zipfile.ZipFile(wheel).namelist()), tracked)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {name for name in tracked if name.split("/")[0] not in UNPUBLISHED} | {"PKG-INFO"}
    # hatchling takes .gitignore along, so that a wheel built from the archive leaves out the same
    report(sdist.name, names - {".gitignore"}, expected)


def judge_wheel(names: set[str], tracked: set[str]) -> None:
    info = next(name for name in names if name.endswith(".dist-info/METADATA")).removesuffix("METADATA")
    package = {name for name in tracked if name.startswith("gateway/") and not name.startswith(SOURCES)}
    metadata = {info + name for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    built = {name for name in names if name.startswith(BUILT)}
    report(info, names - built, package | metadata)
    report(f"{BUILT} of {info}", built & wanted(), wanted())


def wanted() -> set[str]:
    workers = [f"{name}.worker.js" for name in ("editor", "graphql", "json")]
    return {BUILT + name for name in ("main.js", "main.css", "LICENSES.txt", *workers)}


def report(what: str, found: set[str], expected: set[str]) -> None:
    assert found == expected, f"{what}: missing {sorted(expected - found)}, too much {sorted(found - expected)}"
    print(f"{what}: {len(found)} files, as expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
