"""All runs below some folders, kept up to date."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vae_exp.dashboard.runs.discovery import RunDiscovery
from vae_exp.dashboard.runs.run import Run, RunSegment

_DISCOVERY_SECONDS = 2.0
_SECONDS_PER_FILE = 0.25
_MAX_RUNS = 10_000

_log = logging.getLogger(__name__)


class RunStore:
    """Runs by their key. Hold `lock` to read them; one thread calls `refresh`.

    Args:
        roots: Folders that are searched at any depth, or files.
        clock: Seconds since 1970.
    """

    def __init__(self, roots: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._discovery = RunDiscovery(roots)
        self.lock = threading.RLock()
        self.identity = secrets.token_hex(8)
        self.runs: dict[str, Run] = {}
        self.version = 0
        self.pending = 0
        self.notes: list[str] = []
        self._clock = clock
        self._segments: dict[Path, RunSegment] = {}
        self._unassigned: dict[Path, RunSegment] = {}
        self._owner: dict[Path, Run] = {}
        self._outside: set[Path] = set()
        self._is_full = False
        self._removed: dict[str, int] = {}
        self._discovered = float("-inf")

    def removed_since(self, version: int) -> list[str]:
        """Return the keys of runs whose files have gone since then."""
        return [key for key, removed in self._removed.items() if removed > version]

    def read_all(self) -> None:
        """Read everything that has been written."""
        while self.refresh():
            pass

    def refresh(self) -> bool:
        """Read what was written since the last call, of each file for at most a moment.

        Returns:
            Whether there is more to read.
        """
        if time.monotonic() - self._discovered >= _DISCOVERY_SECONDS:
            self._discover()
            self._discovered = time.monotonic()
        latest_first = sorted(self._unassigned, reverse=True)  # the last attempt decides the state of a run
        segments = [self._unassigned[path] for path in sorted(latest_first, key=lambda path: path.parent.parent)]
        self.pending = sum(not segment.was_read for segment in segments)
        segments += [segment for run in list(self.runs.values()) for segment in run.segments]
        for segment in segments:
            is_new = not segment.was_read
            self._refresh(segment)
            self.pending -= is_new and segment.was_read
        with self.lock:
            self._update_states()
            self._number_attempts()
            self.notes = self._make_notes()
        return any(segment.has_more for segment in segments)

    def _discover(self) -> None:
        files = self._discovery.files()
        with self.lock:
            for path, is_inside in files.items():
                if path not in self._segments:
                    self._segments[path] = self._unassigned[path] = RunSegment(path)
                    if not is_inside:
                        self._outside.add(path)
            for path in [path for path in self._segments if path not in files]:
                if not self._discovery.is_unreadable(path):
                    segment = self._segments.pop(path)
                    self._unassigned.pop(path, None)
                    self._outside.discard(path)
                    self._detach(segment)

    def _detach(self, segment: RunSegment) -> None:
        """Remove a segment from its run, and the run if it was the last."""
        run = self._owner.pop(segment.path, None)
        if run is not None:
            run.segments.remove(segment)
            self._mark_changed(run)
            if not run.segments:
                del self.runs[run.key]
                self._removed[run.key] = self.version

    def _refresh(self, segment: RunSegment) -> None:
        """Read without the lock, portion by portion, and apply with it; an error affects no other file."""
        deadline = time.monotonic() + _SECONDS_PER_FILE
        try:
            while True:
                events = segment.read()
                if events or segment.is_stale_generation:
                    with self.lock:
                        segment.apply_events(events)
                        self._place(segment)
                if not segment.has_more or time.monotonic() >= deadline:
                    return
        except Exception as error:
            segment.mark_unreadable(f"{type(error).__name__}: {error}")
            _log.debug("%s could not be read", segment.path, exc_info=True)

    def _place(self, segment: RunSegment) -> None:
        owner = self._owner.get(segment.path)
        if owner is not None and owner.run_id != segment.info.run_id:  # another run's file has taken the name
            self._detach(segment)
            self._unassigned[segment.path] = segment
            owner = None
        if owner is not None:
            self._mark_changed(owner)
        elif segment.path in self._unassigned and segment.info.run_id:
            del self._unassigned[segment.path]
            run_directory = segment.config.get("run_directory")
            if segment.path not in self._outside or self._discovery.is_below_a_root(run_directory):
                self._assign(segment)

    def _assign(self, segment: RunSegment) -> None:
        """Add a segment to its run; runs of one id in different W&B folders are different runs."""
        key = segment.info.run_id
        folder = segment.path.parent.parent
        for number in range(2, 1000):
            run = self.runs.get(key)
            if run is None or run.segments[0].path.parent.parent == folder:
                break
            key = f"{segment.info.run_id}~{number}"
        if run is None:
            if len(self.runs) >= _MAX_RUNS:
                self._is_full = True
                return
            run = self.runs[key] = Run(segment.info.run_id, key)
            self._removed.pop(key, None)
        self._owner[segment.path] = run
        run.segments.append(segment)
        run.segments.sort(key=lambda x: (x.info.started, x.path.name))
        self._mark_changed(run)

    def _update_states(self) -> None:
        now = self._clock()
        for run in self.runs.values():
            if run.state_at(now) != run.state:
                self._mark_changed(run)

    def _number_attempts(self) -> None:
        """Number the runs that share a W&B folder and a run directory: attempts at one job."""
        attempts: dict[tuple[Path, str], list[Run]] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.started):
            directory = run.segments[-1].config.get("run_directory")
            if isinstance(directory, str):
                attempts.setdefault((run.segments[0].path.parent.parent, directory), []).append(run)
        for runs in attempts.values():
            for number, run in enumerate(runs, 1):
                if (run.attempt, run.is_replaced) != (number, number < len(runs)):
                    run.attempt, run.is_replaced = number, number < len(runs)
                    self._mark_changed(run)

    def _mark_changed(self, run: Run) -> None:
        self.version += 1
        run.version = self.version
        if run.segments:
            run.state = run.state_at(self._clock())

    def _make_notes(self) -> list[str]:
        """Messages for the user about what is not shown."""
        notes = [f"{_MAX_RUNS} runs are shown, others left out"] if self._is_full else []
        unread = [segment for segment in self._unassigned.values() if segment.was_read or segment.problem]
        if unread:
            reason = unread[0].data_loss or "no run in it yet"
            notes.append(f"{len(unread)} files could not be read, such as {unread[0].path.name}: {reason}")
        return notes
