"""`hydra/launcher=stacked` as a user sees it: real processes, really killed."""

import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

import vae_exp
from tests.conftest import start
from tests.readers import read_metrics, read_results, without_times

STACKED = ("--multirun", "data=digits", "evaluator=[]", "hydra/launcher=stacked", "hydra.launcher.slots=1")
SMALL = ("trainer.epochs=3", "trainer.max_train_images=600", "loss=beta_vae", "sweep.name=s")
MIXED = ("model.latent_dim=2,5", "model.hidden_dims=[24],[32]", "optimizer.lr=1e-3,3e-3", "loss.beta=0.5,4")
pytestmark = pytest.mark.timeout(600)


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start("train", *STACKED, *arguments, cwd=folder)
    out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def jobs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "multirun" / "s").iterdir() if path.is_dir())


def last_checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Sixteen jobs in one stack, tracked."""
    folder = tmp_path_factory.mktemp("stacked")
    return folder, sweep(folder, *SMALL, *MIXED, "seed=3")


def test_each_member_is_a_full_run(stacked):
    folder, finished = stacked
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Stack of 16 jobs from 0 to 15: latent_dim up to 5, hidden_dims up to [32]." in finished.stdout
    results = read_results(folder / "multirun" / "s")
    assert {result["status"] for result in results.values()} == {"completed"}
    assert {result["execution"] for result in results.values()} == {"stacked/16"}
    for path in jobs(folder):
        assert [row["epoch"] for row in read_metrics(path)] == [1, 2, 3]
        [start] = [line for line in (path / "train.log").read_text().splitlines() if "Training " in line]
        assert ", the steps of a stack: " in start
        assert (path / "checkpoints" / "best.pt").exists()
        wandb = results[path.name]["wandb"]
        assert wandb["error"] is None
        assert list(Path(wandb["directory"]).glob(f"run-{wandb['run_id']}.wandb"))
    assert len({result["wandb"]["run_id"] for result in results.values()}) == 16


def test_members_end_as_their_runs_alone(stacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _ = stacked
    monkeypatch.chdir(tmp_path)
    settings = ["data=digits", "evaluator=[]", "tracker=none", *SMALL[:-1], "seed=3"]
    for latent_dim, width, rate, beta in [(2, 24, 0.001, 4), (5, 32, 0.003, 4), (2, 32, 0.003, 0.5)]:
        sizes = [f"model.latent_dim={latent_dim}", f"model.hidden_dims=[{width}]"]
        alone = vae_exp.train([*settings, *sizes, f"optimizer.lr={rate}", f"loss.beta={beta}"])
        words = f"latent_dim-{latent_dim}_", f"hidden_dims-{width}_", f"lr-{rate}_", f"beta-{beta}_"
        [member] = [path for path in jobs(folder) if all(word in path.name for word in words)]
        assert read_metrics(member)[-1]["val/loss"] == pytest.approx(alone.metrics[-1]["val/loss"], abs=1e-3)
        own, expected = last_checkpoint(member)["vae"], last_checkpoint(alone.directory.path)["vae"]
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_frozen_parts_of_members_stay_as_they_were(tmp_path: Path):
    for epochs in (1, 2):
        words = ("loss=beta_vae", "trainer.max_train_images=600", "seed=0,1", "model.freeze=[encoder]")
        finished = sweep(tmp_path, *words, f"trainer.epochs={epochs}", f"sweep.name={'s' if epochs == 1 else 't'}")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "Stack of 2 jobs" in finished.stdout
    later = sorted(path for path in (tmp_path / "multirun" / "t").iterdir() if path.is_dir())
    for first, second in zip(jobs(tmp_path), later, strict=True):
        before, after = last_checkpoint(first)["vae"], last_checkpoint(second)["vae"]
        for name, weight in after.items():
            assert torch.equal(weight, before[name]) == name.startswith("encoder."), name


def test_a_member_is_resumed_alone(stacked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, _ = stacked
    monkeypatch.chdir(tmp_path)
    member = jobs(folder)[0]
    run = vae_exp.train([f"resume={member}", "trainer.epochs=5", "tracker=none"])
    assert [row["epoch"] for row in read_metrics(member)] == [1, 2, 3, 4, 5]
    assert run.metrics[-1]["val/loss"] < read_metrics(member)[0]["val/loss"]


@pytest.mark.slow
def test_a_member_that_diverges_or_stops_early_harms_no_other(tmp_path: Path):
    finished = sweep(
        tmp_path, *SMALL, "tracker=none", "optimizer.lr=1e-3,1e30", "trainer.early_stopping.patience=1,9",
        "trainer.early_stopping.min_delta=1000", "loss.beta=1",
    )  # fmt: skip
    assert finished.returncode == 1
    results = read_results(tmp_path / "multirun" / "s")
    outcomes = sorted((result["status"], result["epochs"], result["stopped_early"]) for result in results.values())
    assert outcomes[:2] == [("completed", 2, True), ("completed", 3, False)]
    assert [status for status, *_ in outcomes[2:]] == ["diverged", "diverged"]


@pytest.mark.slow
def test_jobs_that_cannot_be_stacked_run_beside_the_stack_and_the_reason_is_said(tmp_path: Path):
    finished = sweep(tmp_path, *SMALL, "tracker=none", "model.posterior=diagonal,full_covariance", "seed=0,1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Stack of 2 jobs from 0 to 1: " in finished.stdout
    assert finished.stdout.count("Jobs with model.posterior=full_covariance run alone.") == 1
    results = read_results(tmp_path / "multirun" / "s")
    assert sorted(result["execution"] for result in results.values()) == [
        "eager",
        "eager",
        "stacked/2",
        "stacked/2",
    ]


@pytest.mark.slow
def test_a_bad_number_of_members_is_refused(command):
    for value in (0, "many"):
        refused = command("train", *STACKED, "sweep.name=s", f"hydra.launcher.members={value}", "seed=0,1")
        assert refused.code == 1
        assert f"hydra.launcher.members={value} must be auto or a whole number of at least 1." in refused.err


def kill_all(process: subprocess.Popen[str]) -> None:
    """End the launcher and all that it has started, at once."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate(timeout=60)


