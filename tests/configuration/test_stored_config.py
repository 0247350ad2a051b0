import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vae_exp.configuration.stored_config import load_stored_config, with_overrides
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

CONFIG = "seed: 1\ndata:\n  name: digits\n  size: ${seed}\nmodel:\n  latent_dim: 2\n"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.config.parent.mkdir(parents=True)
    made.config.write_text(CONFIG)
    made.hydra_config.write_text("hydra: {}\n")
    return made


def _refused(run_dir: RunDirectory, key: str = "run") -> str:
    with pytest.raises(UserError) as caught:
        load_stored_config(run_dir, key)
    return str(caught.value)


def test_a_config_is_read_with_its_interpolations_as_they_are(run_dir: RunDirectory):
    stored = load_stored_config(run_dir)
    assert OmegaConf.to_container(stored, resolve=False)["data"]["size"] == "${seed}"
    assert stored.data.size == 1


@pytest.mark.parametrize("key", ["run", "resume"])
def test_a_missing_directory_is_told_by_the_key_that_named_it(tmp_path: Path, key: str):
    run_dir = RunDirectory(tmp_path / "nowhere")
    assert _refused(run_dir, key) == f"{key}={run_dir.path} is not a directory."


def test_a_directory_without_a_config_holds_no_run(run_dir: RunDirectory):
    run_dir.config.unlink()
    assert _refused(run_dir, "resume") == f"resume={run_dir.path} holds no run: {run_dir.config} is missing."


@pytest.mark.parametrize("content", ["a: [1", "a: ${b", "- 1\n- 2\n", "just words", "model: {}", "data: 3", ""])
def test_what_is_not_a_config_of_a_run_is_refused(run_dir: RunDirectory, content: str):
    run_dir.config.write_text(content)
    assert str(run_dir.config) in _refused(run_dir)


@pytest.mark.parametrize("name", ["config", "hydra_config"])
@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "[&a [1], *a]", "{'()': os.system}"])
def test_more_than_plain_values_is_refused(run_dir: RunDirectory, name: str, text: str):
    path = getattr(run_dir, name)
    path.write_text(f"{CONFIG}evil: {text}\n")
    assert str(path) in _refused(run_dir)


def test_resolvers_are_refused_but_for_environment_variables(run_dir: RunDirectory):
    run_dir.config.write_text(CONFIG + "when: ${now:%Y}\n")
    assert f"{run_dir.config} has when=" in _refused(run_dir)
    run_dir.config.write_text(CONFIG + "home: ${oc.env:HOME}/data\n")
    assert load_stored_config(run_dir).home == f"{os.environ['HOME']}/data"


# What may differ the next time


def test_values_are_changed_in_a_copy():
    stored = OmegaConf.create(CONFIG)
    OmegaConf.set_struct(stored, True)
    changes = {"model.latent_dim": None, "seed": 5, "trainer.execution": "eager", "data": {"path": "x"}}
    config = with_overrides(stored, changes)
    assert (config.model.latent_dim, config.seed, config.trainer.execution) == (None, 5, "eager")
    assert config.data == {"path": "x"}  # in place of the old mapping
    assert (stored.model.latent_dim, stored.seed, stored.data.size) == (2, 1, 1)
    assert with_overrides(stored, {}) == stored


def test_a_loss_of_an_earlier_version_means_what_it_was_trained_with(run_dir: RunDirectory):
    run_dir.config.write_text("data: {}\nloss: {_target_: vae_exp.objective.vq.VQ, commitment: 0.5}\n")
    assert load_stored_config(run_dir).loss == {
        "_target_": "vae_exp.objective.vq.VQ",
        "commitment": 0.5,
        "position_reduction": "sum",
    }
    run_dir.config.write_text("data: {}\nloss: {_target_: vae_exp.objective.vq.VQ, position_reduction: mean}\n")
    assert load_stored_config(run_dir).loss.position_reduction == "mean"
