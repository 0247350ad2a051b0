"""`python -m vae_exp.sync DIR…`: upload offline W&B runs through `wandb sync`, many at once.

A resumed run has one segment on disk per attempt. `wandb sync` replaces the rows that the server has of a run;
with `WANDB_RESUME=allow` it appends to them. Every run is therefore uploaded as a whole in two passes: the first
segments of all runs, then all later ones with `WANDB_RESUME=allow`. Within a pass W&B uploads the segments of one
run one after another, in the order of their start.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import RunLockedError, UserError, exit_with_message
from vae_exp.storage.atomic_io import absolute_path, check_writable
from vae_exp.tracking.offline_runs import OfflineRun, Segment, find_offline_runs, folders_of
from vae_exp.tracking.sync_ledger import SyncLedger

LOCK_NAME = ".vae_exp_synced.lock"
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 5.0
_NOT_INHERITED = ("WANDB_RESUME", "WANDB_RUN_ID", "WANDB_SILENT", "WANDB_QUIET")
_ERRORS = ("wandb: ERROR", "Error: ")
_NO_REASON = "Find detailed error logs at"
_NAMED = 5  # runs in a message
_TRUNCATED = "ends with an incomplete record"  # printed after all whole records of a killed run are sent
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class WandbSync:
    """The command that uploads.

    Args:
        argv: The command; directories of segments are appended.
        leaves_markers: Whether it leaves W&B's markers; a segment without one has failed.
        locks: Descriptors of files that stay locked until the command ends, even if this process is killed.
    """

    argv: Sequence[str]
    leaves_markers: bool
    locks: Sequence[int]

    def upload(
        self, segments: Sequence[Segment], shutdown: GracefulShutdown, *, resume: bool
    ) -> dict[Segment, str]:
        """Upload segments; with `resume` their rows are appended to those of the server.

        Returns:
            For every segment that was attempted to its end, the reason of its failure, empty if there is none.
        """
        if not segments or shutdown.count:
            return {}
        for segment in segments:
            segment.marker.unlink(missing_ok=True)
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        if resume:
            environment["WANDB_RESUME"] = "allow"
        with tempfile.NamedTemporaryFile() as output, Path(output.name).open(errors="replace") as reader:
            try:
                process = subprocess.Popen(  # noqa: S603 - wandb, or the command of the user
                    [*self.argv, *(str(segment.path) for segment in segments)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the command
                    pass_fds=self.locks,
                )
            except OSError as error:
                return dict.fromkeys(segments, str(error))
            text = _wait(process, reader, shutdown)
        return self._failures(segments, process.returncode, text, is_stopped=bool(shutdown.count))

    def _failures(
        self, segments: Sequence[Segment], code: int, text: str, *, is_stopped: bool
    ) -> dict[Segment, str]:
        """Read the output: the exit code of `wandb sync` is 0 for most failures."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", _COLOURS.sub("", text)) if line.strip()]
        errors = [line for line in lines if line.startswith(_ERRORS) and _TRUNCATED not in line]
        truncated = [line for line in lines if _TRUNCATED in line]
        others = [line for line in errors if not any(_concerns(line, segment) for segment in segments)]
        others.sort(key=lambda line: _NO_REASON not in line)  # the last one is the reason
        last = others[-1] if others else lines[-1] if lines else "no output"
        failures = {}
        for segment in segments:
            own = [line for line in errors if _concerns(line, segment)]
            is_truncated = any(segment.path.name in line for line in truncated)
            if own:
                failures[segment] = own[-1]
            elif segment.marker.exists() or (is_truncated and not is_stopped):
                failures[segment] = ""
            elif not is_stopped:
                nothing = f"{last} (nothing was uploaded)" if self.leaves_markers else ""
                failures[segment] = f"{last} (exit code {code})" if code else nothing
        if others and not any(failures.values()):  # an error that names no run may concern any of them
            failures = dict.fromkeys(failures, others[-1])
        for segment in segments:
            if failures.get(segment):  # W&B leaves a marker even where the server has refused the data
                segment.marker.unlink(missing_ok=True)
        return failures


def _concerns(line: str, segment: Segment) -> bool:
    return f"/{segment.run_id}]" in line or segment.path.name in line