KILLED = (
    *("sweep.name=s", "tracker=none", "trainer.epochs=30", "trainer.max_train_images=600"),
    *("model.latent_dim=2,5", "model.hidden_dims=[24],[32]", "checkpoint.every_n_epochs=1"),
    *("trainer.early_stopping.patience=1,30", "trainer.early_stopping.min_delta=1"),
)


def assert_same_to_the_bit(one: Path, other: Path) -> None:
    assert [run.name for run in jobs(one)] == [run.name for run in jobs(other)]
    for first, second in zip(jobs(one), jobs(other), strict=True):
        expected, own = last_checkpoint(first), last_checkpoint(second)
        assert own["epoch"] == expected["epoch"]
        assert all(torch.equal(own["vae"][name], value) for name, value in expected["vae"].items())
        assert torch.equal(own["generators"]["noise"], expected["generators"]["noise"])
        logged = [[without_times(row) for row in read_metrics(run)] for run in (first, second)]
        assert logged[0] == logged[1]


def rows(folder: Path) -> int:
    """How many epochs of all jobs are logged."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("multirun/s/*/metrics.jsonl"))


def killed_at_random_moments(folder: Path, times: int, seed: int) -> None:
    """Run the sweep, kill it so often once it trains, and let it end."""
    moments = random.Random(seed)
    for _ in range(times):
        process = start("train", *STACKED, *KILLED, cwd=folder)
        target = rows(folder) + moments.randint(1, 20)
        while process.poll() is None and rows(folder) < target:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        if process.poll() is None:
            kill_all(process)
        else:
            assert process.wait() == 0
    finished = sweep(folder, *KILLED)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.slow
def test_a_stack_killed_ten_times_goes_on_to_the_bit(tmp_path: Path):
    whole, killed = tmp_path / "a", tmp_path / "b"
    whole.mkdir()
    killed.mkdir()
    assert sweep(whole, *KILLED).returncode == 0
    killed_at_random_moments(killed, 10, seed=1)
    assert_same_to_the_bit(whole, killed)
