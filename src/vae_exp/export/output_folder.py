"""The folder of an export: it appears with all of its files, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import fsync_directory, read_json
from vae_exp.storage.output_files import output_errors, require_new, temporary_folder

DESCRIPTION = "model.json"


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is, unless it is an export that may be replaced.

    Raises:
        UserError: names the folder and the remedy.
    """
    require_new(output, overwrite=overwrite)
    if not os.path.lexists(output):
        return
    try:
        described = read_json(output / DESCRIPTION)
        foreign = {path.name for path in output.iterdir()} - {DESCRIPTION, *described["files"]}
    except (OSError, UserError, KeyError, TypeError):
        raise UserError(f"output={output} is no export, and stays; choose another output.") from None
    if foreign:
        names = ", ".join(sorted(foreign))
        raise UserError(f"output={output} also has {names}, and stays; choose another output.")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name `output` at the end of the block unless the block fails.

    Raises:
        UserError: if it cannot be written, as on a full disk.
    """
    existing = next(path for path in output.parents if path.exists())
    with output_errors("output", output), temporary_folder(existing) as scratch:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        _publish(folder, output, scratch / "previous")


def _publish(folder: Path, output: Path, previous: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    output.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(output):
        output.rename(previous)
    folder.rename(output)
    fsync_directory(output.parent)