def _wait(process: subprocess.Popen[bytes], reader: Iterable[str], shutdown: GracefulShutdown) -> str:
    """Show the output until the command ends; a signal stops it, a second one or a long wait kills it."""
    text = ""
    deadline = float("inf")
    while True:
        is_ended = process.poll() is not None
        chunk = "".join(reader)
        text += chunk
        print(chunk, end="", file=sys.stderr, flush=True)
        if is_ended:
            return text
        with suppress(ProcessLookupError, PermissionError):
            if shutdown.count > 1 or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
            elif shutdown.count and deadline == float("inf"):
                deadline = time.monotonic() + _GRACE_SECONDS
                os.killpg(process.pid, signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _sync(args: argparse.Namespace) -> int:
    """Do what was requested; the exit code."""
    runs = find_offline_runs(absolute_path("DIR", directory) for directory in args.directories)
    target = {"project": args.project, "entity": args.entity}
    folders = folders_of(runs)
    if args.dry_run:
        pending, others = _pending(runs, SyncLedger(folders, target), include_running=args.include_running)
        for run in pending:
            print(f"would upload {run.name}: {', '.join(segment.path.name for segment in run.segments)}")
        print(f"{len(pending)} to upload, {others}")
        return 0
    argv = _command(args)
    with GracefulShutdown(second_signal_kills=False) as shutdown, _locked(folders) as locks:
        ledger = SyncLedger(folders, target)
        pending, others = _pending(runs, ledger, include_running=args.include_running)
        uploaded, failed = _upload(pending, WandbSync(argv, args.command is None, locks), ledger, shutdown)
    left = len(pending) - uploaded - failed
    print(f"{uploaded} uploaded, {failed} failed" + (f", {left} left" if left else "") + f", {others}", flush=True)
    if shutdown.signal_number is not None:
        print("Interrupted; run the same command to continue.", file=sys.stderr)
        return 128 + shutdown.signal_number
    return min(failed, 1)


def _pending(
    runs: Sequence[OfflineRun], ledger: SyncLedger, *, include_running: bool
) -> tuple[list[OfflineRun], str]:
    """Return the runs that are to be uploaded, and how many are not."""
    new = [run for run in runs if not ledger.contains(run)]
    running = [run for run in new if not include_running and run.is_running()]
    for run in running:
        print(f"skipped {run.name}: it is still being written (see --include-running)", flush=True)
    others = f"{len(runs) - len(new)} uploaded before, {len(running)} still being written"
    return [run for run in new if run not in running], others


def _upload(
    runs: Sequence[OfflineRun], wandb: WandbSync, ledger: SyncLedger, shutdown: GracefulShutdown
) -> tuple[int, int]:
    """Upload the runs in two passes; how many were uploaded, and how many failed."""
    fingerprints = {segment: segment.fingerprint() for run in runs for segment in run.segments}
    first = [run.segments[0] for run in runs if not ledger.has_earlier_segments(run)]
    results = wandb.upload(first, shutdown, resume=False)
    sent = {segment for segment, reason in results.items() if not reason}
    unsent = set(first) - sent
    resumable = [run for run in runs if run.segments[0] not in unsent]
    later = [segment for run in resumable for segment in run.segments if segment not in sent]
    results |= wandb.upload(later, shutdown, resume=True)
    uploaded, failures = 0, defaultdict[str, list[str]](list)
    for run in runs:
        reason = next((results[x] for x in run.segments if results.get(x)), "")
        if not reason and all(segment in results for segment in run.segments):
            try:
                ledger.add(run, fingerprints)
            except OSError as error:
                reason = f"uploaded, but that could not be recorded: {error}"
            else:
                uploaded += 1
                count = len(run.segments)
                print(f"uploaded {run.name}" + (f", {count} segments" if count > 1 else ""), flush=True)
        if reason:
            failures[reason].append(run.name)
    for reason, names in failures.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        print(f"failed {', '.join(names[:_NAMED])}{more}: {reason}", file=sys.stderr, flush=True)
    return uploaded, sum(map(len, failures.values()))


@contextmanager
def _locked(folders: Iterable[Path]) -> Iterator[list[int]]:
    """Keep other processes from uploading from these folders, until the block and its uploads end.

    Raises:
        RunLockedError: if another process uploads from one.
        UserError: if a folder cannot be written to, and on Windows.
    """
    if sys.platform == "win32":
        raise UserError(
            "DIR cannot be locked on Windows, so nothing is uploaded from there by this command; say "
            "`wandb sync FOLDER` for each folder offline-run-* (--dry-run lists them), or work in WSL."
        )
    import fcntl

    with ExitStack() as stack:
        numbers = []
        for folder in folders:
            check_writable(folder, "DIR")
            file = stack.enter_context((folder / LOCK_NAME).open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunLockedError(
                    f"another process is uploading from {folder}; wait for its end or stop it."
                ) from None
            numbers.append(file.fileno())
        yield numbers


def _command(args: argparse.Namespace) -> list[str]:
    """Return the command that uploads, without the directories.

    Raises:
        UserError: if there is no such program.
    """
    if args.command is None:
        bin_dir = Path(sys.executable).parent
        program = shutil.which("wandb", path=str(bin_dir)) or shutil.which("wandb") or str(bin_dir / "wandb")
        argv = [program, "sync", "-n", str(args.workers)]
    else:
        try:
            argv = shlex.split(args.command)
        except ValueError as error:
            raise UserError(f"--command {args.command!r} cannot be split into words: {error}.") from error
    if not argv or shutil.which(argv[0]) is None:
        program = argv[0] if argv else ""
        raise UserError(f"--command: {program!r} is not a program; expected one such as 'wandb sync'.")
    for key in ("project", "entity"):
        if getattr(args, key) is not None:
            argv += [f"--{key}", getattr(args, key)]
    return argv


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.sync",
        description="Upload offline W&B runs, many at once. Uploads are recorded beside the runs: the same "
        "command, given again, uploads runs that are new, have grown or have failed.",
    )
    parser.add_argument(
        "directories",
        nargs="+",
        metavar="DIR",
        help="a folder with wandb/offline-run-*, a sweep, a run directory, or a directory offline-run-* itself",
    )
    parser.add_argument("--workers", type=_positive, default=4, help="number of runs at once (%(default)s)")
    parser.add_argument("--project", help="upload into this project instead of the recorded one")
    parser.add_argument("--entity", help="upload to this account or team")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and upload nothing")
    parser.add_argument(
        "--include-running", action="store_true", help="upload runs that are still being written, as they are"
    )
    parser.add_argument(
        "--command",
        metavar="COMMAND",
        help="uploads the directories that are appended to it (wandb sync -n WORKERS)",
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
