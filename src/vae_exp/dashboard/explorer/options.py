"""What a command line says of latent spaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class ExploreOptions:
    """The runs whose latent space a command line names, and how they are opened.

    Args:
        paths: Run directories that it names, which need no W&B file.
        checkpoint: `best` or `last`; None takes the best where there is one.
        data_root: Where the data are now; None where the config says.
        data_path: Their file or folder.
        trusted_packages: Packages whose classes stored configs may name.
        has_labels: Whether labels and class names are part of what is sent.
        has_paths: Whether messages may name files and folders.
    """

    paths: Sequence[Path] = ()
    checkpoint: str | None = None
    data_root: str | None = None
    data_path: str | None = None
    trusted_packages: tuple[str, ...] = ()
    has_labels: bool = True
    has_paths: bool = True


def check_run_directories(key: str, paths: Sequence[Path]) -> None:
    """Refuse what holds no trained run.

    Raises:
        UserError: names it.
    """
    for path in paths:
        if not RunDirectory(path).checkpoints():
            raise UserError(f"{key}={path} has no checkpoint; name a run directory, such as outputs/DATE/TIME.")
