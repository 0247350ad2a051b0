"""Exported files loaded again in a process without vae_exp, and compared with the model."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from vae_exp.errors import UserError
from vae_exp.export import fresh_process
from vae_exp.export.parts import ModelPart
from vae_exp.model.vae import VAE

TOLERANCE = 1e-5  # absolute, and relative for outputs above 1
_BATCHES = (1, 5)  # not the size that programs are recorded with

Arrays = dict[str, np.ndarray]


def largest_differences(vae: VAE, parts: Sequence[ModelPart], folder: Path) -> dict[str, float]:
    """The largest difference between what each file computes and what the model does, relative above 1.

    Raises:
        UserError: if a file cannot be loaded, or differs by more than `TOLERANCE`.
    """
    inputs: Arrays = {}
    expected = {f"weights.safetensors/0/{name}": weight.numpy() for name, weight in vae.state_dict().items()}
    for part in parts:
        for count in _BATCHES:
            example = part.example(count)
            outputs = part.run(*example)
            inputs |= _numbered(f"{part.name}/{count}", example)
            for suffix in ("pt2", "onnx"):
                expected |= _numbered(f"{part.name}.{suffix}/{count}", outputs)
    differences: dict[str, float] = {}
    for name, values in _run_files(folder, inputs).items():
        file = name.partition("/")[0]
        differences[file] = max(differences.get(file, 0.0), _difference(expected[name], values))
    for file, difference in differences.items():
        if difference > TOLERANCE:
            raise UserError(
                f"{file} would differ from the model by {difference:.1e}, more than {TOLERANCE}; nothing is "
                f"written. Does the model draw random numbers, or keep a state between calls?"
            )
    return differences


def _numbered(prefix: str, tensors: Sequence[Tensor]) -> Arrays:
    return {f"{prefix}/{index}": tensor.numpy() for index, tensor in enumerate(tensors)}


def _run_files(folder: Path, inputs: Mapping[str, np.ndarray]) -> Arrays:
    with TemporaryDirectory() as scratch:
        files = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        np.savez(files[0], **inputs)  # type: ignore[arg-type]
        command = [sys.executable, "-P", *map(str, (fresh_process.__file__, folder, *files))]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        if finished.returncode:
            reason = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
            raise UserError(f"the exported files do not work in a process without vae_exp: {reason}")
        with np.load(files[1]) as arrays:
            return dict(arrays)


def _difference(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return inf
    errors = np.abs(expected.astype(float) - actual) / np.maximum(1, np.abs(expected))
    largest = float(errors.max(initial=0))
    return largest if isfinite(largest) else inf
