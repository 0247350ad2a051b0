"""What to tell a user whose device has run out of memory."""

import torch

from vae_exp.data.feed import free_memory
from vae_exp.errors import MemoryExhaustedError

_CPU_MESSAGE = "can't allocate memory"


def out_of_memory(error: BaseException, batch_size: int, device: torch.device) -> MemoryExhaustedError | None:
    """The error in the user's words, if it says that memory has run out; None otherwise."""
    if not (isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or _CPU_MESSAGE in str(error)):
        return None
    free = free_memory(device)
    at_hand = "" if free is None else f" ({_gibibytes(free)} free{_of_total(device)})"
    return MemoryExhaustedError(
        f"{device} ran out of memory{at_hand} with trainer.batch_size={batch_size}; use a smaller batch, "
        f"a smaller model, trainer.precision=bf16, or data.resident=false."
    )


def _of_total(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    total = torch.cuda.get_device_properties(device).total_memory
    return f" of {_gibibytes(total)}, {_gibibytes(torch.cuda.memory_allocated(device))} held by this run"


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
