"""The command of docs/screenshots.py."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "screenshots.py"


@pytest.mark.parametrize(("arguments", "root"), [([], "multirun/widths"), (["missing"], "missing")])
def test_a_root_that_is_missing_is_named(tmp_path: Path, arguments: list[str], root: str):
    command = [sys.executable, str(SCRIPT), *arguments]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith(f"Error: ROOT={root} does not exist")
