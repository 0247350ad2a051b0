from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.stored_config import load_stored_config, with_overrides
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory

CONFIG = "seed: 1\ndata:\n  name: digits\n  size: ${seed}\nmodel:\n  latent_dim: 2\n"


@pytest.fixture
def place(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.config.parent.mkdir(parents=True)
    made.config.write_text(CONFIG)
    made.hydra_config.write_text("hydra: {}\n")
    return made


def _refused(place: RunDirectory, key: str = "run") -> str:
    with pytest.raises(UserError) as caught:
        load_stored_config(place, key)
    return str(caught.value)


def test_a_config_is_read_with_its_interpolations_as_they_are(place: RunDirectory):
    stored = load_stored_config(place)
    assert OmegaConf.to_container(stored, resolve=False)["data"]["size"] == "${seed}"
    assert stored.data.size == 1


@pytest.mark.parametrize("key", ["run", "resume"])
def test_a_missing_directory_is_told_by_the_key_that_named_it(tmp_path: Path, key: str):
    place = RunDirectory(tmp_path / "nowhere")
    assert _refused(place, key) == f"{key}={place.path} is not a directory."


def test_a_directory_without_a_config_holds_no_run(place: RunDirectory):
    place.config.unlink()
    assert _refused(place, "resume") == f"resume={place.path} holds no run: {place.config} is missing."


@pytest.mark.parametrize("content", ["a: [1", "a: ${b", "- 1\n- 2\n", "just words", "model: {}", "data: 3", ""])
def test_what_is_not_a_config_of_a_run_is_refused(place: RunDirectory, content: str):
    place.config.write_text(content)
    assert str(place.config) in _refused(place)


@pytest.mark.parametrize("name", ["config", "hydra_config"])
def test_more_than_plain_values_is_refused(place: RunDirectory, name: str, tmp_path: Path):
    mark = tmp_path / "mark"
    path = getattr(place, name)
    path.write_text(f"{CONFIG}evil: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    assert str(path) in _refused(place)
    assert not mark.exists()


def test_resolvers_are_refused(place: RunDirectory):
    place.config.write_text(CONFIG + "when: ${now:%Y}\n")
    assert f"{place.config} has when=" in _refused(place)


def test_an_environment_variable_may_be_named(place: RunDirectory):
    place.config.write_text(CONFIG + "home: ${oc.env:HOME}\n")
    assert "home" in load_stored_config(place)


# What may differ the next time


def _stored() -> DictConfig:
    made = OmegaConf.create(CONFIG)
    OmegaConf.set_struct(made, True)
    return made


def test_values_are_changed_in_a_copy():
    stored = _stored()
    config = with_overrides(stored, {"model.latent_dim": 8, "seed": 5})
    assert (config.model.latent_dim, config.seed, config.data.size) == (8, 5, 5)
    assert (stored.model.latent_dim, stored.seed) == (2, 1)
    assert config.data.name == "digits"


def test_nothing_changed_is_the_same_config():
    assert with_overrides(_stored(), {}) == _stored()


def test_a_key_that_was_not_there_is_added():
    assert with_overrides(_stored(), {"trainer.execution": "eager"}).trainer.execution == "eager"


def test_a_mapping_takes_the_place_of_the_old_one():
    config = with_overrides(_stored(), {"data": {"path": "elsewhere"}})
    assert config.data == {"path": "elsewhere"}


def test_none_is_a_value():
    assert with_overrides(_stored(), {"model.latent_dim": None}).model.latent_dim is None


def test_a_loss_of_an_earlier_version_means_what_it_was_trained_with(place: RunDirectory):
    place.config.write_text("data: {}\nloss: {_target_: vae_exp.objective.vq.VQ, commitment: 0.5}\n")
    assert load_stored_config(place).loss == {
        "_target_": "vae_exp.objective.vq.VQ",
        "commitment": 0.5,
        "position_reduction": "sum",
    }
    place.config.write_text("data: {}\nloss: {_target_: vae_exp.objective.vq.VQ, position_reduction: mean}\n")
    assert load_stored_config(place).loss.position_reduction == "mean"
