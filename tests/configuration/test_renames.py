from inspect import Parameter, signature
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from vae_exp.configuration.renames import (
    RENAMED_TARGETS,
    rename_override,
    with_current_names,
    with_first_names,
)
from vae_exp.configuration.resolvers import config_hash
from vae_exp.configuration.stored_config import load_stored_config
from vae_exp.storage.run_directory import RunDirectory


def config_with(target: str) -> dict[str, object]:
    return {"data": {"source": {"_target_": target}}, "model": {"parts": [{"_target_": target}]}}


@pytest.mark.parametrize("old", RENAMED_TARGETS)
def test_a_stored_config_with_an_old_target_names_the_class_of_today(old: str, tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.config.parent.mkdir()
    directory.config.write_text(OmegaConf.to_yaml(OmegaConf.create(config_with(old))))
    stored = OmegaConf.to_container(load_stored_config(directory))
    assert stored == config_with(RENAMED_TARGETS[old])
    assert isinstance(get_class(RENAMED_TARGETS[old]), type)


@pytest.mark.parametrize("old", RENAMED_TARGETS)
def test_a_rename_leaves_the_hash_of_a_job_as_it_was(old: str):
    hashes = {config_hash(OmegaConf.create(config_with(name))) for name in (old, RENAMED_TARGETS[old])}
    assert len(hashes) == 1


OLD = {
    "checkpoint": {"every": {"epochs": 1, "seconds": None}},
    "evaluator": {
        "figures": {"_target_": "vae_exp.evaluation.figures.FiguresEvaluator", "every": 0},
        "elbo": {"_target_": "vae_exp.evaluation.elbo.ELBOEvaluator", "every": 3},
        "mine": {"_target_": "mine.Evaluator", "every": 0},
    },
    "loss": {
        "_target_": "vae_exp.objective.beta_vae.Capacity",
        "capacity": {"_target_": "vae_exp.objective.schedules.Linear", "over": 3},
        "gamma": {"_target_": "mine.Schedule", "over": 3},
        "over": "batch",
        "reduction": "mean",
    },
    "model": {
        "_target_": "mine.VAE",
        "codes": 8,
        "encoder": {"_target_": "vae_exp.model.vq.VQEncoder", "codes": "${model.codes}"},
        "decoder": {"_target_": "mine.Decoder", "codes": "${model.codes}"},
        "initialization": "torch",
        "output_bias": "data_mean",
        "likelihood": {
            "_target_": "vae_exp.model.gaussian_likelihoods.PerPixelGaussianLikelihood",
            "bounded": True,
            "least_sigma": 0.01,
        },
        "prior": {"_target_": "vae_exp.model.priors.GaussianMixturePrior", "spread": 1.0},
    },
    "trainer": {"step": "auto", "distributed": "none", "gradient_clip": 5.0, "collapse_monitor": True},
    "trust": ["mine"],
}
CURRENT = {
    "checkpoint": {"every_n_epochs": 1, "every_n_seconds": None},
    "evaluator": {
        "figures": {"_target_": "vae_exp.evaluation.figures.FiguresEvaluator", "every_n_epochs": None},
        "elbo": {"_target_": "vae_exp.evaluation.elbo.ELBOEvaluator", "every_n_epochs": 3},
        "mine": {"_target_": "mine.Evaluator", "every": 0},
    },
    "loss": {
        "_target_": "vae_exp.objective.beta_vae.CapacityVAE",
        "capacity": {"_target_": "vae_exp.objective.schedules.Linear", "duration": 3},
        "gamma": {"_target_": "mine.Schedule", "over": 3},
        "over": "batch",
    },
    "model": {
        "_target_": "mine.VAE",
        "num_codes": 8,
        "encoder": {
            "_target_": "vae_exp.model.vq.VQEncoder",
            "num_codes": "${model.num_codes}",
            "codebook_init": "uniform",
            "codebook_decay": None,
            "restart_below": None,
        },
        "decoder": {"_target_": "mine.Decoder", "codes": "${model.num_codes}"},
        "initialization": "default",
        "output_bias": "data_mean",
        "likelihood": {
            "_target_": "vae_exp.model.likelihoods.PerPixelGaussianLikelihood",
            "sigmoid_mean": True,
            "min_sigma": 0.01,
        },
        "prior": {"_target_": "vae_exp.model.priors.GaussianMixturePrior", "init_std": 1.0},
    },
    "trainer": {
        "execution": "auto",
        "loss_reduction": "mean",
        "max_grad_norm": 5.0,
        "strategy": "none",
        "warn_posterior_collapse": True,
    },
    "trusted_packages": ["mine"],
}


def test_keys_of_a_stored_config_get_their_current_names_and_back():
    assert with_current_names(OLD) == with_current_names(CURRENT) == CURRENT
    assert with_first_names(CURRENT) == with_first_names(OLD) == OLD
    assert len({config_hash(OmegaConf.create(config)) for config in (OLD, CURRENT)}) == 1


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("loss", "vae_exp.objective.vq.VQ"),
        ("loss", "vae_exp.objective.beta_vae.CapacityVAE"),
        ("encoder", "vae_exp.model.vq.VQEncoder"),
    ],
)
def test_a_class_without_a_key_does_what_a_stored_config_without_it_means(group: str, target: str):
    """Else a YAML of a user's own without the key would train in one way and resume in another."""
    part = {"_target_": target}
    stored = with_current_names({"loss": part} if group == "loss" else {"model": {"encoder": part}})
    added = stored["loss"] if group == "loss" else stored["model"]["encoder"]
    assert added.pop("_target_") == target
    assert added
    parameters = signature(get_class(target)).parameters
    for key, value in added.items():
        assert parameters[key].default in (value, Parameter.empty)


