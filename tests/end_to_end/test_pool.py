"""`hydra/launcher=pool` as a user sees it: real processes, really killed."""

import csv
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
from tests.readers import read_metrics, read_results, without_times

FAULTS = Path(__file__).with_name("faults.py")
STATUS = {"1": "failed", "3": "killed", "5": "interrupted", "6": "diverged"}
REASON = {
    "1": "ArithmeticError: as it was asked to",
    "3": "killed by SIGKILL",
    "5": "exited with code 7",
    "6": "training diverged",
}
POOL = (
    "--multirun", "data=digits", "tracker=none", "evaluator=[]", "hydra/launcher=pool", "hydra.launcher.slots=2",
    "sweep.name=s",
)  # fmt: skip
FAULTY = ("model.encoder._target_=faults.Encoder", "+model.encoder.number=choice(0,1,2,3,5,6)", "trainer.epochs=2")
pytestmark = pytest.mark.timeout(600)


def sweep(folder: Path, *, mended: bool = False) -> subprocess.CompletedProcess[str]:
    """A sweep of six jobs, four of them faulty."""
    shutil.copy(FAULTS, folder)
    if mended:
        (folder / "MENDED").touch()
    path = os.pathsep.join([str(folder), *sys.path])
    process = start("train", *POOL, *FAULTY, cwd=folder, env={"PYTHONPATH": path})
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "multirun" / "s" / "summary.csv").open() as file:
        return {row["model.encoder.number"]: row for row in csv.DictReader(file)}


def results(folder: Path) -> dict[str, dict]:
    return read_results(folder / "multirun" / "s")


@pytest.mark.slow
def test_of_six_jobs_only_the_four_faulty_fail_and_only_they_run_again(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finished = sweep(tmp_path)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    assert "4 of 6 jobs tried did not finish" in finished.stderr
    assert len(rows(tmp_path)) == 6
    for number, row in rows(tmp_path).items():
        assert row["status"] == STATUS.get(number, "completed"), row
        assert REASON.get(number, "") in row["error"]
        assert REASON.get(number, "") in finished.stdout
    before = results(tmp_path)
    (tmp_path / "MENDED").touch()
    monkeypatch.syspath_prepend(tmp_path)
    again = command("train", *POOL, *FAULTY)
    assert again.code == 0, again.out + again.err
    after = results(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("number-")[1].split("_")[0] for name in changed} == set(STATUS)
    assert {row["status"] for row in rows(tmp_path).values()} == {"completed"}
    assert after.keys() == before.keys()


@pytest.mark.slow
def test_a_repaired_job_ends_as_one_that_never_failed(tmp_path: Path):
    repaired, faultless = tmp_path / "a", tmp_path / "b"
    for folder, mended in ((repaired, False), (repaired, True), (faultless, True)):
        folder.mkdir(exist_ok=True)
        sweep(folder, mended=mended)
    metrics = [
        {name: without_times(result["metrics"]) for name, result in results(folder).items()}
        for folder in (repaired, faultless)
    ]
    assert metrics[0] == metrics[1]


def begin(folder: Path, jobs: int, epochs: int, checkpoints: int) -> subprocess.Popen[str]:
    """A sweep that has written so many checkpoints."""
    process = start("train", *arguments(jobs, epochs), cwd=folder)
    until = time.monotonic() + 240
    while len(list((folder / "multirun").glob("s/*/checkpoints/last.pt"))) < checkpoints:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


def arguments(jobs: int, epochs: int) -> list[str]:
    return [*POOL, f"seed=range({jobs})", f"trainer.epochs={epochs}", "checkpoint.every_n_epochs=1"]


def check_no_process_is_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_orphan_and_the_same_command_does_the_rest(tmp_path: Path):
    """The second command has closed streams, which cost it nothing."""
    process = begin(tmp_path, 3, 20, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    check_no_process_is_left(children)
    finished = {name: result for name, result in results(tmp_path).items() if result["status"] == "completed"}
    assert len(finished) < 3
    again = shlex.join([sys.executable, "-m", "vae_exp.train", *arguments(3, 20)])
    assert subprocess.run(["sh", "-c", f"{again} 0<&- >&- 2>&-"], cwd=tmp_path, check=False).returncode == 0
    after = results(tmp_path)
    assert {name: after[name] for name in finished} == finished
    assert [result["status"] for result in after.values()] == ["completed"] * 3
    for name in after:
        epochs = [row["epoch"] for row in read_metrics(tmp_path / "multirun" / "s" / name)]
        assert epochs == list(range(1, 21))


@pytest.mark.slow
def test_ctrl_c_ends_all_jobs_and_leaves_no_orphan(tmp_path: Path):
    process = begin(tmp_path, 3, 2000, 1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    check_no_process_is_left(children)
    statuses = [result["status"] for result in results(tmp_path).values()]
    assert "interrupted" in statuses
    assert "failed" not in statuses
    errors = {result["error"] for result in results(tmp_path).values() if result["status"] == "interrupted"}
    assert errors == {"by Ctrl-C"}
