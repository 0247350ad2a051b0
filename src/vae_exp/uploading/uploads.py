"""Uploads that are under way, each by a process of W&B's own command."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.tracking.offline_runs import OfflineRun, Segment
from vae_exp.uploading.memory import Memories

_LOOK_SECONDS = 0.02
_GRACE_SECONDS = 5.0
_NOT_PASSED_ON = ("WANDB_RESUME", "WANDB_RUN_ID", "WANDB_SILENT", "WANDB_QUIET")
_ERROR = "wandb: ERROR"
_CUT_SHORT = "ends with an incomplete record"  # what W&B says after all whole records of a killed run are sent
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Uploader:
    """How one segment is uploaded.

    Args:
        command: The words of a command that takes a segment's directory last.
        leaves_marker: Whether the command leaves W&B's marker, and has failed if it does not.
        locks: Open files that stay locked until the last upload has ended, even if this process is killed.
    """

    command: Sequence[str]
    leaves_marker: bool
    locks: Sequence[int]

    def start(self, segment: Segment, output: int, *, goes_on: bool) -> subprocess.Popen[bytes]:
        """Start to upload; `goes_on` says that W&B has the segments before this one."""
        segment.marker.unlink(missing_ok=True)  # from here on it would not be true
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
        if goes_on:
            environment["WANDB_RESUME"] = "allow"
        return subprocess.Popen(  # noqa: S603 - wandb, or what the user named
            [*self.command, str(segment.path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
            pass_fds=self.locks,
        )

    def failure(self, segment: Segment, code: int, output: str) -> str:
        """What went wrong, empty if nothing did; W&B's exit code is 0 for most of its failures."""
        lines = [line.strip() for line in re.split(r"[\r\n]+", _COLOURS.sub("", output)) if line.strip()]
        errors = [line for line in lines if line.startswith(_ERROR)]
        last = lines[-1] if lines else "no output"
        if code:
            return f"{last} (exit code {code})"
        if errors:
            return "" if all(_CUT_SHORT in line for line in errors) else errors[-1]
        return f"{last} (nothing was uploaded)" if self.leaves_marker and not segment.marker.exists() else ""


class Upload:
    """The upload of one run that is under way: a process for each segment, one after another.

    Args:
        run: The run.
        uploader: How a segment is uploaded.
        continued: Whether W&B has segments that are older than the first.
    """

    def __init__(self, run: OfflineRun, uploader: Uploader, *, continued: bool) -> None:
        self.run = run
        self.failure = ""
        self.stamps: list[dict[str, int]] = []
        self._uploader = uploader
        self._continued = continued
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start to upload the next segment."""
        segment = self.run.segments[len(self.stamps)]
        goes_on = self._continued or bool(self.stamps)
        self.stamps.append(segment.stamp())
        self._output.seek(0)
        self._output.truncate()
        self._process = self._uploader.start(segment, self._output.fileno(), goes_on=goes_on)

    def is_under_way(self) -> bool:
        """Whether a segment is being uploaded."""
        return self._process is not None and self._process.poll() is None

    def settle(self) -> bool:
        """Find out how the upload of a segment ended; whether there is another one to upload."""
        segment = self.run.segments[len(self.stamps) - 1]
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        assert self._process is not None
        self.failure = self._uploader.failure(segment, self._process.returncode, output)
        if self.failure:
            segment.marker.unlink(missing_ok=True)  # W&B leaves one even where its server has refused the data
        return not self.failure and len(self.stamps) < len(self.run.segments)

    def end(self, number: int) -> None:
        """Send a signal to the process, and to what it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Let go of the process, which has ended."""
        if self._process is not None:
            self._process.wait()
        self._output.close()


class Uploads:
    """Uploads runs, several at once; none can harm another.

    Args:
        uploader: How a segment is uploaded.
        memories: What has been uploaded.
        workers: How many runs at once.
    """

    def __init__(self, uploader: Uploader, memories: Memories, workers: int) -> None:
        self.uploaded = 0
        self.failed = 0
        self._uploader = uploader
        self._memories = memories
        self._workers = workers
        self._running: list[Upload] = []

    def upload(self, runs: Iterable[OfflineRun], stop: GracefulShutdown) -> None:
        """Upload runs until all are done, or a stop is asked for: what is under way then is ended."""
        waiting = deque(runs)
        try:
            while (waiting or self._running) and not stop.count:
                while waiting and len(self._running) < self._workers and not stop.count:
                    run = waiting.popleft()
                    upload = Upload(run, self._uploader, continued=self._memories.is_continued(run))
                    self._running.append(upload)
                    self._begin(upload)
                self._collect(stop)
            self._end(stop)
        finally:
            for upload in self._running:
                upload.end(signal.SIGKILL)
                upload.close()

    def _begin(self, upload: Upload) -> None:
        try:
            upload.begin()
        except OSError as error:  # that run alone fails
            self._fail(upload, str(error))

    def _collect(self, stop: GracefulShutdown) -> None:
        """Wait a moment, then look which uploads have ended."""
        time.sleep(_LOOK_SECONDS)
        for upload in [each for each in self._running if not each.is_under_way()]:
            if not upload.settle():
                self._finish(upload, stop)
            elif stop.count:
                self._forget(upload)
            else:
                self._begin(upload)

    def _finish(self, upload: Upload, stop: GracefulShutdown) -> None:
        if not upload.failure:
            self._remember(upload)
        elif stop.count:
            self._forget(upload)
        else:
            self._fail(upload, upload.failure)

    def _remember(self, upload: Upload) -> None:
        try:
            self._memories.add(upload.run, upload.stamps)
        except OSError as error:
            self._fail(upload, f"uploaded, but that could not be remembered: {error}")
            return
        self.uploaded += 1
        count = len(upload.stamps)
        print(f"uploaded {upload.run.name}" + (f", {count} segments" if count > 1 else ""), flush=True)
        self._forget(upload)

    def _fail(self, upload: Upload, reason: str) -> None:
        self.failed += 1
        print(f"failed {upload.run.name}: {reason}", file=sys.stderr, flush=True)
        self._forget(upload)

    def _forget(self, upload: Upload) -> None:
        self._running.remove(upload)
        upload.close()

    def _end(self, stop: GracefulShutdown) -> None:
        """End what is under way; a second request, or too long a wait, ends it by force."""
        for upload in self._running:
            upload.end(signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        while self._running:
            if stop.count > 1 or time.monotonic() > until:
                for upload in self._running:
                    upload.end(signal.SIGKILL)
            self._collect(stop)
