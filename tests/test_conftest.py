"""The rule that nothing is skipped under CI, in a pytest of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPS = {
    "test_inside.py": "import pytest\n\ndef test_it(): pytest.skip('too dark')\n",
    "test_before.py": "import pytest\n\n@pytest.mark.skipif(True, reason='too dark')\ndef test_it(): pass\n",
    "test_module.py": "import pytest\n\npytest.importorskip('no_such_module')\n",
    "test_other.py": "import pytest\n\n@pytest.mark.xfail\ndef test_it(): raise ValueError\n",
}


@pytest.mark.parametrize(
    ("ci", "outcomes"), [("", "3 skipped, 1 xfailed"), ("true", "1 failed, 1 xfailed, 2 errors")], ids=["plain", "ci"]
)
def test_a_skip_is_a_failure_under_ci_only(ci: str, outcomes: str, tmp_path: Path) -> None:
    for name, text in SKIPS.items():
        (tmp_path / name).write_text(text)
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    environ = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": ""}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path], cwd=ROOT, env=environ, capture_output=True, check=False
    )

    assert done.stdout.decode().splitlines()[-1].startswith(f"{outcomes} in ")
