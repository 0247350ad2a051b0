"""Test scores of a sweep: `evaluate run=SWEEP`, and the tables that show them."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.readers import read_metrics, read_result
from tests.test_sync import Server
from tests.wandb_records import runs as wandb_runs
from vae_exp.cli.console import python_command
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_records import read_job

EVALUATOR = ("evaluator=[elbo,nll]", "evaluator.nll.num_importance_samples=5", "evaluator.elbo.num_samples=1")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A stand-in for `wandb sync`."""
    return Server(tmp_path / "server")


@pytest.fixture
def sweep(digits_run: Path, tmp_path: Path) -> Path:
    """Three jobs of two seeds at one width and one at another, each a copy of a trained run."""
    folder = tmp_path / "multirun" / "mine"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    for name, overrides in {
        "narrow_0": ["model.hidden_dims=[8]", "seed=0"],
        "narrow_1": ["model.hidden_dims=[8]", "seed=1"],
        "wide_0": ["model.hidden_dims=[9]", "seed=0"],
    }.items():
        shutil.copytree(digits_run, folder / name)
        (folder / name / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return folder


def test_all_jobs_are_scored_and_the_tables_show_it(command, sweep: Path):
    done = command("evaluate", "run=multirun/mine", *EVALUATOR)
    assert done.code == 0, done.err
    *_, job, table = done.out.splitlines()
    assert re.match(r"\[3/3\] wide_0: test/elbo -[\d.]+, test/nll [\d.]+, test/negative_elbo ", job)
    assert table == f"Table: {python_command()} -m vae_exp.sweep summary multirun/mine"
    assert "Written to" not in done.out
    scores = json.loads((sweep / "narrow_1" / "evaluation" / "test-best.json").read_text())
    summary = command("sweep", "summary", str(sweep), "--csv", str(sweep / "table.csv")).out
    assert f"{scores['metrics']['test/nll']:.3f} ± 0.000" in summary
    assert "test/nll" in (sweep / "table.csv").read_text().partition("\n")[0]
    best = command("sweep", "best", str(sweep))
    assert best.out.startswith("# val/elbo")
    assert not best.err
    by_test = command("sweep", "best", str(sweep), "--metric", "test/nll")
    assert by_test.out.startswith("# test/nll")
    assert "Chosen by test/nll: the best of many scores is optimistic" in by_test.err


@pytest.mark.slow
def test_several_in_one_command_leave_nothing_outside_the_run_directories(process, sweep: Path, tmp_path: Path):
    runs = f"run={sweep / 'narrow_0'},{sweep / 'wide_0'}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = set(tmp_path.rglob("*"))
    done = process("evaluate", "--multirun", runs, "evaluator=[elbo]", env={"TMPDIR": str(scratch)})
    assert done.code == 0, done.err
    created = set(tmp_path.rglob("*")) - before
    assert {path.relative_to(sweep).parts[:2] for path in created} == {
        ("narrow_0", "evaluation"), ("wide_0", "evaluation"),
    }  # fmt: skip


@pytest.mark.slow
def test_stored_scores_are_not_computed_again(command, sweep: Path):
    path = sweep / "wide_0" / "evaluation" / "test-best.json"
    command("evaluate", f"run={sweep / 'wide_0'}", *EVALUATOR)
    content = json.loads(path.read_text())
    assert "Scored before" in command("evaluate", f"run={sweep / 'wide_0'}", *EVALUATOR).out
    for changed in ("seed=1", "evaluator.nll.num_importance_samples=6", "force=true"):
        assert "Written to" in command("evaluate", f"run={sweep / 'wide_0'}", *EVALUATOR, changed).out
    command("evaluate", f"run={sweep / 'wide_0'}", *EVALUATOR, "force=true")
    assert json.loads(path.read_text()) == content
    content["checkpoint_hash"] = "of another checkpoint"
    path.write_text(json.dumps(content))
    assert "Written to" in command("evaluate", f"run={sweep / 'wide_0'}", *EVALUATOR).out


@pytest.mark.slow
def test_scores_reach_the_runs_own_wandb_run(command, tmp_path: Path, server, monkeypatch: pytest.MonkeyPatch):
    words = ("data=digits", "trainer.epochs=1", "tracker.project=mine", "evaluator=[elbo]", "hydra.run.dir=run")
    assert command("train", *words).code == 0
    run_id = json.loads((tmp_path / "run" / "wandb.json").read_text())["run_id"]
    assert f"the W&B run {run_id}, offline: " in command("evaluate", "run=run", *EVALUATOR).out
    assert "W&B" not in command("evaluate", "run=run", *EVALUATOR).out
    assert "W&B" in command("evaluate", "run=run", *EVALUATOR, "split=val").out
    assert "W&B" not in command("evaluate", "run=run", *EVALUATOR, "checkpoint=last").out
    training, test, val = wandb_runs(tmp_path)
    assert {record.WhichOneof("record_type") for record in test} == {"header", "run", "metric", "summary", "exit"}
    before, with_test, with_val = (_summary(records) for records in (training, test, val))
    scores = json.loads((tmp_path / "run" / "evaluation" / "test-best.json").read_text())
    assert with_test == before | scores["metrics"] | {"test/epoch": 1}
    assert with_val["val/nll"] == read_scores(tmp_path / "run", "val")["val/nll"]
    assert {name: with_val[name] for name in with_test} == with_test
    monkeypatch.setattr(sys, "executable", str(server.folder / "python"))  # its `wandb` is the stand-in
    assert "3 segments" in command("sync", "run").out
    assert [resume for _, resume in server.calls()] == [None, "allow", "allow"]


@pytest.mark.slow
def test_a_failure_of_wandb_costs_no_scores(command, tmp_path: Path):
    words = ("data=digits", "trainer.epochs=1", "evaluator=[]", "hydra.run.dir=run")
    assert command("train", *words).code == 0
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    file.write_bytes(b"nothing of the kind")
    done = command("evaluate", "run=run", "evaluator=[elbo]")
    assert (done.code, "Written to" in done.out) == (0, True)
    assert "The W&B run of run does not have the scores: " in done.err
    assert "test/elbo" in read_scores(tmp_path / "run", "test")


def _summary(records: list[Any]) -> dict[str, Any]:
    """The summary that the records of a segment add up to."""
    items = [item for record in records for item in record.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_scores(run: Path, split: str) -> dict[str, float]:
    return json.loads((run / "evaluation" / f"{split}-best.json").read_text())["metrics"]


@pytest.mark.slow
def test_scores_of_other_data_are_computed(command, tmp_path: Path):
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        images = generator.integers(256, size=(40, 8, 8)).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, test_images=images)
    words = ("data=arrays", "data.path=one.npz", "trainer.epochs=1", "trainer.batch_size=10", "tracker=none")
    assert command("train", *words, "evaluator=[]", "hydra.run.dir=run").code == 0
    assert "Written to" in command("evaluate", "run=run", "evaluator=[elbo]").out
    assert "Scored before" in command("evaluate", "run=run", "evaluator=[elbo]").out
    (tmp_path / "one.npz").rename(tmp_path / "away.npz")
    done = command("evaluate", "run=run", "evaluator=[elbo]")
    assert "Scored before" in done.out
    assert "Whether the data are the same was not checked: " in done.out
    for refused in (["force=true"], ["data.path=one.npz"], ["evaluator=[nll]"]):
        assert command("evaluate", "run=run", "evaluator=[elbo]", *refused).code == 1
    (tmp_path / "away.npz").rename(tmp_path / "one.npz")
    done = command("evaluate", "run=run", "evaluator=[elbo]", "data.path=two.npz")
    assert "test-best.json in place of the scores of elbo, which had other data" in done.out
    assert "Written to" in command("evaluate", "run=run", "evaluator=[elbo]").out
    shutil.copy(tmp_path / "two.npz", tmp_path / "one.npz")
    assert "Written to" in command("evaluate", "run=run", "evaluator=[elbo]").out


def test_a_job_that_fails_or_has_no_checkpoint_is_named_and_the_others_are_scored(command, sweep: Path):
    (sweep / "narrow_0" / "checkpoints" / "best.pt").write_bytes(b"nothing")
    shutil.rmtree(sweep / "narrow_1" / "checkpoints")
    done = command("evaluate", "run=[multirun/mine]", *EVALUATOR)
    assert done.code == 1
    assert "2 of 3 runs could not be scored: narrow_0, narrow_1" in done.err
    assert "narrow_1 has no checkpoint" in done.err
    scored = {path.parents[1].name for path in sweep.glob("*/evaluation/test-best.json")}
    assert scored == {"wide_0"}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["null", "[1,2]", "[]", "5"])
