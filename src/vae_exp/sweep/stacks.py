"""Which jobs of a sweep can train as one."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from omegaconf import DictConfig, OmegaConf

_MLP = {"vae_exp.model.encoders.MLPEncoder", "vae_exp.model.decoders.MLPDecoder"}
_NETS = {
    "encoder": {"vae_exp.model.encoders.MLPEncoder", "vae_exp.model.encoders.ConvEncoder"},
    "decoder": {"vae_exp.model.decoders.MLPDecoder", "vae_exp.model.decoders.ConvDecoder"},
    "prior": {"vae_exp.model.priors.StandardNormalPrior"},
    "likelihood": {
        f"vae_exp.model.likelihoods.{name}Likelihood"
        for name in ("Bernoulli", "ContinuousBernoulli", "FixedGaussian", "SharedGaussian", "PerPixelGaussian")
    },
}
_SCALARS = {  # of the losses that can be stacked: where members may differ
    "vae_exp.objective.elbo.ELBO": (),
    "vae_exp.objective.beta_vae.BetaVAE": ("beta",),
    "vae_exp.objective.beta_vae.CapacityVAE": ("gamma", "capacity"),
    "vae_exp.objective.beta_vae.FreeBits": ("free_nats",),
    "vae_exp.objective.importance_weighted.IWAE": (),
}
_OPTIMIZERS = {f"torch.optim.{name}" for name in ("Adam", "AdamW", "SGD", "Adagrad")}
_SIZES = {"latent_dim", "hidden_dims"}  # of the model: smaller ones are padded
_FREE_TRAINER = {"early_stopping", "monitor", "print_batch_sum", "steps_per_graph", "warn_posterior_collapse"}
_MOST_CPU_WEIGHTS = 110_000  # above, products on a CPU are as fast one by one; see docs/experiment_log.md


@dataclass(frozen=True)
class StackKey:
    """What jobs have in common that can train as one.

    Args:
        text: Equal for them.
        reason: Why a job cannot be stacked at all; empty where it can.
    """

    text: str
    reason: str = ""


def stack_key(config: DictConfig, *, on_cpu: bool, any_size: bool) -> StackKey:
    """The key of a job.

    Args:
        config: Composed, with Hydra's section.
        on_cpu: Whether it trains on a CPU.
        any_size: Whether nets are stacked that are too large to gain from it on a CPU.
    """
    names = ("model", "data", "loss", "optimizer", "trainer")
    plain: dict[str, Any] = {name: OmegaConf.to_container(config[name], resolve=True) for name in names}
    plain["hydra"] = {"job": OmegaConf.to_container(config.hydra.job, resolve=False)}
    model, trainer = plain["model"], plain["trainer"]
    reason = _reason(plain, model, trainer)
    if not reason and on_cpu and not any_size:
        reason = _reason_of_size(model, plain["data"].get("image_shape"))
    numbers = {name for name, value in plain["optimizer"].items() if type(value) in (int, float)}
    shared = {
        "model": _without_sizes(model, OmegaConf.to_container(config.model, resolve=False)),
        "depth": len(model["hidden_dims"] or []),
        "data": plain["data"],
        "loss": _without(plain["loss"], _scalars(plain["loss"])),
        "optimizer": _without(plain["optimizer"], numbers),
        "trainer": _without(trainer, _FREE_TRAINER),
    }
    return StackKey(json.dumps(shared, sort_keys=True, default=str), reason)


def optimizer_word(config: DictConfig, number: int) -> str:
    """A word that is the same for jobs whose optimizers have the same options in every epoch.

    Args:
        config: Of the job.
        number: Of the job; the learning rate of `ReduceLROnPlateau` is a matter of its own.
    """
    groups = config.optimizer, config.scheduler
    optimizer, scheduler = (OmegaConf.to_container(group, resolve=True) for group in groups)
    follows_metrics = str(config.scheduler.get("_target_")).endswith("ReduceLROnPlateau")
    return json.dumps([optimizer, scheduler, number if follows_metrics else None], default=str)


def largest_sizes(config: DictConfig, sizes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sizes that neither a job nor those of `sizes` exceed, as `model` has them."""
    latent_dim, hidden_dims = config.model.latent_dim, list(config.model.hidden_dims)
    if sizes is not None:
        latent_dim = max(latent_dim, sizes["latent_dim"])
        hidden_dims = [max(widths) for widths in zip(hidden_dims, sizes["hidden_dims"], strict=True)]
    return {"latent_dim": latent_dim, "hidden_dims": hidden_dims}


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _without_sizes(model: Mapping[str, Any], raw: Any) -> dict[str, Any]:
    """The group without the sizes that may differ: those of the model, and where its parts refer to them."""
    shared = _without(model, _SIZES)
    for part, values in shared.items():
        if isinstance(values, dict):
            sizes = {name for name in _SIZES if raw[part].get(name) == f"${{model.{name}}}"}
            shared[part] = _without(values, sizes)
    return shared


def _scalars(loss: Mapping[str, Any]) -> tuple[str, ...]:
    return _SCALARS.get(str(loss.get("_target_")), ())


def _reason(plain: Mapping[str, Any], model: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    """Why a job cannot be stacked, by the key that decides it; empty where it can."""
    hydra_job = plain["hydra"]["job"]
    targets: dict[str, tuple[Any, set[str]]] = {"model": (model, {"vae_exp.model.vae.VAE"})}
    targets |= {f"model.{part}": (model.get(part), allowed) for part, allowed in _NETS.items()}
    targets["loss"] = plain["loss"], set(_SCALARS)
    targets["optimizer"] = plain["optimizer"], _OPTIMIZERS
    for key, (node, allowed) in targets.items():
        target = str((node or {}).get("_target_"))
        if target not in allowed:
            return f"{key}={target.rpartition('.')[2]}"
    checks = {
        "model.posterior": model["posterior"] == "diagonal",
        "model.encoder.residual_blocks": not model["encoder"].get("residual_blocks"),
        "model.decoder.residual_blocks": not model["decoder"].get("residual_blocks"),
        "model.latent_dim": isinstance(model["latent_dim"], int) and isinstance(model["hidden_dims"], list),
        "trainer.execution": trainer["execution"] in ("auto", "eager"),
        "trainer.precision": trainer["precision"] != "bf16",
        "trainer.ema_decay": trainer["ema_decay"] is None,
        "trainer.strategy": trainer["strategy"] == "none",
        "hydra.job.env_set": not hydra_job["env_set"],
        "hydra.job.chdir": not hydra_job["chdir"],
    }
    for key, is_met in checks.items():
        if not is_met:
            return f"{key}={_at(plain, key)}"
    return ""


def _reason_of_size(model: Mapping[str, Any], shape: Sequence[int] | None) -> str:
    if {model["encoder"]["_target_"], model["decoder"]["_target_"]} != _MLP:
        return "convolutions (faster one by one on a CPU)"
    sizes = [prod(shape or [1, 28, 28]), *model["hidden_dims"], model["latent_dim"]]
    weights = 2 * sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    if weights > _MOST_CPU_WEIGHTS:
        return f"about {weights:,} weights (faster one by one on a CPU)"
    return ""


def _at(plain: Any, key: str) -> Any:
    for name in key.split("."):
        plain = plain[name]
    return plain
