"""Removal of failed jobs, archived attempts and, on request, checkpoints of finished jobs."""

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
        reason: Why it can be removed.
    """

    job: RunDirectory
    path: Path
    reason: str

    @property
    def size(self) -> int:
        """In bytes, with all that is below it."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())


def find_removable(sweep: Path, *, checkpoints: bool) -> list[Removable]:
    """Find failed jobs, archived attempts and, on request, `last.pt` of finished jobs.

    Running jobs and jobs that can be resumed from a checkpoint stay.

    Args:
        sweep: The sweep's directory.
        checkpoints: Whether `last.pt` of finished jobs can be removed; only a resumption needs it.

    Raises:
        UserError: if the directory is not that of a sweep, or has links to other directories.
    """
    if not (sweep / FILE).is_file():
        raise UserError(f"{sweep} has no {FILE}: it is not the directory of a sweep; nothing is removed.")
    check_all_within(sweep)
    directories = [RunDirectory(path.parent) for path in sorted(sweep.glob("*/.hydra"))]
    unlocked = [directory for directory in directories if not directory.is_locked()]
    return [removable for directory in unlocked for removable in _find_in_job(directory, checkpoints)]


def _find_in_job(directory: RunDirectory, checkpoints: bool) -> list[Removable]:
    status = status_of(directory)
    resumable = any(directory.checkpoint(name).exists() for name in ("last", "best"))
    if status in _FAILED or (status not in FINISHED and not resumable):
        notes = ", with its notes" if directory.notes.exists() else ""
        return [Removable(directory, directory.path, f"{status or 'ended without a result'}{notes}")]
    removable = [Removable(directory, path, "set aside") for path in directory.previous.glob("*")]
    last = directory.checkpoint("last")
    if checkpoints and status in FINISHED and last.is_file():
        removable.append(Removable(directory, last, "only a resumption needs it"))
    return removable


def remove(removable: Sequence[Removable], *, checkpoints: bool) -> list[str]:
    """Remove what can still be removed.

    Returns:
        What could not be removed, with the reason.
    """
    problems = []
    for entry in removable:
        try:
            with lock_run_directory(entry.job):
                if entry not in _find_in_job(entry.job, checkpoints):
                    raise UserError("the job has been restarted")
                if entry.path.is_dir() and not entry.path.is_symlink():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink()
        except (UserError, OSError) as error:
            problems.append(f"{entry.path}: {error}")
    return problems
