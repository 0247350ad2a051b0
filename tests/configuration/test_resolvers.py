import re
from copy import deepcopy
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from vae_exp.configuration.resolvers import config_hash, register_resolvers

PLAIN: dict[str, Any] = {
    "seed": 0,
    "model": {
        "latent_dim": 2,
        "hidden_dims": [400, 200],
        "encoder": {"_target_": "a.B", "wide": "${model.latent_dim}"},
    },
    "loss": {"beta": 1.0},
    "trainer": {"epochs": 50},
    "tracker": {"mode": "offline"},
    "sweep": {"name": None},
    "hydra": {"overrides": {"task": ["model.latent_dim=2", "+model.hidden_dims=[400,200]"]}},
}


def _config(**changes: Any) -> DictConfig:
    """The config with some keys changed, given as `model__latent_dim=8`."""
    config = OmegaConf.create(deepcopy(PLAIN))
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, merge=False)
    return config


def test_the_hash_is_eight_hexadecimal_digits():
    assert re.fullmatch(r"[0-9a-f]{8}", config_hash(_config()))


def test_the_hash_of_a_config_is_the_same_in_every_version_and_process():
    """printf '{"model": {"latent_dim": 2}, "seed": 0}' | sha256sum; directories of finished jobs carry it."""
    assert config_hash(OmegaConf.create({"seed": 0, "model": {"latent_dim": 2}})) == "4b7b1955"


SAME = (
    {"tracker__mode": "online"},
    {"tracker": {}},
    {"sweep__name": "mine"},
    {"hydra": {"job": {"name": "x"}}},
    {"trainer__max_train_images": None},
    {"trainer__steps_per_graph": 20},
    {"data": {"root": "/there", "path": "a"}},
    {"model__encoder__wide": 2},  # an interpolation counts as the value that it stands for
)


@pytest.mark.parametrize("changes", SAME, ids=str)
def test_what_does_not_change_the_result_does_not_change_the_hash(changes: dict[str, Any]):
    data = {"data": {"root": "/here", "path": "a"}} if "data" in changes else {}
    assert config_hash(_config(**changes)) == config_hash(_config(**data))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"seed": None},
        {"model__latent_dim": 3},
        {"model__hidden_dims": [400, 201]},
        {"model__hidden_dims": [200, 400]},
        {"model__hidden_dims": []},
        {"model__encoder___target_": "a.C"},
        {"model__more": 1},
        {"loss__beta": 1.0000001},
        {"trainer__max_train_images": 1000},
        {"data": {"path": "b"}},
    ],
    ids=str,
)
def test_any_other_key_changes_the_hash(changes: dict[str, Any]):
    assert config_hash(_config(**changes)) != config_hash(_config())


def test_the_order_of_the_keys_does_not_change_the_hash():
    def reverse(node: Any) -> Any:
        return {key: reverse(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    assert list(reverse(PLAIN)) != list(PLAIN)
    assert config_hash(OmegaConf.create(reverse(PLAIN))) == config_hash(_config())


def test_hash_and_names_are_known_to_interpolations():
    register_resolvers()
    directories = {
        "dir": "nowhere",
        "run": "outputs/${vae_exp.config_hash:}",
        "name": "${vae_exp.sweep_name:now}",
    }
    config, digits = _config(hydra__sweep=directories), config_hash(_config())
    assert config.hydra.sweep.run == f"outputs/{digits}"
    assert config.hydra.sweep.name == "now"
    assert _config(sweep__name="mine", hydra__sweep=directories).hydra.sweep.name == "mine"


def test_keys_that_the_encoder_of_codes_has_got_do_not_change_jobs_that_were_trained_without():
    old = {"_target_": "vae_exp.model.vq.VQEncoder", "residual_blocks": 0}
    new = {"codebook_init": "uniform", "codebook_decay": None, "restart_below": None}

    def of(**encoder: object) -> str:
        return config_hash(_config(model={"num_codes": 8, "encoder": encoder}))

    assert of(**old, **new) == of(**old)
    for key, value in {"codebook_init": "data", "codebook_decay": 0.99, "restart_below": 0.1}.items():
        assert of(**old, **new | {key: value}) != of(**old)


@pytest.mark.parametrize(
    ("target", "key", "before", "other"),
    [
        ("vae_exp.objective.vq.VQ", "position_reduction", "sum", "mean"),
        ("vae_exp.objective.beta_vae.CapacityVAE", "over", "image", "batch"),
    ],
)
def test_a_key_that_a_loss_has_got_does_not_change_jobs_that_were_trained_without(target, key, before, other):
    old = {"_target_": target, "reduction": "sum"}
    assert config_hash(_config(loss={**old, key: before})) == config_hash(_config(loss=old))
    assert config_hash(_config(loss={**old, key: other})) != config_hash(_config(loss=old))
