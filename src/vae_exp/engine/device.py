"""Which device a run uses."""

import torch

from vae_exp.errors import UserError


def resolve_device(name: str, key: str = "trainer.device") -> torch.device:
    """The device of that name, with its index on CUDA; `auto` takes CUDA, then MPS, then the CPU.

    Args:
        name: What the user asked for.
        key: The key that asked, for messages.

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


def describe(device: torch.device) -> str:
    """The device as a person would call it, such as `cuda:0 (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
