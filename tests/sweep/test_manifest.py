import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.resolvers import config_hash
from vae_exp.errors import UserError
from vae_exp.sweep.manifest import (
    FILE,
    add_command,
    check_swept_keys,
    job_key,
    job_name,
    planned_jobs,
    read_manifest,
    register_job_name,
    remove_job,
    searched_keys,
    swept_values,
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


def test_a_command_that_is_given_again_elsewhere_is_one_of_the_new_folder(tmp_path: Path):
    for folder in ("old", "new"):
        add_command(tmp_path, ["seed=0"], tmp_path / folder, [["seed=0"]])
    assert read_manifest(tmp_path).commands == [{"words": ["seed=0"], "folder": str(tmp_path / "new")}]


def test_jobs_in_other_words_of_the_same_meaning_have_one_key():
    assert job_key(["seed=0", "a=1", "sweep.name=x"]) == job_key(["a=1", "tracker.mode=none", "seed=0"])
    assert job_key(["seed=0"]) != job_key(["seed=1"])


def test_the_swept_values_of_a_job_are_those_in_which_others_differ(tmp_path: Path):
    own = ["data=digits", "seed=1", "+loss.beta=4", "sweep.name=x"]
    assert swept_values(tmp_path, own) == {}
    add_command(tmp_path, [], tmp_path, [own, ["data=digits", "seed=0", "+loss.beta=4"]])
    assert swept_values(tmp_path, own) == {"seed": "1"}


def test_a_job_that_has_a_directory_keeps_it_in_whatever_words_it_is_asked_for(tmp_path: Path):
    (tmp_path / "latent_dim-2_0123abcd").mkdir()
    (tmp_path / "other_4567abcd").mkdir()
    assert job_name(tmp_path, ["seed=0", "model.latent_dim=2"], "0123abcd") == "latent_dim-2_0123abcd"
    assert job_name(tmp_path, ["seed=0"], "89abcdef") == "seed-0_89abcdef"
    (tmp_path / "hidden_dims-16_fedc3210").mkdir()  # as it was once called
    assert job_name(tmp_path, ["model.decoder.hidden_dims=[16]"], "fedc3210") == "hidden_dims-16_fedc3210"


def test_a_new_directory_is_named_by_what_the_record_of_the_sweep_says_is_swept(tmp_path: Path):
    own = ["data=digits", "model.latent_dim=2", "seed=0"]
    jobs = [own, [*own[:2], "seed=1"]]
    assert job_name(tmp_path, own, "0123abcd") == "data-digits_latent_dim-2_seed-0_0123abcd"
    add_command(tmp_path, ["seed=0,1"], tmp_path, jobs)
    assert job_name(tmp_path, own, "0123abcd") == "seed-0_0123abcd"
    (tmp_path / "seed-0_0123abcd").mkdir()
    more = ["data=mnist", *own[1:]]
    add_command(tmp_path, ["data=digits,mnist", "seed=0,1"], tmp_path, [*jobs, more])
    assert job_name(tmp_path, more, "89abcdef") == "data-mnist_seed-0_89abcdef"
    assert job_name(tmp_path, own, "0123abcd") == "seed-0_0123abcd"


def test_the_trials_of_a_search_are_named_by_its_space(tmp_path: Path):
    """`params` of an experiment and the command line, whose single value takes a key out of the space."""
    params = {"+loss.beta": "choice(1,4)", "seed": "0,1", "trainer.epochs": "3"}
    config = _config("somebody.Sweeper", **params)
    searched = searched_keys(config, ["data=digits", "seed=7", "model.latent_dim=int(interval(2,8))"])
    assert searched == ["loss.beta", "model.latent_dim"]
    add_command(tmp_path, ["a"], tmp_path, [], searched)
    trial = ["data=digits", "seed=7", "+loss.beta=1", "model.latent_dim=3", "sweep.trial={number:0}"]
    assert job_name(tmp_path, trial, "0123abcd") == "beta-1_latent_dim-3_0123abcd"
    assert swept_values(tmp_path, trial) == {"loss.beta": "1", "model.latent_dim": "3"}


def test_the_name_of_a_job_is_known_to_interpolations(tmp_path: Path):
    register_job_name()
    hydra = {
        "overrides": {"task": ["+seed=1", "a.b=[1,2]"]},
        "sweep": {"dir": str(tmp_path), "subdir": "${vae_exp.job_name:}"},
    }
    config = OmegaConf.create({"seed": 1, "a": {"b": [1, 2]}, "hydra": hydra})
    assert config.hydra.sweep.subdir == f"seed-1_b-1-2_{config_hash(config)}"


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
