"""Device of a run, precision of its matrix products, and memory of its steps."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from vae_exp.data.batch_loader import free_memory
from vae_exp.data.images import Batch
from vae_exp.errors import MemoryExhaustedError, UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
_TF32_CAPABILITY = (8, 0)
_LARGE_SHARE = 0.25
# Of the CPU allocator, the CUDA runtime and driver (torch.AcceleratorError), and cuBLAS, cuDNN and cuFFT.
_OOM_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def resolve_device(name: str, key: str = "trainer.device") -> torch.device:
    """The device of that name, with its index on CUDA; `auto` takes CUDA, then MPS, then the CPU.

    Args:
        name: The name in the config.
        key: The config key, for messages.

    Raises:
        UserError: if the name is not one, or if this machine has no such device.
    """
    if name == "auto":
        name = _best_kind()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and str(device) != name:  # torch wraps cuda:256 round to cuda:0
        device = None
    if device is None or device.type not in ("cuda", "mps", "cpu"):
        raise UserError(f"{key}={name} is not a device; use auto, cpu, mps, cuda or cuda:N.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"{key}={name}: there is no MPS device here; use {_best_kind()} or auto.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UserError(f"{key}={name}: there is no CUDA device here; use {_best_kind()} or auto.")
        if device.index is not None and device.index >= count:
            raise UserError(f"{key}={name}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}.")
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
    if device.type == "cpu" and device.index:
        raise UserError(f"{key}={name}: there is one CPU device; use cpu.")
    return device


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """The device with its model, such as `cuda:0 (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


# Precision


def check_precision_supported(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        UserError: names those that it has.
    """
    if precision != "tf32":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY:
        raise UserError(
            f"trainer.precision=tf32 needs a CUDA device of compute capability 8.0 or higher, not {device}; "
            f"use fp32 or bf16."
        )


@contextmanager
def matmul_precision(vae: VAE, precision: str) -> Iterator[None]:
    """Compute in this precision within a block.

    `fp32` is IEEE single precision throughout; `tf32` lets CUDA round the factors of all products of a step to 10
    bits of mantissa (from Ampere on), those of a loss too, such as the covariance of DIP-VAE; `bf16` runs encoder
    and decoder under autocast, their weights in float32.
    """
    before = vae.compute_dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(precision == "tf32", precision == "tf32")
    vae.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        yield
    finally:
        vae.compute_dtype = before[0]
        _allow_tf32(*before[1:])


def _allow_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


# Memory


def check_memory(loss: Loss, vae: VAE, image_shape: Sequence[int], batch_size: int, device: torch.device) -> None:
    """Refuse a loss whose training step needs more memory than the device has, before anything is computed.

    Args:
        loss: The loss.
        vae: The model, on the CPU.
        image_shape: `[channels, height, width]`.
        batch_size: Images of a step.
        device: The device of training.

    Raises:
        UserError: says how much memory a step needs.
    """
    needed, total = count_step_bytes(loss, vae, image_shape, batch_size), _total_memory(device)
    if needed is None or total is None or needed <= _LARGE_SHARE * total:
        return
    attributes = getattr(loss, "__dict__", {})
    counts = [f"loss.{key}={value}" for key, value in attributes.items() if type(value) is int and value > 1]
    settings = ", ".join([f"trainer.batch_size={batch_size}", *counts])
    message = (
        f"A training step on images of {list(image_shape)} with {settings} keeps {_gibibytes(needed)} for its "
        f"gradients; {device} has {_gibibytes(total)}"
    )
    if needed > total:
        raise UserError(f"{message}. Use a smaller batch, fewer draws, or a smaller model.")
    _log.warning("%s. It may take minutes.", message)


def count_step_bytes(loss: Loss, vae: VAE, image_shape: Sequence[int], batch_size: int) -> int | None:
    """Count the bytes that autograd saves in a forward pass in float32; nothing is computed.

    Returns:
        The count; None where the model or the loss reads values: tensors on torch's `meta` device have none.
    """
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.empty(batch_size, *image_shape, device="meta")
    labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
    try:
        vae, loss = copy.deepcopy((vae, loss))  # a forward pass may change either
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with torch.random.fork_rng(devices=[]), hooks:
            terms = loss(vae.to("meta"), Batch(images, labels), torch.Generator())
    except Exception:  # the dry run with real images that follows reports it
        return None
    del terms  # until here it holds the storages, whose addresses are the keys
    return sum(saved.values())


def _total_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total) if device.type == "cpu" else None


def oom_error(error: BaseException, batch_size: int, device: torch.device) -> MemoryExhaustedError | None:
    """An error with a remedy for a training step that ran out of memory; None for any other error."""
    if isinstance(error, MemoryExhaustedError):
        return error
    if not is_oom(error):
        return None
    return MemoryExhaustedError(
        f"{device} ran out of memory{_free_memory_hint(device)} with trainer.batch_size={batch_size}; use a "
        f"smaller batch, a smaller model, trainer.precision=bf16, or data.preload_to_device=false."
    )


def evaluator_oom_error(error: BaseException, name: str, device: torch.device) -> MemoryExhaustedError | None:
    """The same for an evaluator, which has batches of its own."""
    if not is_oom(error):
        return None
    return MemoryExhaustedError(
        f"{device} ran out of memory{_free_memory_hint(device)} in evaluator.{name}; reduce num_images, "
        f"batch_size, chunk_size or points_per_axis of evaluator.{name}, where it has them."
    )


def is_oom(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is a lack of memory."""
    if error.__cause__ is not None and is_oom(error.__cause__):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OOM_MESSAGES)


def _free_memory_hint(device: torch.device) -> str:
    free = free_memory(device)
    if free is None:
        return ""
    if device.type != "cuda":
        return f" ({_gibibytes(free)} free)"
    total = torch.cuda.get_device_properties(device).total_memory
    used = torch.cuda.memory_allocated(device)
    return f" ({_gibibytes(free)} free of {_gibibytes(total)}, {_gibibytes(used)} held by this run)"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
