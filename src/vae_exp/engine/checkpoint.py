"""Checkpoints: written whole or not at all, read without executing anything."""

import errno
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import fsync_directory, write_atomically

FORMAT = 2
_SPARE_BYTES = 2**20
_READABLE = (1, FORMAT)  # the first had weights alone to go on from


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, atomically.

    Raises:
        OSError: if it cannot be written, such as on a full disk.
    """
    try:
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
    except RuntimeError as error:  # torch's archive writer counts bytes, and does not ask why some are missing
        if shutil.disk_usage(path.parent).free < _SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    fsync_directory(path.parent)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`: tensors and plain values, never code.

    Raises:
        UserError: if it is missing, truncated, holds anything but tensors and plain values, or is of a
            format that this version does not know.
    """
    try:
        _require_undamaged(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # the unpickler stumbles over damaged bytes in any way it likes
        # torch's own text goes on to advise running the code inside the file
        reason = "damaged, or something else" if isinstance(error, pickle.UnpicklingError) else str(error)
        told = reason.splitlines()[0] if reason else type(error).__name__
        raise UserError(f"{path} is not a whole checkpoint of plain tensors: {told}") from error
    if not isinstance(state, dict) or state.get("format") not in _READABLE:
        raise UserError(f"{path} {_unreadable(state)}")
    return state


def _require_undamaged(path: Path) -> None:
    """Refuse what is no file or unpacks without bound, and compare the check sums, which torch does not."""
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


def _unreadable(state: Any) -> str:
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if isinstance(found, int) and found > FORMAT:
        return f"has format {found}: a newer version of vae_exp wrote it; this one reads up to {FORMAT}."
    return f"has format {found}; this version of vae_exp reads formats {' and '.join(map(str, _READABLE))}."
