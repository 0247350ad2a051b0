"""What to tell a user whose device has run out of memory."""

import torch

from vae_exp.data.feed import free_memory
from vae_exp.errors import MemoryExhaustedError

# Of the CPU allocator, the CUDA runtime and driver (torch.AcceleratorError), and cuBLAS, cuDNN and cuFFT.
_MESSAGES = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


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
