"""What `model.json` says of an exported model."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vae_exp.export.formats import PACKAGES
from vae_exp.export.parts import ModelPart, TensorSpec
from vae_exp.runs.trained_run import TrainedRun
from vae_exp.storage.atomic_io import sha256_of


def describe(
    run: TrainedRun, parts: Sequence[ModelPart], folder: Path, differences: Mapping[str, float]
) -> dict[str, Any]:
    """Shapes and ranges of all inputs and outputs, the model, where it comes from, and the files.

    Args:
        run: Where the weights are from.
        parts: What was exported.
        folder: Where the files are.
        differences: Of each file from the model.
    """
    model = run.config["model"]
    return {
        "image_shape": list(run.config["data"]["image_shape"]),
        "latent_dim": run.vae.prior().event_shape[0],
        "likelihood": model.get("likelihood"),
        "prior": model.get("prior"),
        **{part.name: _signature(part) for part in parts},
        "source": _source(run),
        "versions": _versions(),
        "files": {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
                "largest_difference": differences.get(path.name),
            }
            for path in sorted(folder.iterdir())
        },
    }


def _signature(part: ModelPart) -> dict[str, Any]:
    return {"inputs": [_entry(spec) for spec in part.inputs], "outputs": [_entry(spec) for spec in part.outputs]}


def _entry(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": ["batch", *spec.shape], "dtype": spec.dtype, "range": spec.limits}


def _source(run: TrainedRun) -> dict[str, Any]:
    """The run, by the last two folders of its path: those above them are of this machine."""
    path = run.directory.path
    return {
        "run": f"{path.parent.name}/{path.name}",
        "checkpoint": run.checkpoint,
        "epoch": run.epoch,
        "sha256": sha256_of(run.directory.checkpoint(run.checkpoint)),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("vae-exp", "torch", *(name for names in PACKAGES.values() for name in names)):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
