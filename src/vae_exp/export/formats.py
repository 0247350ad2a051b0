"""The files of an export: programs of `torch.export`, ONNX, bare weights."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch.distributions import Distribution

from vae_exp.errors import UserError, user_code_location
from vae_exp.export.parts import ModelPart
from vae_exp.model.vae import VAE

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
_REASONS = {  # of torch's errors, which fill pages
    "data-dependent": "its forward branches on the values of a tensor, such as `if images.mean() > 0`",
    "Constraints violated": "its forward fixes the number of images, as `len(images)` does; use `images.shape[0]`",
}


def choose_formats(onnx: str | bool, weights: str | None) -> list[str]:
    """`pt2`, and those of `onnx` and `safetensors` that are asked for.

    Args:
        onnx: True, False, or `auto`: if its packages can be imported; a line says why they cannot.
        weights: `safetensors` or None.

    Raises:
        UserError: if a package is missing, or fails when imported.
    """
    formats = ["pt2"]
    for name, is_chosen, key in (("onnx", onnx, f"onnx={onnx}"), ("safetensors", weights, f"weights={weights}")):
        if not is_chosen:
            continue
        problems = [problem for package in PACKAGES[name] if (problem := _import_problem(package))]
        reason = f"cannot import {', '.join(problems)}; the extra vae-exp[{name}] installs what is needed."
        if not problems:
            formats.append(name)
        elif is_chosen == "auto":
            print(f"Without ONNX: {reason}")
        else:
            raise UserError(f"{key} {reason}")
    return formats


def _import_problem(package: str) -> str | None:
    """A package that cannot be imported, with the reason; None if it can."""
    try:
        with _quiet():
            import_module(package)
    except Exception as error:  # of a package for another version of Python or of numpy, it may be any
        return f"{package} ({_first_line(error)})"
    return None


def write_model(vae: VAE, parts: Sequence[ModelPart], formats: Sequence[str], folder: Path) -> None:
    """Write `encoder.pt2` and so on into a folder.

    Raises:
        UserError: if a part cannot be exported; says why.
    """
    for part in parts:
        print(f"Exporting the {part.name} …", flush=True)
        program = record_program(part)
        content = BytesIO()  # torch's own writer turns a full disk into an error without its path
        with _quiet():
            torch.export.save(program, content)
        (folder / f"{part.name}.pt2").write_bytes(content.getbuffer())
        if "onnx" in formats:
            _write_onnx(part, program, folder / f"{part.name}.onnx")
    if "safetensors" in formats:
        from safetensors.torch import save

        weights = {name: weight.clone() for name, weight in vae.state_dict().items()}
        (folder / "weights.safetensors").write_bytes(save(weights))


def record_program(part: ModelPart) -> torch.export.ExportedProgram:
    """A part as a graph of tensor operations for any number of images.

    Raises:
        UserError: if its Python code cannot be turned into one graph.
    """
    inputs = part.example(2)
    try:
        outputs = part.run(*inputs)  # fills caches, such as that of Sobol points, with real tensors
        if not all(bool(output.isfinite().all()) for output in outputs):
            raise ValueError("its outputs are not finite: the distribution has no mean or variance")
        with torch.no_grad(), _without_checks_of_values(), _quiet():
            axes = _batch_axes(part, torch.export.Dim("batch"))
            program = torch.export.export(part.module, inputs, dynamic_shapes=axes, strict=False)
    except Exception as error:  # also of a class of the user's, which raises what it likes
        reason = next((reason for sign, reason in _REASONS.items() if sign in str(error)), _first_line(error))
        raise UserError(_refusal(part, f"{reason}{user_code_location(error)}")) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # the paths of this machine's files
    return program


def _write_onnx(part: ModelPart, program: torch.export.ExportedProgram, path: Path) -> None:
    names = [spec.name for spec in part.inputs], [spec.name for spec in part.outputs]
    try:
        with _quiet():
            exported: Any = torch.onnx.export(
                program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False,
                dynamic_shapes=_batch_axes(part, "batch"),
            )  # fmt: skip
    except Exception as error:  # of three packages
        raise UserError(f"{_refusal(part, _first_line(error))} onnx=false writes it as .pt2 alone.") from error
    exported.save(path)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _refusal(part: ModelPart, reason: str) -> str:
    other = "decoder" if part.name == "encoder" else "encoder"
    return f"the {part.name} cannot be exported: {reason}. part={other} exports the other one."


def _batch_axes(part: ModelPart, axis: Any) -> tuple[dict[int, Any], ...]:
    return ({0: axis},) * len(part.inputs)


@contextmanager
def _without_checks_of_values() -> Iterator[None]:
    """Distributions do not test their arguments, which would be control flow that depends on data."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which torch and onnxscript, which list graphs and optimisations, say nothing."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
