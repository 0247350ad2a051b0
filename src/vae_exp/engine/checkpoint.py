"""The checkpoint file: save, load, optimizer state."""

import errno
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vae_exp.engine.flat_parameter import flat_parameter, flatten_state
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import fsync_directory, write_atomically

FORMAT = 2
_SPARE_BYTES = 2**20
_READABLE = (1, FORMAT)  # format 1 had weights alone: such a run cannot be resumed
_KERNEL_OPTIONS = ("capturable", "foreach", "fused")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, atomically.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    try:
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
    except RuntimeError as error:  # torch's archive writer does not report why bytes are missing
        if shutil.disk_usage(path.parent).free < _SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    fsync_directory(path.parent)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        UserError: if it is missing, truncated, holds anything but tensors and plain values, or is of a
            format that this version cannot read.
    """
    try:
        _check_archive(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # the unpickler fails on damaged bytes with exceptions of any type
        # torch's own text advises to run the code inside the file
        reason = "damaged, or something else" if isinstance(error, pickle.UnpicklingError) else str(error)
        reason = reason.splitlines()[0].rstrip(".") if reason else type(error).__name__
        if isinstance(error, EOFError) or getattr(error, "errno", None) == errno.EINVAL:
            reason = "it is cut short"
        raise UserError(f"{path} is not a whole checkpoint of plain tensors: {reason}.") from error
    version = state.get("format") if isinstance(state, dict) else type(state).__name__
    if version in _READABLE:
        return dict(state)
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{path} has format {version}: a newer version of vae_exp wrote it; this one reads up to {FORMAT}."
        )
    readable = " and ".join(map(str, _READABLE))
    raise UserError(f"{path} has format {version}; this version of vae_exp reads formats {readable}.")


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any], *, keep_options: bool) -> None:
    """Load an optimizer's state, but not how its kernels run: that depends on this device.

    Args:
        optimizer: Over the same parameters.
        state: What its `state_dict` returned.
        keep_options: Whether it keeps its own options too, such as the learning rate.

    Raises:
        ValueError: if the state is of other parameters.
    """
    options = [
        {name: group[name] for name in group if name in _KERNEL_OPTIONS or (keep_options and name != "params")}
        for group in optimizer.param_groups
    ]
    flat = flat_parameter(optimizer)
    optimizer.load_state_dict(dict(state) if flat is None else flatten_state(state, flat))
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
        if group.get("fused"):  # fused kernels trust the shapes of their state, and read past a short one's end
            _check_state_shapes(optimizer, group["params"])
    optimizer._opt_called = True  # type: ignore[attr-defined]  # or a scheduler warns


def _check_archive(path: Path) -> None:
    """Refuse what is no file or unpacks without bound, and compare the checksums, which torch does not."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            return
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is compressed, which no checkpoint is, and may unpack without bound")
            damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")


def _check_state_shapes(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(
                    f"the optimizer's {name} is {list(value.shape)} for a weight of {list(parameter.shape)}"
                )
