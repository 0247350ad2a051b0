"""`hydra/launcher=pool` as a user sees it: real processes, really killed."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import start

FAULTS = Path(__file__).with_name("faults.py")
FAULTY = ("model.encoder._target_=faults.Encoder", "tracker=none", "evaluator=[]")
STATUS = {"1": "failed", "3": "killed", "5": "interrupted", "6": "diverged"}
REASON = {
    "1": "ArithmeticError: as it was asked to",
    "3": "killed by SIGKILL",
    "5": "exited with code 7",
    "6": "training diverged",
}
pytestmark = pytest.mark.timeout(600)


def sweep(folder: Path, jobs: int, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(FAULTS, folder)
    return subprocess.run(
        [sys.executable, *words(jobs, *overrides)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def words(jobs: int, *overrides: str) -> list[str]:
    numbers = f"+model.encoder.number=range({jobs})"
    launcher = ("hydra/launcher=pool", "hydra.launcher.slots=2", "sweep.name=s")
    return ["-m", "vae_exp.train", "--multirun", "data=digits", *FAULTY, *launcher, numbers, *overrides]


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "multirun" / "s" / "summary.csv").open() as file:
        return {row["model.encoder.number"]: row for row in csv.DictReader(file)}


def results(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (folder / "multirun" / "s").glob("*/result.json")}


def test_of_eight_jobs_only_the_four_faulty_fail_and_only_they_run_again(tmp_path: Path):
    folder, jobs = tmp_path, 8
    finished = sweep(folder, jobs, "trainer.epochs=2")
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert f"4 of {jobs} jobs that were tried did not finish" in finished.stderr
    found = rows(folder)
    assert len(found) == jobs
    for number, row in found.items():
        assert row["status"] == STATUS.get(number, "completed"), row
        assert REASON.get(number, "") in row["error"]
        assert REASON.get(number, "") in finished.stdout
    before = results(folder)
    again = sweep(folder, jobs, "trainer.epochs=2", MENDED="1")
    assert again.returncode == 0, again.stdout + again.stderr
    after = results(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("number-")[1].split("_")[0] for name in changed} == set(STATUS)
    assert {row["status"] for row in rows(folder).values()} == {"completed"}
    assert after.keys() == before.keys()


@pytest.mark.slow
def test_a_repaired_job_ends_as_one_that_never_failed(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    sweep(tmp_path / "a", 8, "trainer.epochs=2")
    sweep(tmp_path / "a", 8, "trainer.epochs=2", MENDED="1")
    sweep(tmp_path / "b", 8, "trainer.epochs=2", MENDED="1")

    def metrics(folder: Path) -> dict[str, dict[str, float]]:
        loaded = {name: json.loads(text)["metrics"] for name, text in results(folder).items()}
        return {
            name: {key: value for key, value in each.items() if not key.startswith("time/")}
            for name, each in loaded.items()
        }

    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_closed_streams_cost_no_job(tmp_path: Path):
    shutil.copy(FAULTS, tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "MENDED": "1"}
    command = shlex.join([sys.executable, *words(1, "trainer.epochs=1")])
    finished = subprocess.run(["sh", "-c", f"{command} 0<&- >&- 2>&-"], cwd=tmp_path, env=environment, check=False)
    assert finished.returncode == 0
    assert [row["status"] for row in rows(tmp_path).values()] == ["completed"]


def begin(folder: Path, jobs: int, epochs: int, checkpoints: int) -> subprocess.Popen[str]:
    """A sweep that has written so many checkpoints."""
    shutil.copy(FAULTS, folder)
    path = os.pathsep.join([str(folder), *sys.path])
    _, _, *overrides = words(jobs, f"trainer.epochs={epochs}", "checkpoint.every_n_epochs=1")
    process = start("train", *overrides, cwd=folder, env={"PYTHONPATH": path, "MENDED": "1"})
    until = time.monotonic() + 240
    while len(list((folder / "multirun").glob("s/*/checkpoints/last.pt"))) < checkpoints:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_killed_launcher_leaves_no_orphan_and_the_same_command_does_the_rest(tmp_path: Path):
    process = begin(tmp_path, 4, 20, 3)
    children = descendants(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    finished = {name for name, text in results(tmp_path).items() if json.loads(text)["status"] == "completed"}
    assert len(finished) < 4
    kept = {name: text for name, text in results(tmp_path).items() if name in finished}
    again = sweep(tmp_path, 4, "trainer.epochs=20", "checkpoint.every_n_epochs=1", MENDED="1")
    assert again.returncode == 0, again.stdout + again.stderr
    after = results(tmp_path)
    assert {name: after[name] for name in kept} == kept
    assert [json.loads(text)["status"] for text in after.values()] == ["completed"] * 4
    for path in (tmp_path / "multirun" / "s").glob("*/metrics.jsonl"):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == list(range(1, 21))


@pytest.mark.parametrize(
    ("times", "number"),
    [(1, signal.SIGINT), pytest.param(1, signal.SIGTERM, marks=pytest.mark.slow), (2, signal.SIGINT)],
)
def test_ctrl_c_ends_all_jobs_and_leaves_no_orphan(tmp_path: Path, times: int, number: int):
    process = begin(tmp_path, 4, 2000, 1)
    children = descendants(process)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.3)
    process.communicate(timeout=120)
    assert process.returncode == 128 + number
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    if times == 1:
        ended = [json.loads(text) for text in results(tmp_path).values()]
        statuses = [result["status"] for result in ended]
        assert "interrupted" in statuses
        said = {result["error"] for result in ended if result["status"] == "interrupted"}
        assert said == {"by Ctrl-C" if number == signal.SIGINT else "by SIGTERM"}
        assert "failed" not in statuses
