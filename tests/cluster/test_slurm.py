"""A sweep on a real Slurm: an array of six jobs, one failing, one put back into the queue while it runs."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.slurm import MissingSlurmError, cluster

FAULTS = Path(__file__).parents[1] / "end_to_end" / "faults.py"
JOBS, EPOCHS = 6, 80
FAILING, REQUEUED = "1", "2"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    folder = tmp_path / "slurm"
    folder.mkdir()
    try:
        running = cluster(folder)
        environment = running.__enter__()
    except MissingSlurmError as error:
        pytest.skip(str(error))
    try:
        yield {**environment, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    finally:
        running.__exit__(None, None, None)


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    shutil.copy(FAULTS, folder)
    overrides = [
        "--multirun", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null",
        "hydra.launcher.timeout_min=10", "hydra.launcher.array_parallelism=2", "sweep.name=s", "data=digits",
        f"trainer.epochs={EPOCHS}", "tracker=none", "evaluator=[]", "trainer.device=cpu",
        "model.encoder._target_=faults.Encoder", f"+model.encoder.number=choice(0,{FAILING},{REQUEUED},4,7,8)",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "vae_exp.train", *overrides],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def job(folder: Path, number: str) -> Path:
    [path] = (folder / "multirun" / "s").glob(f"*number-{number}_*")
    return path


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def control(environment: dict[str, str], *arguments: str) -> str:
    argv = ["scontrol", *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout


def test_six_jobs_of_an_array_one_failing_one_requeued(tmp_path: Path, slurm: dict[str, str]):
    with ended(start(tmp_path, slurm)) as process:
        follow(tmp_path, slurm, process)
    check(tmp_path)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def follow(tmp_path: Path, slurm: dict[str, str], process: subprocess.Popen[str]) -> None:
    """Put a running job back into the queue, and wait for the end of the sweep."""
    pattern = f"s/*number-{REQUEUED}_*/metrics.jsonl"
    wait_for(
        lambda: any(len(path.read_text().splitlines()) > 5 for path in (tmp_path / "multirun").glob(pattern)),
        process,
    )
    submitted = next((tmp_path / "multirun" / "s" / ".submitit").glob("[0-9]*_2")).name.partition("_")[0]
    control(slurm, "requeue", f"{submitted}_2")
    wait_for(lambda: "PENDING" in control(slurm, "show", "job", f"{submitted}_2"), process)
    control(slurm, "update", f"JobId={submitted}_2", "StartTime=now")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err


def check(tmp_path: Path) -> None:
    with (tmp_path / "multirun" / "s" / "summary.csv").open() as file:
        rows = {row["model.encoder.number"]: row for row in csv.DictReader(file)}
    assert {number: row["status"] for number, row in rows.items()} == {
        number: "failed" if number == FAILING else "completed" for number in ("0", "1", "2", "4", "7", "8")
    }
    assert "as it was asked to" in rows[FAILING]["error"]
    log = (job(tmp_path, REQUEUED) / "train.log").read_text()
    assert "Resuming" in log
    epochs = [
        json.loads(line)["epoch"] for line in (job(tmp_path, REQUEUED) / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(1, EPOCHS + 1))
