"""A run that has been trained: opened from its directory alone."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from vae_exp.configuration.allowlist import Caller, require_safe
from vae_exp.configuration.instantiate import build_splits, build_vae
from vae_exp.configuration.overrides import shell_word
from vae_exp.configuration.parsing import parse_config, resolve_to_dict
from vae_exp.configuration.schema import StoredRunConfig, TrainConfig
from vae_exp.configuration.stored_config import load_stored_config, with_overrides
from vae_exp.configuration.value_checks import check_run
from vae_exp.data.batch_loader import move_to_device
from vae_exp.data.fingerprint import differences
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.cpu_settings import speed_up_cpu
from vae_exp.engine.device import resolve_device
from vae_exp.engine.ema import load_average
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE
from vae_exp.runs.resume import warn_of_another_config
from vae_exp.storage.run_directory import RunDirectory, named_run
from vae_exp.tracking.metrics_file import read_rows

_MAX_WEIGHT_RATIO = 4  # of a model that is built to one that is stored: weights may have several names
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """What a run directory holds, ready for use.

    Args:
        directory: Where it lies now.
        settings: The config, typed.
        config: The config as a tree of plain values, all interpolations resolved.
        vae: The model with its weights, in evaluation mode; `vae.requires_grad_(True)` lets it be trained further.
        checkpoint: Which checkpoint the weights are from: `best` or `last`.
        epoch: The epoch of that checkpoint.
        caller: What the stored config may open.
        fingerprints: What the checkpoint says of the images it was trained with (`data.fingerprint`), by split;
            empty for one of an earlier version.
    """

    directory: RunDirectory
    settings: TrainConfig = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    vae: VAE = field(repr=False)
    checkpoint: str
    epoch: int
    caller: Caller = field(repr=False)
    fingerprints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def data(self) -> DataSplits:
        """The splits the run was trained with; opened when first used.

        Raises:
            UserError: if the stored config names a file or folder that the caller has not named, outside of the
                run directory, the data root and the working directory.
        """
        require_safe(self.config, self.caller, ["data"])
        return build_splits(self.settings.data, self.caller.may_download)

    def images(self, split: str) -> ImageSet:
        """The images of a split as they are scored, on the model's device or streamed to it where they do not fit.

        A warning says where the data have changed since training, so that they are divided into other splits.

        Raises:
            UserError: if there is no such split, or if it is empty.
        """
        images = self.data.get_split(split)
        changes = []
        if split in self.fingerprints:
            changes = differences(self.fingerprints[split], self.data.fingerprints[split])
        if changes:
            _log.warning(
                "split=%s has %s: it is not that of the training, and images that were trained on may be in it.",
                split,
                ", ".join(changes),
            )
        return move_to_device(self.with_own_labels(images), self.device, "auto")

    def with_own_labels(self, images: ImageSet) -> ImageSet:
        """The images with the labels that classes of these names have in the run; new classes come after them.

        Raises:
            UserError: if the model is conditional, and a class new to it.
        """
        trained = self.fingerprints.get("train", {}).get("classes")
        if not trained or not images.classes or images.labels is None:
            return images
        new = [name for name in images.classes if name not in trained]
        if new and self.vae.needs_labels:
            raise UserError(
                f"The images are of {', '.join(new)}, classes that the model does not know; those of "
                f"run={self.directory.path} are {', '.join(trained)}."
            )
        classes = (*trained, *new)
        for name in new:
            _log.warning("Label %d is %s, a class that the run was not trained on.", classes.index(name), name)
        labels = torch.tensor([classes.index(name) for name in images.classes])
        return replace(images, labels=labels[images.labels], classes=classes)

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """What `result.json` says; None if the run has not ended."""
        return self.directory.read_result()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The metrics of every epoch, from the first, then the scores at the end, as `metrics.jsonl` has them."""
        return read_rows(self.directory.metrics)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.vae.parameters()).device


