"""`python -m vae_exp.sync DIR…`: upload offline W&B runs, many at once, through wandb's own command.

A run that was resumed has several segments on disk, one per attempt. W&B writes a segment over what its server has
of the run, unless it is told to go on with it; so a run is always uploaded as a whole, its segments one after
another in the order in which they were recorded, the later ones with `WANDB_RESUME=allow`.
"""

import argparse
import fcntl
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import RunLockedError, UserError, exit_with_message
from vae_exp.storage.atomic_io import absolute_path, check_writable
from vae_exp.tracking.offline_runs import OfflineRun, folders_of
from vae_exp.tracking.offline_search import Search
from vae_exp.uploading.memory import Memories
from vae_exp.uploading.uploads import Uploader, Uploads

LOCK_NAME = ".vae_exp_synced.lock"


@contextmanager
def _locked(folders: Iterable[Path]) -> Iterator[list[int]]:
    """For the length of a block, and of the uploads begun in it, no other process uploads from these folders.

    Raises:
        InUseError: if another process does.
        UserError: if a folder cannot be written to.
    """
    with ExitStack() as stack:
        numbers = []
        for folder in folders:
            check_writable(folder, "DIR")
            try:
                file = stack.enter_context((folder / LOCK_NAME).open("a"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLockedError(
                    f"another process is uploading from {folder}; wait for its end or stop it."
                ) from None
            except OSError as error:
                raise UserError(f"DIR={folder} cannot be written to: {error}.") from error
            numbers.append(file.fileno())
        yield numbers


def _command(asked: argparse.Namespace) -> list[str]:
    """The words of the command that uploads, but for what is uploaded.

    Raises:
        UserError: if there is no such command.
    """
    if asked.command is None:
        beside = Path(sys.executable).parent
        words = [shutil.which("wandb", path=str(beside)) or shutil.which("wandb") or str(beside / "wandb"), "sync"]
    else:
        try:
            words = shlex.split(asked.command)
        except ValueError as error:
            raise UserError(f"--command {asked.command!r} cannot be split into words: {error}.") from error
    if not words or shutil.which(words[0]) is None:
        named = words[0] if words else ""
        raise UserError(f"--command: {named!r} is not a program; expected one such as 'wandb sync'.")
    for key in ("project", "entity"):
        if getattr(asked, key) is not None:
            words += [f"--{key}", getattr(asked, key)]
    return words


@dataclass
class Plan:
    """What is to be done about the runs that were found."""

    wanted: list[OfflineRun] = field(default_factory=list)
    before: list[OfflineRun] = field(default_factory=list)
    running: list[OfflineRun] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{len(self.before)} uploaded before, {len(self.running)} still being written"


def _plan(runs: Iterable[OfflineRun], memories: Memories, *, include_running: bool) -> Plan:
    plan = Plan()
    for run in runs:
        if memories.holds(run):
            plan.before.append(run)
        elif not include_running and run.is_running():
            plan.running.append(run)
            print(f"skipped {run.name}: it is still being written (see --include-running)", flush=True)
        else:
            plan.wanted.append(run)
    return plan


def _sync(asked: argparse.Namespace) -> int:
    """Do what was asked for; the exit code."""
    search = Search()
    for each in asked.directories:
        search.look_into(absolute_path("DIR", each))
    return _list(search.runs, asked) if asked.dry_run else _upload(search.runs, asked)


def _list(runs: Sequence[OfflineRun], asked: argparse.Namespace) -> int:
    plan = _plan(runs, Memories(runs, _target(asked)), include_running=asked.include_running)
    for run in plan.wanted:
        print(f"would upload {run.name}: {', '.join(each.path.name for each in run.segments)}")
    print(f"{len(plan.wanted)} to upload, {plan}")
    return 0


def _upload(runs: Sequence[OfflineRun], asked: argparse.Namespace) -> int:
    command = _command(asked)
    with GracefulShutdown(second_signal_kills=False) as stop, _locked(folders_of(runs)) as locks:
        memories = Memories(runs, _target(asked))
        plan = _plan(runs, memories, include_running=asked.include_running)
        uploads = Uploads(Uploader(command, asked.command is None, locks), memories, asked.workers)
        uploads.upload(plan.wanted, stop)
    left = len(plan.wanted) - uploads.uploaded - uploads.failed
    told = f"{uploads.uploaded} uploaded, {uploads.failed} failed" + (f", {left} left" if left else "")
    print(f"{told}, {plan}", flush=True)
    if stop.signal_number is not None:
        print("Interrupted; run the same command to continue.", file=sys.stderr)
        return 128 + stop.signal_number
    return min(uploads.failed, 1)


def _target(asked: argparse.Namespace) -> dict[str, str | None]:
    return {"project": asked.project, "entity": asked.entity}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.sync",
        description="Upload offline W&B runs, many at once. What has been uploaded is remembered beside the runs: "
        "the same command, given again, uploads what is new, has grown or has failed.",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        metavar="DIR",
        help="a folder with wandb/offline-run-*, a sweep, a run directory, or a directory offline-run-* itself",
    )
    parser.add_argument("--workers", type=_positive, default=4, help="how many runs at once (%(default)s)")
    parser.add_argument("--project", help="upload into this project instead of the recorded one")
    parser.add_argument("--entity", help="upload to this account or team")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded, and do nothing")
    parser.add_argument(
        "--include-running", action="store_true", help="upload runs that are still being written, as they are"
    )
    parser.add_argument(
        "--command", metavar="WORDS", help="what uploads a directory given as its last word (wandb sync)"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of uploads; expected 1 or more")
    return value


def main() -> None:
    """The command line."""
    with exit_with_message():
        sys.exit(_sync(_parser().parse_args()))


if __name__ == "__main__":
    main()
