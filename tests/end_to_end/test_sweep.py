import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from tests.conftest import start
from tests.readers import read_result, without_times
from tests.wandb_records import runs
from vae_exp.dashboard.runs.run_tables import read_store
from vae_exp.sweep.job_records import read_jobs

SHORT = ("data=digits", "trainer.epochs=1", "evaluator=[]", "tracker=none")
SWEEP = ("train", "--multirun", *SHORT, "sweep.name=mine")
LATENTS = "model.latent_dim=3,2"


def table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(run: Path) -> dict[str, float]:
    return without_times(read_result(run)["metrics"])


def contents(sweep: Path) -> dict[str, bytes]:
    """Of all jobs' files but their logs, which say that there was nothing to do."""
    files = [path for path in sweep.glob("*/**/*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(sweep)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    process = start(*SWEEP, LATENTS, cwd=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    return folder / "multirun" / "mine"


@pytest.fixture
def sweep(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of a sweep of two jobs, where the same command finds it."""
    return Path(shutil.copytree(finished_sweep, tmp_path / "multirun" / "mine"))


@pytest.mark.slow
def test_every_job_has_a_wandb_run_with_its_swept_values(command, tmp_path):
    finished = command(*SWEEP, "tracker=offline", "model.latent_dim=2,3", "model.hidden_dims=[20]")
    assert finished.code == 0, finished.err
    starts = [r.run for records in runs(tmp_path) for r in records if r.WhichOneof("record_type") == "run"]
    assert len({start.run_id for start in starts}) == 2
    assert {start.run_group for start in starts} == {"mine"}
    assert {start.job_type for start in starts} == {"sweep"}
    swept = [
        json.loads(update.value_json)
        for start in starts
        for update in start.config.update
        if update.key == "swept"
    ]
    assert sorted(swept, key=str) == [{"model.latent_dim": "2"}, {"model.latent_dim": "3"}]


@pytest.mark.slow
def test_jobs_are_named_by_what_is_swept_and_keep_their_directories(command, tmp_path):
    """A key that was constant gets one more value: directories stay, and all labels have the key."""
    common = ("train", "--multirun", *SHORT[1:3], "tracker=offline", "sweep.name=mine", "model.latent_dim=2,3")
    sweep = tmp_path / "multirun" / "mine"
    first = command(*common, "data=digits", "model.decoder.hidden_dims=[16]")
    assert first.code == 0, first.err
    before = {path.parent.name for path in sweep.glob("*/result.json")}
    assert {name.rpartition("_")[0] for name in before} == {"latent_dim-2", "latent_dim-3"}
    [old] = sweep.glob("latent_dim-2_*")
    old_name = f"data-digits_latent_dim-2_decoder.hidden_dims-16_{old.name[-8:]}"
    old.rename(sweep / old_name)  # as it was once called
    assert {job.label for job in read_jobs(sweep)} == {"latent_dim=2", "latent_dim=3"}
    second = command(*common, "data=digits", "model.decoder.hidden_dims=[16],[16,8]", "hydra/launcher=pool")
    assert second.code == 0, second.err
    assert second.out.count("finished before") == 2
    started = {path.parent.name for path in sweep.glob("*/result.json")}
    assert before - {old.name} | {old_name} < started
    new = {name.rpartition("_")[0] for name in started - before - {old_name}}
    assert new == {f"latent_dim-{n}_decoder.hidden_dims-16-8" for n in (2, 3)}
    labels = {f"latent_dim={n} decoder.hidden_dims={w}" for n in (2, 3) for w in ("[16]", "[16,8]")}
    assert {job.label for job in read_jobs(sweep)} == labels
    store = read_store([tmp_path])
    assert {run.label for run in store.runs.values()} == labels
    assert {run.info.name for run in store.runs.values()} == (started - {old_name}) | {old.name}


@pytest.mark.slow
def test_no_state_is_carried_from_job_to_job(command, tmp_path, sweep):
    command("train", *SHORT, "model.latent_dim=2", "hydra.run.dir=alone")
    [job] = sweep.glob("*latent_dim-2*")
    assert metrics(job) == metrics(tmp_path / "alone")


def test_a_failing_job_costs_no_other_and_is_named(command, tmp_path):
    finished = command(*SWEEP, "trainer.batch_size=5000,60")
    assert finished.code != 0
    rows = {row["trainer.batch_size"]: row for row in table(tmp_path / "multirun" / "mine")}
    assert [rows[size]["status"] for size in ("60", "5000")] == ["completed", "failed"]
    assert "trainer.batch_size=5000 is larger than" in rows["5000"]["error"]
    assert "trainer.batch_size=5000 is larger than" in finished.out
    assert "Traceback" not in finished.err


@pytest.mark.slow
def test_a_crash_in_a_job_leaves_its_traceback_in_the_jobs_log(command, tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("of the program")

    monkeypatch.setattr("vae_exp.runs.training_setup.seed_everything", fail)
    with pytest.raises(ZeroDivisionError):
        command(*SWEEP, "seed=0,1")
    logs = list((tmp_path / "multirun" / "mine").glob("*/train.log"))
    assert len(logs) == 2
    assert all("ZeroDivisionError: of the program" in log.read_text() for log in logs)
    assert {row["status"] for row in table(tmp_path / "multirun" / "mine")} == {"failed"}


@pytest.mark.slow
def test_an_error_of_a_users_source_in_a_job_is_one_message_with_the_traceback_in_the_log(
    command, tmp_path, monkeypatch
):
    from vae_exp.data.digits import DigitsSource

    def train(self):
        raise ZeroDivisionError("of the data source")

    monkeypatch.setattr(DigitsSource, "train", train)
    finished = command(*SWEEP, "seed=0")
    assert finished.code == 1
    assert "data.source (DigitsSource) fails: ZeroDivisionError: of the data source" in finished.err
    assert "Traceback" not in finished.err
    [log] = (tmp_path / "multirun" / "mine").glob("*/train.log")
    assert "Traceback" in log.read_text()
    assert "ZeroDivisionError: of the data source" in log.read_text()


def test_the_same_sweep_again_does_nothing_and_more_values_only_what_is_new(command, sweep):
    """A job is identified by its config, however the overrides are written."""
    before = contents(sweep)
    assert command(*SWEEP, LATENTS).code == 0
    assert contents(sweep) == before
    assert command(*SWEEP, "model.latent_dim=2,3,4").code == 0
    after = contents(sweep)
    assert after.items() >= before.items()
    assert len([path for path in after if path.endswith("/result.json")]) == 3
    assert [row["status"] for row in table(sweep)] == ["completed"] * 3
    rewritten = ("sweep.name=mine", "optimizer.lr=0.001", LATENTS, "seed=0", *SHORT)
    assert command("train", "--multirun", *rewritten).code == 0
    assert contents(sweep).keys() == after.keys()
    assert [job.status for job in read_jobs(sweep)] == ["completed"] * 3


@pytest.mark.slow
def test_rerun_runs_all_again_and_archives_the_former_runs(command, sweep):
    before = {path.parent.name: path.read_bytes() for path in sweep.glob("*/result.json")}
    assert command(*SWEEP, LATENTS, "sweep.rerun=true").code == 0
    for name, content in before.items():
        assert (sweep / name / "previous" / "1" / "result.json").read_bytes() == content
        assert (sweep / name / "result.json").read_bytes() != content
    assert metrics(sweep / name) == metrics(sweep / name / "previous" / "1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.latnt_dim=2,3", "did you mean model.latent_dim?"),
        ("seed=range(0,0)", "the sweep has no jobs: seed=range(0,0) has no values"),
    ],
)
def test_an_unknown_key_and_an_empty_sweep_are_refused_before_any_job(command, tmp_path, override, message):
    finished = command(*SWEEP, override)
    assert finished.code == 1
    assert message in finished.err
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_the_worked_example_sweeps_latent_size_and_width(command, tmp_path):
    finished = command("train", "experiment=latent_sweep", *SHORT, "sweep.name=example", "seed=0")
    assert finished.code == 0, finished.err
    jobs = [path for path in (tmp_path / "multirun" / "example").iterdir() if path.is_dir()]
    configs = [yaml.safe_load((job / ".hydra" / "config.yaml").read_text())["model"] for job in jobs]
    sizes = {(model["latent_dim"], tuple(model["hidden_dims"])) for model in configs}
    assert sizes == {(latent_dim, dims) for latent_dim in (2, 8, 32) for dims in ((500,), (400, 200))}
    assert "latent_dim-32_hidden_dims-400-200" in " ".join(job.name for job in jobs)
    rows = table(tmp_path / "multirun" / "example")
    assert {row["model.latent_dim"] for row in rows} == {"2", "8", "32"}
    assert {row["model.hidden_dims"] for row in rows} == {"[500]", "[400,200]"}
    losses = [float(row["val/loss"]) for row in rows]
    assert losses == sorted(losses)
    assert "model.hidden_dims" in finished.out


@pytest.mark.quick(1)
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
    finished = command(*SWEEP, f"hydra/launcher={launcher}", "seed=0,1")
    assert finished.code == 1
    assert f"pip install {packages}." in finished.err
    assert "Traceback" not in finished.err


@pytest.mark.slow
def test_a_corrupt_result_is_not_taken_for_a_finished_job(command, sweep):
    [job] = sweep.glob("*latent_dim-2*")
    before = metrics(job)
    (job / "result.json").write_text('{"status": "comp')
    assert command(*SWEEP, LATENTS).code == 0
    assert metrics(job) == before


@pytest.mark.slow
def test_a_job_that_another_process_runs_is_left_to_it(command, sweep):
    [job] = sweep.glob("*latent_dim-2*")
    (job / "result.json").unlink()
    with FileLock(job / ".lock"):
        finished = command(*SWEEP, LATENTS)
    assert finished.code == 0
    assert "Skipped: another process is training in" in finished.err
    assert {row["model.latent_dim"]: row["status"] for row in table(sweep)}["3"] == "completed"
    assert not (job / "result.json").exists()
