"""What of a sweep can be removed: attempts that led nowhere, and what was set aside."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.run_directory import RunDirectory, owned
from vae_exp.sweep.attempt import FINISHED, status_of


@dataclass(frozen=True)
class Leftover:
    """Something that can be removed.

    Args:
        path: A directory or a file.
        why: Why it may go.
        size: In bytes, with all that is below it.
    """

    path: Path
    why: str
    size: int


def leftovers(sweep: Path, *, checkpoints: bool) -> list[Leftover]:
    """What can go: jobs that failed, what earlier attempts left, on request `last.pt` of what is finished.

    Jobs that can go on from a checkpoint stay, and so do those that run.

    Args:
        sweep: The sweep's directory.
        checkpoints: Whether finished jobs give up what only a resumption would need.
    """
    found = []
    for path in sorted(sweep.glob("*/.hydra")):
        directory = RunDirectory(path.parent)
        status = status_of(directory)
        if directory.is_owned():
            continue
        if status in FINISHED:
            found += [_leftover(each, "set aside") for each in directory.previous.glob("*")]
            last = directory.checkpoint("last")
            if checkpoints and last.is_file():
                found.append(_leftover(last, "only a resumption needs it"))
        elif status in ("failed", "diverged") or not directory.checkpoint("last").exists():
            found.append(_leftover(directory.path, status or "ended without a result"))
        else:
            found += [_leftover(each, "set aside") for each in directory.previous.glob("*")]
    return found


def remove(found: Sequence[Leftover]) -> list[str]:
    """Remove it; what could not be removed, and why."""
    problems = []
    for each in found:
        try:
            if each.why == "set aside" or each.path.is_file():
                _delete(each.path)
            else:
                with owned(RunDirectory(each.path)):
                    _delete(each.path)
        except (UserError, OSError) as error:
            problems.append(f"{each.path}: {error}")
    return problems


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _leftover(path: Path, why: str) -> Leftover:
    files = path.rglob("*") if path.is_dir() else [path]
    return Leftover(
        path, why, sum(each.stat().st_size for each in files if each.is_file() and not each.is_symlink())
    )
