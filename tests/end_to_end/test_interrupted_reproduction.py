"""`python -m vae_exp.reproduce` stopped by a signal: the run is saved, the same command continues."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.metrics_file import read_rows

ROWS = """
long:
  what: digits, many epochs
  source: none
  train: [data=digits, trainer.epochs=100000]
  evaluate: []
  metric: train/loss
"""
COMMAND = """
from pathlib import Path
from vae_exp.reproduce import __main__ as command
from vae_exp.reproduce.targets import read_targets
command.read_targets = lambda path: read_targets(Path("rows.yaml"))
command.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_alone_saves_the_run_and_the_same_command_continues(tmp_path: Path, number: int):
    (tmp_path / "rows.yaml").write_text(ROWS)
    run = RunDirectory(tmp_path / "reproductions" / "long")
    reached = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "long"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not run.metrics.exists() or len(read_rows(run.metrics)) < reached + 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "run the same command to continue" in errors
        assert not run.is_locked()
        assert (run.read_result() or {})["status"] == "interrupted"
        rows = len(read_rows(run.metrics))
        assert rows >= reached + 3
        reached = rows
        page = (tmp_path / "reproductions" / "reproductions.md").read_text()
        assert f"epoch {reached:,} of 100,000 | unfinished |" in page