def test_what_names_no_run_is_refused(command, name: str):
    refused = command("evaluate", f"run={name}")
    assert refused.code == 1
    assert refused.err.startswith("Error: run=")
    assert "a run directory, a sweep, or a list of them" in refused.err


def test_scores_of_an_earlier_best_epoch_are_left_out(command, sweep: Path):
    run = RunDirectory(sweep / "wide_0")
    command("evaluate", f"run={run.path}", *EVALUATOR)
    assert "test/nll" in read_job(run).metrics
    result = json.loads(run.result.read_text())
    result["best"]["epoch"] += 1
    run.result.write_text(json.dumps(result))
    assert "test/nll" not in read_job(run).metrics


def test_a_sweep_without_a_checkpoint_is_refused(command, sweep: Path):
    for folder in sweep.glob("*/checkpoints"):
        shutil.rmtree(folder)
    refused = command("evaluate", "run=multirun/mine")
    assert "run=multirun/mine is a sweep of 3 jobs, none of which has a checkpoint yet" in refused.err


def test_jobs_are_ranked_by_their_best_epoch_unless_asked(command, sweep: Path):
    for name, best, last in (("narrow_0", -20.0, -30.0), ("wide_0", -25.0, -22.0)):
        path = sweep / name / "result.json"
        result = json.loads(path.read_text())
        result["metrics"] |= {"val/elbo": last, "best/val/elbo": best, "best/epoch": 1}
        path.write_text(json.dumps(result))
    (sweep / "narrow_1" / "result.json").unlink()
    assert command("sweep", "best", str(sweep)).out.startswith("# val/elbo -20.0000")
    assert command("sweep", "best", str(sweep), "--by", "last").out.startswith("# val/elbo -22.0000")


@pytest.mark.slow
def test_a_run_keeps_the_metrics_of_its_best_epoch(command, tmp_path: Path):
    words = (
        "data=digits",
        "optimizer.lr=0.1",
        "trainer.epochs=5",
        "tracker=none",
        "evaluator=[elbo]",
        "hydra.run.dir=run",
    )
    shown = command("train", *words).out
    assert "best/val/negative_elbo" in shown
    assert "best/val/loss" not in shown
    metrics = read_result(tmp_path / "run")["metrics"]
    rows = {row["epoch"]: row for row in read_metrics(tmp_path / "run") if "val/loss" in row}
    best = min(rows.values(), key=lambda row: row["val/loss"])
    assert metrics["best/epoch"] == best["epoch"]
    for name in ("loss", "elbo", "rate", "distortion"):
        assert metrics[f"best/val/{name}"] == best[f"val/{name}"]
        assert metrics[f"val/{name}"] == rows[5][f"val/{name}"]
    assert best["epoch"] < 5
    assert command("evaluate", "run=run", "split=val", "evaluator=[elbo]").code == 0
    scores = read_scores(tmp_path / "run", "val")
    assert metrics["best/val/negative_elbo"] == scores["val/negative_elbo"]
