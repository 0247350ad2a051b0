"""Weights of another run as the start of a new one."""

import logging
from pathlib import Path
from typing import Any

import torch

from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.ema import load_average
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE
from vae_exp.storage.atomic_io import absolute_path
from vae_exp.storage.run_directory import RunDirectory

_log = logging.getLogger(__name__)
_LISTED = 4


def initialize_from_run(vae: VAE, directory: str, *, strict: bool) -> None:
    """Copy the weights of the best epoch of a run into a model; their average where the run kept one.

    Args:
        vae: The model, on the CPU.
        directory: The run directory, of which the checkpoint alone is opened, or one of its checkpoints.
        strict: Refuse a run whose weights are not all those of the model; otherwise what fits is copied, and a
            warning lists the rest.

    Raises:
        UserError: if there is no checkpoint, nothing fits, or `strict` and something does not.
    """
    path = _find_checkpoint(directory)
    stored = load_checkpoint(path, torch.device("cpu"))
    weights, current = stored["vae"], vae.state_dict()
    fitting = {name: weight for name, weight in weights.items() if _fits(weight, current.get(name))}
    problems = _problems(weights, current)
    if problems and strict:
        raise UserError(
            f"initialize_from={directory} does not fit the model: {problems}. Set "
            f"initialize_strict=false to copy what fits."
        )
    if not fitting:
        raise UserError(f"initialize_from={directory}: no weight fits the model: {problems}.")
    vae.load_state_dict(fitting, strict=False)
    load_average(vae, {name: weight for name, weight in (stored.get("average") or {}).items() if name in fitting})
    _log.info("%d weights start from %s.", len(fitting), path)
    if problems:
        _log.warning("initialize_from=%s: %s.", directory, problems)


def freeze(vae: VAE, parts: list[str]) -> None:
    """Train no parameter of these parts of a model, such as `encoder`.

    Raises:
        UserError: if there is no such part, or nothing is left to train.
    """
    modules = dict(vae.named_modules())
    for part in parts:
        if not part or part not in modules:
            raise UserError(f"model.freeze=[{part}] is no part of the model; use encoder, decoder or prior.")
        modules[part].requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in vae.parameters()):
        raise UserError(f"model.freeze=[{','.join(parts)}] leaves nothing to train.")


def _find_checkpoint(directory: str) -> Path:
    """The best checkpoint of a run directory, or the one that is named."""
    path = absolute_path("initialize_from", directory)
    if path.suffix == ".pt" and not path.is_dir():
        return path
    run_dir = RunDirectory(path)
    available = run_dir.checkpoints()
    if not available:
        raise UserError(f"initialize_from={directory} has no checkpoint; expected {run_dir.checkpoint('best')}.")
    return run_dir.checkpoint(available[0])


def _fits(weight: Any, current: Any) -> bool:
    return current is not None and weight.shape == current.shape


def _problems(weights: dict[str, Any], current: dict[str, Any]) -> str:
    """What of the weights and the model does not fit, in words; empty if all does."""
    parts = {
        "missing in the run": [name for name in current if name not in weights],
        "unknown to the model": [name for name in weights if name not in current],
        "of another shape": [
            f"{name} {list(weight.shape)} for {list(current[name].shape)}"
            for name, weight in weights.items()
            if name in current and weight.shape != current[name].shape
        ],
    }
    listed = [
        f"{label}: {', '.join(names[:_LISTED])}{f' and {len(names) - _LISTED} more' * (len(names) > _LISTED)}"
        for label, names in parts.items()
        if names
    ]
    return "; ".join(listed)
