import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.resolvers import config_hash
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.job_records import read_jobs
from vae_exp.sweep.manifest import add_command, read_manifest
from vae_exp.sweep.run_job import JobAction, decide_action, reusable_wandb_run_id, save_overrides


def _config(**sweep: object) -> DictConfig:
    return OmegaConf.create({"seed": 0, "sweep": {"rerun": False, "started_at": "then", **sweep}})


def _job(folder: Path, status: str | None, *, checkpoint: bool = False, started: str = "before") -> RunDirectory:
    directory = RunDirectory(folder / f"seed-0_{config_hash(_config())}")
    directory.config.parent.mkdir(parents=True)
    directory.config.write_text(OmegaConf.to_yaml(_config(started_at=started)))
    if status is not None:
        directory.result.write_text(json.dumps({"status": status}))
    if checkpoint:
        directory.checkpoint("last").parent.mkdir()
        directory.checkpoint("last").write_bytes(b"")
    return directory


@pytest.mark.parametrize(
    ("status", "checkpoint", "attempt"),
    [
        ("completed", True, JobAction.SKIP),
        ("completed", False, JobAction.SKIP),
        ("pruned", True, JobAction.SKIP),
        ("failed", True, JobAction.RESTART),
        ("diverged", True, JobAction.RESTART),
        ("interrupted", True, JobAction.RESUME),
        ("interrupted", False, JobAction.RESTART),
        ("killed", True, JobAction.RESUME),
        (None, True, JobAction.RESUME),
        (None, False, JobAction.RESTART),
        ("nonsense", True, JobAction.RESUME),
    ],
)
def test_what_is_done_about_a_job(tmp_path: Path, status: str | None, checkpoint: bool, attempt: JobAction):
    assert decide_action(_job(tmp_path, status, checkpoint=checkpoint), _config()) is attempt


def test_a_job_whose_result_is_corrupt_goes_on_from_its_checkpoint(tmp_path: Path):
    directory = _job(tmp_path, None, checkpoint=True)
    directory.result.write_text('{"status": "comp')
    assert decide_action(directory, _config()) is JobAction.RESUME


def test_an_empty_directory_is_begun(tmp_path: Path):
    assert decide_action(RunDirectory(tmp_path / "new"), _config()) is JobAction.RESTART


def test_force_begins_anew_what_this_very_sweep_has_not_begun(tmp_path: Path):
    directory = _job(tmp_path, "completed", started="before")
    assert decide_action(directory, _config(rerun=True)) is JobAction.RESTART
    assert decide_action(directory, _config(rerun=True, started_at="before")) is JobAction.SKIP
    directory.config.write_text(directory.config.read_text().replace("started_at:", "started:"))  # as it was
    assert decide_action(directory, _config(rerun=True, started_at="before")) is JobAction.SKIP


def test_a_directory_with_the_run_of_another_config_is_left_alone(tmp_path: Path):
    directory = _job(tmp_path, "completed")
    moved = RunDirectory(directory.path.rename(tmp_path / "x"))
    assert decide_action(moved, _config()) is JobAction.SKIP
    with pytest.raises(UserError, match=r"another config; let hydra\.sweep\.subdir differ"):
        decide_action(moved, OmegaConf.merge(_config(), {"seed": 1}))


def test_the_words_that_a_job_was_asked_for_with_last_are_kept(tmp_path: Path):
    directory = _job(tmp_path, "completed")
    save_overrides(directory, ["seed=0", "a='b: c'"])
    first = directory.overrides.stat().st_mtime_ns
    assert OmegaConf.to_container(OmegaConf.load(directory.overrides)) == ["seed=0", "a='b: c'"]
    save_overrides(directory, ["seed=0", "a='b: c'"])
    assert directory.overrides.stat().st_mtime_ns == first


def test_a_finished_job_that_is_written_otherwise_is_one_job_of_the_sweep(tmp_path: Path):
    directory = _job(tmp_path, "completed")
    save_overrides(directory, ["m=2"])
    for words in (["m=2"], ["m=2", "seed=0"]):
        add_command(tmp_path, words, tmp_path, [words])
    save_overrides(directory, ["m=2", "seed=0"])
    assert [(job.status, job.overrides) for job in read_jobs(tmp_path)] == [("completed", ("m=2", "seed=0"))]
    assert read_manifest(tmp_path).jobs == [["m=2", "seed=0"]]


@pytest.mark.parametrize(
    ("result", "metrics", "run_id"),
    [
        ({"status": "interrupted", "wandb": {"run_id": "abc"}}, None, "abc"),
        ({"status": "interrupted", "wandb": {"run_id": "abc"}}, "", "abc"),
        ({"status": "interrupted", "wandb": {"run_id": "abc"}}, "{}\n", None),
        ({"status": "failed", "wandb": {"run_id": "abc"}}, None, None),
        ({"status": "interrupted", "wandb": None}, None, None),
        (None, None, None),
    ],
)
def test_an_attempt_without_an_epoch_leaves_its_w_and_b_run_to_the_next(
    tmp_path: Path, result: object, metrics: str | None, run_id: str | None
):
    directory = _job(tmp_path, None)
    if result is not None:
        directory.result.write_text(json.dumps(result))
    if metrics is not None:
        directory.metrics.write_text(metrics)
    assert reusable_wandb_run_id(directory) == run_id
