"""What of a sweep can be removed: attempts that led nowhere, and what was set aside."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import check_all_within
from vae_exp.storage.run_directory import RunDirectory, lock_run_directory
from vae_exp.sweep.manifest import FILE
from vae_exp.sweep.run_job import FINISHED, status_of

_FAILED = ("failed", "diverged")


@dataclass(frozen=True)
class Removable:
    """Something that can be removed.

    Args:
        job: The job's directory.
        path: This directory, or something in it.
        why: Why it may go.
        size: In bytes, with all that is below it.
    """

    job: RunDirectory
    path: Path
    why: str
    size: int


def find_removable(sweep: Path, *, checkpoints: bool) -> list[Removable]:
    """What can go: jobs that failed, what earlier attempts left, on request `last.pt` of what is finished.

    Jobs that can go on from a checkpoint stay, and so do those that run.

    Args:
        sweep: The sweep's directory.
        checkpoints: Whether finished jobs give up what only a resumption would need.

    Raises:
        UserError: if the directory is not that of a sweep of ours, or has links that lead out of it.
    """
    if not (sweep / FILE).is_file():
        raise UserError(f"{sweep} has no {FILE}: it is not the directory of a sweep; nothing is removed.")
    check_all_within(sweep)
    directories = [RunDirectory(path.parent) for path in sorted(sweep.glob("*/.hydra"))]
    return [each for directory in directories if not directory.is_locked() for each in _of(directory, checkpoints)]


def _of(directory: RunDirectory, checkpoints: bool) -> list[Removable]:
    """What of one job can go."""
    status = status_of(directory)
    resumable = any(directory.checkpoint(name).exists() for name in ("last", "best"))
    if status in _FAILED or (status not in FINISHED and not resumable):
        return [_leftover(directory, directory.path, status or "ended without a result")]
    leftovers = [_leftover(directory, each, "set aside") for each in directory.previous.glob("*")]
    last = directory.checkpoint("last")
    if checkpoints and status in FINISHED and last.is_file():
        leftovers.append(_leftover(directory, last, "only a resumption needs it"))
    return leftovers


def remove(leftovers: Sequence[Removable], *, checkpoints: bool) -> list[str]:
    """Remove it, unless it has come to something meanwhile; what could not be removed, and why."""
    problems = []
    for each in leftovers:
        try:
            with lock_run_directory(each.job):
                if not any(now.path == each.path for now in _of(each.job, checkpoints)):
                    raise UserError("it has been taken up meanwhile")
                _delete(each.path)
        except (UserError, OSError) as error:
            problems.append(f"{each.path}: {error}")
    return problems


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _leftover(job: RunDirectory, path: Path, why: str) -> Removable:
    files = path.rglob("*") if path.is_dir() else [path]
    return Removable(
        job, path, why, sum(each.stat().st_size for each in files if each.is_file() and not each.is_symlink())
    )
