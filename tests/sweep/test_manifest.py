import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_exp.errors import UserError
from vae_exp.sweep.manifest import (
    FILE,
    add_command,
    check_swept_keys,
    job_key,
    planned_jobs,
    read_manifest,
    remove_job,
    swept_keys,
)

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def _config(target: str = BASIC, **params: str) -> DictConfig:
    return OmegaConf.create({"hydra": {"sweeper": {"_target_": target, "params": params or None}}})


@pytest.mark.parametrize(
    ("params", "overrides", "jobs"),
    [
        (
            {},
            ["seed=0,1", "data=digits", "model.latent_dim=range(2,6,2)"],
            [[f"seed={seed}", "data=digits", f"model.latent_dim={dim}"] for seed in (0, 1) for dim in (2, 4)],
        ),
        ({"seed": "0,1"}, ["seed=7"], [["seed=7"]]),
        ({"seed": "0,1"}, [], [["seed=0"], ["seed=1"]]),
    ],
)
def test_jobs_are_the_product_of_what_is_swept(
    params: dict[str, str], overrides: list[str], jobs: list[list[str]]
):
    """The command line wins over the params of an experiment; another sweeper decides for itself."""
    assert planned_jobs(_config(**params), overrides) == jobs
    assert planned_jobs(_config("somebody.Sweeper", **params), overrides) is None


def test_a_sweep_without_jobs_is_refused_with_the_key_that_is_empty():
    with pytest.raises(UserError, match=r"seed=range\(0,0\) has no values"):
        planned_jobs(_config(), ["data=digits", "seed=range(0,0)"])


@pytest.mark.parametrize(
    "word",
    [
        "sweep.name=a,b",
        "data.root=/a,/b",
        "tracker=none,offline",
        "checkpoint.every_n_epochs=1,2",
        "sweep.name=${seed}",
    ],
)
def test_several_values_for_what_tells_no_jobs_apart_are_refused(word: str):
    with pytest.raises(UserError, match=r"one value|plain name"):
        check_swept_keys(["seed=0,1", word])


def test_several_values_for_what_tells_jobs_apart_are_not_refused():
    check_swept_keys(
        ["seed=0,1", "data=digits,mnist", "sweep.name=a", "data.root=/a", "model.hidden_dims=[1,2],[3]"]
    )


def test_commands_and_jobs_are_added_and_none_is_told_twice(tmp_path: Path):
    sweep = tmp_path / "deep" / "mine"
    add_command(sweep, ["--multirun", "seed=0,1"], tmp_path, [["seed=0"], ["seed=1"]])
    add_command(sweep, ["--multirun", "seed=0,1,2"], tmp_path, [["seed=0"], ["seed=1"], ["seed=2"]])
    add_command(sweep, ["--multirun", "seed=0,1"], tmp_path, [["seed=0"], ["seed=1"]])
    manifest = read_manifest(sweep)
    assert manifest.jobs == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert [entry["words"][1] for entry in manifest.commands] == ["seed=0,1", "seed=0,1,2"]
    assert {entry["folder"] for entry in manifest.commands} == {str(tmp_path)}


def test_a_job_that_is_written_otherwise_now_is_removed(tmp_path: Path):
    remove_job(tmp_path, ["seed=0"])
    assert not (tmp_path / FILE).exists()
    add_command(tmp_path, ["a"], tmp_path, [["seed=0"], ["seed=1"]])
    remove_job(tmp_path, ["sweep.name=x", "seed=0"])
    assert read_manifest(tmp_path).jobs == [["seed=1"]]
    assert len(read_manifest(tmp_path).commands) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"commands": 1, "jobs": [2]}', "\x00"])
def test_a_manifest_that_cannot_be_read_is_kept_beside_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
):
    (tmp_path / FILE).write_text(text)
    assert read_manifest(tmp_path).jobs == []
    add_command(tmp_path, ["a"], tmp_path, [["seed=0"]])
    assert json.loads((tmp_path / FILE).read_text())["jobs"] == [["seed=0"]]
    assert (tmp_path / f"{FILE}.unreadable").read_text() == text
    assert "could not be read" in caplog.text


def test_a_command_with_other_words_for_its_place_is_the_same(tmp_path: Path):
    for words in (["seed=0", "sweep.name=a"], ["seed=0", "sweep.name=b", "hydra.sweep.dir=c"], ["seed=0"]):
        add_command(tmp_path, words, tmp_path, [["seed=0"]])
    assert len(read_manifest(tmp_path).commands) == 1


def test_jobs_in_other_words_of_the_same_meaning_have_one_key():
    assert job_key(["seed=0", "a=1", "sweep.name=x"]) == job_key(["a=1", "tracker.mode=none", "seed=0"])
    assert job_key(["seed=0"]) != job_key(["seed=1"])


def test_the_swept_keys_of_a_job_are_those_in_which_others_differ(tmp_path: Path):
    own = ["data=digits", "seed=1", "+loss.beta=4", "sweep.name=x"]
    assert swept_keys(tmp_path, own) == {"data": "digits", "seed": "1", "loss.beta": "4"}
    add_command(tmp_path, [], tmp_path, [own, ["data=digits", "seed=0", "+loss.beta=4"]])
    assert swept_keys(tmp_path, own) == {"seed": "1"}


def test_a_command_with_an_old_key_is_the_same_command(tmp_path: Path):
    content = {
        "commands": [{"words": ["--multirun", "trainer.gradient_clip=1,2"], "folder": "/here"}],
        "jobs": [["trainer.gradient_clip=1"], ["trainer.gradient_clip=2"]],
    }
    (tmp_path / FILE).write_text(json.dumps(content))
    jobs = [["trainer.max_grad_norm=1"], ["trainer.max_grad_norm=2"]]
    add_command(tmp_path, ["--multirun", "trainer.max_grad_norm=1,2"], Path("/here"), jobs)
    manifest = read_manifest(tmp_path)
    assert manifest.jobs == jobs
    assert len(manifest.commands) == 1
