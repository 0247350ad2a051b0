"""Memory of a training step: what it takes, and what to tell a user whose device has run out of it."""

import copy
import logging
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from vae_exp.data.batch_loader import free_memory
from vae_exp.errors import MemoryExhaustedError, UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
_LARGE_SHARE = 0.25
# Of the CPU allocator, the CUDA runtime and driver (torch.AcceleratorError), and cuBLAS, cuDNN and cuFFT.
_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def require_memory(
    loss: Loss, vae: VAE, image_shape: Sequence[int], batch_size: int, device: torch.device
) -> None:
    """Refuse a loss whose training step needs more memory than the device has, before anything is computed.

    Args:
        loss: What is minimised.
        vae: The model, on the CPU.
        image_shape: `[channels, height, width]`.
        batch_size: Images of a step.
        device: Where it will train.

    Raises:
        UserError: says how much memory a step needs.
    """
    needed, total = bytes_of_step(loss, vae, image_shape, batch_size), _total_memory(device)
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


def bytes_of_step(loss: Loss, vae: VAE, image_shape: Sequence[int], batch_size: int) -> int | None:
    """Count the bytes that autograd keeps from a forward pass in float32; nothing is computed.

    Returns:
        The count; None where the model or the loss needs values: tensors on torch's `meta` device have none.
    """
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.empty(batch_size, *image_shape, device="meta")
    labels = torch.empty(batch_size, dtype=torch.int64, device="meta")
    try:
        vae, loss = copy.deepcopy((vae, loss))  # a forward pass may change either
        hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
        with torch.random.fork_rng(devices=[]), vae.to("meta").given(labels), hooks:
            terms = loss(vae, images, torch.Generator())
    except Exception:  # whatever it is, the trial with real images that follows meets it too
        return None
    del terms  # until here it holds the storages, whose addresses are the keys
    return sum(kept.values())


def _total_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total) if device.type == "cpu" else None


def out_of_memory(error: BaseException, batch_size: int, device: torch.device) -> MemoryExhaustedError | None:
    """An error of a training step in the user's words, if it says that memory has run out; None otherwise."""
    if not _is_about_memory(error):
        return None
    return MemoryExhaustedError(
        f"{device} ran out of memory{_at_hand(device)} with trainer.batch_size={batch_size}; use a smaller batch, "
        f"a smaller model, trainer.precision=bf16, or data.resident=false."
    )


def evaluator_out_of_memory(error: BaseException, name: str, device: torch.device) -> MemoryExhaustedError | None:
    """Likewise an error of an evaluator, to which the batches of training are nothing."""
    if not _is_about_memory(error):
        return None
    return MemoryExhaustedError(
        f"{device} ran out of memory{_at_hand(device)} in evaluator.{name}; let it take fewer images or less at "
        f"once (such as num_images, batch_size or chunk_size of evaluator.{name}, as far as it has them)."
    )


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def _at_hand(device: torch.device) -> str:
    free = free_memory(device)
    return "" if free is None else f" ({_gibibytes(free)} free{_of_total(device)})"


def _of_total(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    return f" of {_gibibytes(total)}, {_gibibytes(torch.cuda.memory_allocated(device))} held by this run"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
