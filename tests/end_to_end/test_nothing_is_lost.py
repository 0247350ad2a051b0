"""Two runs never share a directory, and files of others are not touched."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import start
from tests.readers import read_result

SHORT = ("data=digits", "trainer.epochs=2", "tracker=none", "evaluator=[elbo]", "model.hidden_dims=[8]")


@pytest.mark.slow
def test_of_two_runs_that_start_together_one_is_refused_and_the_other_whole(tmp_path):
    arguments = ("hydra.run.dir=same", *SHORT[:-1])
    processes = [start("train", *arguments, f"model.hidden_dims=[{width}]", cwd=tmp_path) for width in (8, 16)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ended) == [0, 1]
    [refusal] = [err for err, code in ended if code]
    assert "already holds a run" in refusal or "another process is training in" in refusal
    winner = (8, 16)[[code for _, code in ended].index(0)]
    stored = yaml.safe_load((tmp_path / "same" / ".hydra" / "config.yaml").read_text())
    assert stored["model"]["hidden_dims"] == [winner]
    assert read_result(tmp_path / "same")["status"] == "completed"


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("trace", "override"),
    [
        (".hydra/config.yaml", "seed=0"),
        ("checkpoints/last.pt", "model.activation=swish"),
        ("train.log", "seed=0"),
        ("figures/mine.png", "model.activation=swish"),
    ],
)
def test_a_folder_with_traces_of_another_run_is_left_alone(trace, override, command, tmp_path):
    file = tmp_path / "old" / trace
    file.parent.mkdir(parents=True)
    file.write_text("another person's")
    assert command("train", *SHORT, "hydra.run.dir=old", override).code == 1
    assert file.read_text() == "another person's"
    assert [path for path in (tmp_path / "old").rglob("*") if path.is_file()] == [file]


def test_a_failed_start_in_a_folder_with_other_files_removes_only_its_own(command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert command("train", *SHORT, "hydra.run.dir=.", "model.activation=swish").code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


def test_jobs_that_would_share_a_directory_keep_the_first(command, tmp_path):
    arguments = ("hydra.sweep.subdir=x", "sweep.name=mine", "seed=0,1")
    finished = command("train", "--multirun", *SHORT, *arguments)
    assert finished.code == 1
    assert (
        yaml.safe_load((tmp_path / "multirun" / "mine" / "x" / ".hydra" / "config.yaml").read_text())["seed"] == 0
    )


@pytest.mark.slow
def test_a_sweep_over_a_value_that_cannot_be_resolved_is_refused(command, tmp_path):
    finished = command(
        "train", "--multirun", *SHORT, "sweep.name=mine", "seed=0,1", "model.latent_dim=2,'${nope}'"
    )
    assert finished.code == 1
    assert "the config cannot be resolved: Interpolation key 'nope' not found" in finished.err
    assert not list(tmp_path.iterdir())


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["..", "a/b", "''"])
def test_a_sweep_cannot_be_named_out_of_its_folder(name, command, tmp_path):
    finished = command("train", "--multirun", *SHORT, f"sweep.name={name}", "seed=0,1")
    assert finished.code == 1
    assert "sweep.name=" in finished.err
    assert not list(tmp_path.iterdir())


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["evaluate", "export", "generate"])
def test_a_link_out_of_a_run_is_not_followed(name, command, copied_run, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (copied_run / {"evaluate": "evaluation", "export": "export", "generate": "generated"}[name]).symlink_to(victim)
    finished = command(name, f"run={copied_run}")
    assert finished.code == 1
    assert "leads out of" in finished.err
    assert not list(victim.iterdir())


@pytest.mark.parametrize(
    "shell",
    ["{} | head -n 1", "{} >&-", "PYTHONIOENCODING=ascii {}"],
)
@pytest.mark.slow
def test_a_standard_output_that_fails_does_not_cost_the_run(shell, tmp_path):
    line = " ".join(
        [sys.executable, "-m", "vae_exp.train", "hydra.run.dir=run", *(f"'{argument}'" for argument in SHORT)]
    )
    finished = subprocess.run(
        ["bash", "-c", shell.format(line)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert read_result(tmp_path / "run")["status"] == "completed"
    assert "Traceback" not in finished.stderr
    assert Path(tmp_path / "run" / "train.log").read_text().count("Epoch ") == 2
