import csv
import json
import sys
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.readers import read_result, without_times
from tests.wandb_records import runs

SHORT = ("data=digits", "trainer.epochs=1", "evaluator=[]", "tracker=none")


def table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(run: Path) -> dict[str, float]:
    return without_times(read_result(run)["metrics"])


def test_every_job_has_a_directory_a_wandb_run_and_a_row(command, tmp_path):
    finished = command(
        "train", "--multirun", *SHORT, "tracker=offline", "model.latent_dim=2,3", "model.hidden_dims=[20],[30,10]",
        "sweep.name=mine",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    sweep = tmp_path / "multirun" / "mine"
    jobs = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(jobs) == 4
    sizes = {
        (config["model"]["latent_dim"], tuple(config["model"]["hidden_dims"]))
        for config in (yaml.safe_load((job / ".hydra" / "config.yaml").read_text()) for job in jobs)
    }
    assert sizes == {(2, (20,)), (2, (30, 10)), (3, (20,)), (3, (30, 10))}
    starts = [r.run for records in runs(tmp_path) for r in records if r.WhichOneof("record_type") == "run"]
    assert len({start.run_id for start in starts}) == 4
    assert {start.run_group for start in starts} == {"mine"}
    assert {start.job_type for start in starts} == {"sweep"}
    swept = [
        json.loads(update.value_json)
        for start in starts
        for update in start.config.update
        if update.key == "swept"
    ]
    assert [sorted(values) for values in swept] == [["model.hidden_dims", "model.latent_dim"]] * 4
    assert sorted(values["model.latent_dim"] for values in swept) == ["2", "2", "3", "3"]
    rows = table(sweep)
    losses = [float(row["val/loss"]) for row in rows]
    assert losses == sorted(losses)
    assert {row["model.latent_dim"] for row in rows} == {"2", "3"}
    assert "model.hidden_dims" in finished.out
    assert "latent_dim-3_hidden_dims-30-10" in " ".join(job.name for job in jobs)


def test_no_state_is_carried_from_job_to_job(command, tmp_path):
    command("train", "--multirun", *SHORT, "model.latent_dim=5,2", "sweep.name=both")
    command("train", *SHORT, "model.latent_dim=2", "hydra.run.dir=alone")
    [job] = (tmp_path / "multirun" / "both").glob("*latent_dim-2*")
    assert metrics(job) == metrics(tmp_path / "alone")


def test_a_failing_job_costs_no_other_and_is_named(command, tmp_path):
    finished = command("train", "--multirun", *SHORT, "trainer.batch_size=100,5000,60", "sweep.name=mine")
    assert finished.code != 0
    rows = {row["trainer.batch_size"]: row for row in table(tmp_path / "multirun" / "mine")}
    assert [rows[size]["status"] for size in ("100", "60", "5000")] == ["completed", "completed", "failed"]
    assert "trainer.batch_size=5000 is larger than" in rows["5000"]["error"]
    assert "trainer.batch_size=5000 is larger than" in finished.out
    assert "Traceback" not in finished.err


def test_a_crash_in_a_job_leaves_its_traceback_in_the_jobs_log(command, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("of the program")

    monkeypatch.setattr("vae_exp.runs.training.seed_everything", fail)
    with pytest.raises(ZeroDivisionError):
        command("train", "--multirun", *SHORT, "seed=0,1", "sweep.name=mine")
    logs = list((tmp_path / "multirun" / "mine").glob("*/train.log"))
    assert len(logs) == 2
    assert all("ZeroDivisionError: of the program" in log.read_text() for log in logs)
    assert {row["status"] for row in table(tmp_path / "multirun" / "mine")} == {"failed"}


def test_an_error_of_a_users_source_in_a_job_is_one_message_with_the_traceback_in_the_log(
    command, tmp_path, monkeypatch
):
    from vae_exp.data.digits import DigitsSource

    def train(self):
        raise ZeroDivisionError("of the data source")

    monkeypatch.setattr(DigitsSource, "train", train)
    finished = command("train", "--multirun", *SHORT, "seed=0,1", "sweep.name=mine")
    assert finished.code == 1
    assert "data.source (DigitsSource) fails: ZeroDivisionError: of the data source" in finished.err
    assert "Traceback" not in finished.err
    logs = [log.read_text() for log in (tmp_path / "multirun" / "mine").glob("*/train.log")]
    assert len(logs) == 2
    assert all("Traceback" in log and "ZeroDivisionError: of the data source" in log for log in logs)


def contents(folder: Path) -> dict[Path, bytes]:
    """Of all jobs' files but their logs, which say that there was nothing to do."""
    return {path: path.read_bytes() for path in folder.glob("*/**/*") if path.is_file() and path.suffix != ".log"}


def test_the_same_sweep_again_does_nothing_and_more_values_only_what_is_new(command, tmp_path):
    arguments = ("train", "--multirun", *SHORT, "sweep.name=mine")
    assert command(*arguments, "model.latent_dim=2,3").code == 0
    sweep = tmp_path / "multirun" / "mine"
    before = contents(sweep)
    assert command(*arguments, "model.latent_dim=2,3").code == 0
    assert contents(sweep) == before
    assert command(*arguments, "model.latent_dim=2,3,4").code == 0
    after = contents(sweep)
    assert {path: after[path] for path in before} == before
    assert len([path for path in after if path.name == "result.json"]) == 3
    assert [row["status"] for row in table(sweep)] == ["completed"] * 3


def test_a_job_is_known_by_its_config_in_whatever_words(command, tmp_path):
    assert command("train", "--multirun", *SHORT, "sweep.name=mine", "optimizer.lr=1e-3").code == 0
    before = contents(tmp_path / "multirun" / "mine")
    words = ("sweep.name=mine", "optimizer.lr=0.001", "seed=0")
    assert command("train", "--multirun", *words, *SHORT).code == 0
    assert contents(tmp_path / "multirun" / "mine").keys() == before.keys()


def test_force_runs_all_again_and_archives_the_former_runs(command, tmp_path):
    arguments = ("train", "--multirun", *SHORT, "seed=0,1", "sweep.name=mine")
    assert command(*arguments).code == 0
    sweep = tmp_path / "multirun" / "mine"
    before = {path.parent.name: path.read_bytes() for path in sweep.glob("*/result.json")}
    time.sleep(1.1)  # sweeps differ by the second in which they start
    assert command(*arguments, "sweep.rerun=true").code == 0
    for name, content in before.items():
        assert (sweep / name / "previous" / "1" / "result.json").read_bytes() == content
        assert (sweep / name / "result.json").read_bytes() != content
    assert metrics(sweep / name) == metrics(sweep / name / "previous" / "1")


def test_an_unknown_key_is_refused_before_any_job(command, tmp_path):
    finished = command("train", "--multirun", *SHORT, "model.latnt_dim=2,3", "sweep.name=mine")
    assert finished.code == 1
    assert "did you mean model.latent_dim?" in finished.err
    assert not (tmp_path / "multirun").exists()


def test_the_worked_example_sweeps_latent_size_and_width(command, tmp_path):
    finished = command(
        "train", "experiment=latent_sweep", "data=digits", "trainer.epochs=1", "tracker=none",
        "sweep.name=example", "evaluator=[]", "seed=0",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    rows = table(tmp_path / "multirun" / "example")
    assert len(rows) == 6
    assert {row["model.latent_dim"] for row in rows} == {"2", "8", "32"}
    assert {row["model.hidden_dims"] for row in rows} == {"[500]", "[400,200]"}


def test_jobs_with_other_losses_are_compared_by_their_elbo(command, tmp_path):
    finished = command("train", "--multirun", *SHORT, "loss=beta_vae", "loss.beta=8,1,0.01", "sweep.name=mine")
    assert "best val/elbo first" in finished.out
    rows = table(tmp_path / "multirun" / "mine")
    elbos = [float(row["val/elbo"]) for row in rows]
    losses = [float(row["val/loss"]) for row in rows]
    assert elbos == sorted(elbos, reverse=True)
    assert losses != sorted(losses)


def test_an_empty_sweep_is_refused(command, tmp_path):
    finished = command("train", "--multirun", *SHORT, "seed=range(0,0)", "sweep.name=mine")
    assert finished.code == 1
    assert "the sweep has no jobs: seed=range(0,0) has no values" in finished.err
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize(
    ("launcher", "plugin", "packages"),
    [
        ("ray", "hydra_ray_launcher", "hydra-ray-launcher ray"),
        ("slurm", "hydra_submitit_launcher", "hydra-submitit-launcher"),
    ],
)
def test_a_launcher_that_is_not_installed_names_its_packages(command, monkeypatch, launcher, plugin, packages):
    for name in [name for name in sys.modules if name.startswith(f"hydra_plugins.{plugin}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, f"hydra_plugins.{plugin}", None)
    finished = command("train", "--multirun", *SHORT, f"hydra/launcher={launcher}", "seed=0,1", "sweep.name=mine")
    assert finished.code == 1
    assert f"pip install {packages}." in finished.err
    assert "Traceback" not in finished.err


def test_a_corrupt_result_is_not_taken_for_a_finished_job(command, tmp_path):
    arguments = ("train", "--multirun", *SHORT, "seed=0,1", "sweep.name=mine")
    assert command(*arguments).code == 0
    victim = sorted((tmp_path / "multirun" / "mine").glob("*/result.json"))[0]
    whole = metrics(victim.parent)
    victim.write_text('{"status": "comp')
    assert command(*arguments).code == 0
    assert metrics(victim.parent) == whole


def test_a_job_that_another_process_is_at_is_left_to_it(command, tmp_path):
    arguments = ("train", "--multirun", *SHORT, "seed=0,1", "sweep.name=mine")
    assert command(*arguments).code == 0
    [job] = (tmp_path / "multirun" / "mine").glob("*seed-0*")
    (job / "result.json").unlink()
    with FileLock(job / ".lock"):
        finished = command(*arguments)
    assert finished.code == 0
    assert "Skipped: another process is training in" in finished.err
    assert {row["seed"]: row["status"] for row in table(tmp_path / "multirun" / "mine")}["1"] == "completed"
    assert not (job / "result.json").exists()
