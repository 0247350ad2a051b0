"""Many jobs in one process: nothing grows, nothing stays open."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WATCHED = """
import json, sys
import psutil
from vae_exp import train

process = psutil.Process()
jobs = []
task = train.train

def watched(config):
    task(config)
    resident = process.memory_info().rss / 2**20
    jobs.append({"resident": resident, "files": process.num_fds(), "threads": process.num_threads()})

train.train = watched
try:
    train.main()
finally:
    print(json.dumps(jobs))
"""


@pytest.mark.slow
def test_thirty_jobs_in_one_process_cost_little_and_leave_nothing(tmp_path: Path):
    """Memory grows by less than 2 MB a job after the fifth; files and threads stay as many as they were."""
    jobs = 30
    overrides = ["--multirun", "data=digits", "trainer.epochs=1", "sweep.name=s", f"seed=range({jobs})"]
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, *overrides], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert len(seen) == jobs
    growth = (seen[-1]["resident"] - seen[4]["resident"]) / (jobs - 5)
    assert growth < 2
    assert seen[-1]["files"] == seen[4]["files"]
    assert seen[-1]["threads"] == seen[4]["threads"]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == jobs
    assert len(list((tmp_path / "multirun" / "s").glob("*/figures/samples.png"))) == jobs
    results = [json.loads(path.read_text()) for path in (tmp_path / "multirun" / "s").glob("*/result.json")]
    outside = sorted(result["seconds"]["total"] - result["seconds"]["training"] for result in results)
    assert outside[jobs // 2] < 2  # seconds; 1.0 on an idle machine, docs/benchmarks.md