def load_run(
    directory: str | PathLike[str],
    *,
    trusted_packages: Sequence[str] = (),
    device: str = "cpu",
    checkpoint: str | None = None,
    data: Mapping[str, str | None] | None = None,
    trust: Sequence[str] = (),
) -> TrainedRun:
    """Open a run directory, wherever it lies now.

    Args:
        directory: The run directory, or `latest`, the one below `outputs` that was written last.
        trusted_packages: Packages of yours, or of the run's author, whose classes may be instantiated.
        device: Where the model goes: `cpu`, `cuda`, `auto`, ….
        checkpoint: `best` or `last`; by default the best, or the last where there is no best yet.
        data: Where the data lie now, for instance `{"root": "/data"}` or `{"path": "images.npz"}`.
        trust: The old name of `trusted_packages`.

    Raises:
        TypeError: if `trusted_packages` is a string.
        UserError: if the directory holds no run, if there is none for `latest`, if the stored config names code
            that is not trusted, or if the checkpoint does not fit the model.
    """
    if isinstance(trusted_packages, str) or isinstance(trust, str):
        raise TypeError("trusted_packages must be a list of names, such as ['my_package'].")
    check_run("run", str(directory))
    run_dir = RunDirectory(named_run(str(directory)))
    stored = load_stored_config(run_dir)
    where = resolve_device(device, "device")
    chosen = _choose_checkpoint(run_dir, checkpoint)
    state = load_checkpoint(run_dir.checkpoint(chosen), where)
    warn_of_another_config(stored, state, run_dir)
    shape = stored.data.get("image_shape") or state.get("image_shape")
    places = {f"data.{name}": value for name, value in (data or {}).items() if value is not None}
    plain = resolve_to_dict(with_overrides(stored, places), shape)
    caller = Caller(run_dir.path, [*trusted_packages, *trust], places)
    require_safe(plain, caller, ["model"])
    settings = parse_config(OmegaConf.create(plain), TrainConfig)
    vae = _build_with_weights(plain, state, run_dir.checkpoint(chosen))
    vae.to(where).eval().requires_grad_(False)
    epoch, fingerprints = int(state.get("epoch") or 0), state.get("data", {})
    return TrainedRun(run_dir, settings, plain, vae, chosen, epoch, caller, fingerprints)


def _build_with_weights(plain: dict[str, Any], state: Mapping[str, Any], checkpoint: Path) -> VAE:
    """The model with the checkpoint's weights, their average where there is one; the random state stays."""
    # The model is built on the CPU.
    with torch.random.fork_rng(devices=[]), _limit_parameters(state, checkpoint):
        vae = build_vae(plain["model"], plain["data"]["image_shape"])
    try:
        vae.load_state_dict(state["vae"])
        load_average(vae, state.get("average") or {})
    except (RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{checkpoint} does not fit the model of its config: {reason}") from error
    _require_finite(vae, checkpoint)
    return vae


@contextmanager
def _limit_parameters(state: Mapping[str, Any], checkpoint: Path) -> Iterator[None]:
    """Refuse a model of far more weights than the checkpoint holds, before they are set and so take memory."""
    weights = state.get("vae")
    tensors = weights.values() if isinstance(weights, Mapping) else ()
    stored = sum(x.numel() for x in tensors if isinstance(x, torch.Tensor))
    count = 0

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 0 if parameter is None or is_lazy(parameter) else parameter.numel()
        if count > _MAX_WEIGHT_RATIO * stored:
            raise UserError(f"{checkpoint} does not fit the model of its config: it holds {stored:,} numbers.")

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _require_finite(vae: VAE, checkpoint: Path) -> None:
    """Refuse weights that every image of theirs would be NaN of; a buffer may be infinite, as masks are."""
    weights = {name for name, _ in vae.named_parameters(remove_duplicate=False)}
    for name, tensor in vae.state_dict().items():
        bad = ~tensor.isfinite() if name in weights else tensor.isnan()
        if bool(bad.any()):
            raise UserError(
                f"{checkpoint} holds {int(bad.sum())} NaN or infinite values in {name}; choose another "
                f"checkpoint, or train again."
            )


def load_run_from_settings(settings: StoredRunConfig) -> TrainedRun:
    """Open the run that a command names, in a process that is for this alone.

    Raises:
        UserError: as `load_run` does.
    """
    speed_up_cpu()
    return load_run(
        settings.run,
        trusted_packages=settings.trusted_packages,
        device=settings.device,
        checkpoint=settings.checkpoint,
        data={"root": settings.data.root, "path": settings.data.path},
    )


def _choose_checkpoint(run_dir: RunDirectory, requested: str | None) -> str:
    available = run_dir.checkpoints()
    if not available:
        raise UserError(
            f"run={run_dir.path} has no checkpoint; expected {run_dir.checkpoint('last')}. If its training is not "
            f"running any more, python -m vae_exp.train {shell_word('resume', run_dir.path)} starts it again."
        )
    if requested is None:
        return available[0]
    if requested not in available:
        raise UserError(f"checkpoint={requested}: run={run_dir.path} has only {', '.join(available)}.")
    return requested