@pytest.mark.parametrize("target", ["vae_exp.objective.elbo.ELBO", "mine.Loss"])
def test_the_reduction_of_an_old_loss_is_the_trainers(target: str):
    old = {"loss": {"_target_": target, "reduction": "mean"}, "trainer": {"epochs": 1}}
    current = {"loss": {"_target_": target}, "trainer": {"epochs": 1, "loss_reduction": "mean"}}
    assert with_current_names(old) == current
    assert with_first_names(current) == old
    own = {"loss": {"_target_": target, "reduction": "none"}, "trainer": {"loss_reduction": "sum"}}
    assert with_current_names(own) == with_first_names(own) == own


@pytest.mark.parametrize(
    "config", [{}, {"evaluator": None}, {"evaluator": {"figures": None}}, {"checkpoint": "x"}]
)
def test_a_config_without_these_keys_stays(config: dict[str, object]):
    assert with_current_names(config) == config


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ("checkpoint.every.epochs=1", "checkpoint.every_n_epochs=1"),
        ("++checkpoint.every.seconds=0", "++checkpoint.every_n_seconds=0"),
        ("~checkpoint.every.epochs", "~checkpoint.every_n_epochs"),
        ("evaluator.elbo.every=0", "evaluator.elbo.every_n_epochs=null"),
        ("evaluator.elbo.every=0,10,5", "evaluator.elbo.every_n_epochs=null,10,5"),
        ("evaluator.elbo.every=choice(0,1)", "evaluator.elbo.every_n_epochs=choice(null,1)"),
        ("evaluator.mine.every=0", "evaluator.mine.every=0"),
        ("data.resident=false", "data.preload_to_device=false"),
        ("evaluator.quadrature.side=11,21", "evaluator.quadrature.points_per_axis=11,21"),
        ("manifold_side=4", "manifold_size=4"),
        ("loss.beta.over=2,3", "loss.beta.duration=2,3"),
        ("loss.over=batch", "loss.over=batch"),
        ("model.likelihood.bounded=false", "model.likelihood.sigmoid_mean=false"),
        ("trainer.epochs=0", "trainer.epochs=0"),
        ("loss.reduction=mean,sum", "trainer.loss_reduction=mean,sum"),
        ("+loss.reduction=none", "+loss.reduction=none"),
        ("model.codes=8", "model.num_codes=8"),
        ("+model.encoder.codes=8", "+model.encoder.codes=8"),
        ("model.initialization=torch,glorot_uniform", "model.initialization=default,glorot_uniform"),
        ("+trust=[theirs]", "+trusted_packages=[theirs]"),
    ],
)
def test_overrides_get_the_current_name_of_their_key(old: str, current: str):
    assert rename_override(old) == current


def test_a_command_takes_old_keys(command):
    finished = command(
        "train", "evaluator=[elbo]", "evaluator.elbo.every=0", "checkpoint.every.epochs=3", "--cfg", "job"
    )
    assert finished.code == 0, finished.err
    assert "every_n_epochs: null" in finished.out
    assert "every_n_epochs: 3" in finished.out
