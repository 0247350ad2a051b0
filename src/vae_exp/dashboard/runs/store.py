"""All runs below some folders, kept up to date."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vae_exp.dashboard.runs.discovery import RunDiscovery
from vae_exp.dashboard.runs.run import Run, Segment

_LOOK_FOR_FILES_SECONDS = 2.0
_SECONDS_FOR_A_FILE = 0.25
_MOST_RUNS = 10_000

_log = logging.getLogger(__name__)


class Store:
    """Runs by their key; readers see them under `lock`, a thread of its own reads the files.

    Args:
        roots: Folders that are searched at any depth, or files.
        clock: Seconds since 1970.
    """

    def __init__(self, roots: Sequence[Path], clock: Callable[[], float] = time.time) -> None:
        self._finder = RunDiscovery(roots)
        self.lock = threading.RLock()
        self.identity = secrets.token_hex(8)
        self.runs: dict[str, Run] = {}
        self.version = 0
        self.waiting = 0
        self.notes: list[str] = []
        self._clock = clock
        self._segments: dict[Path, Segment] = {}
        self._homeless: dict[Path, Segment] = {}
        self._home: dict[Path, Run] = {}
        self._outside: set[Path] = set()
        self._full = False
        self._removed: dict[str, int] = {}
        self._looked = float("-inf")

    def removed_since(self, version: int) -> list[str]:
        """The keys of runs whose files are gone since then."""
        return [key for key, at in self._removed.items() if at > version]

    def read_all(self) -> None:
        """Take in everything that has been written."""
        while self.refresh():
            pass

    def refresh(self) -> bool:
        """Take in what has been written since the last call, of each file as much as a moment allows.

        Returns:
            Whether there is more at hand.
        """
        if time.monotonic() - self._looked >= _LOOK_FOR_FILES_SECONDS:
            self._look_for_files()
            self._looked = time.monotonic()
        latest_first = sorted(self._homeless, reverse=True)  # the last attempt decides the state of a run
        segments = [self._homeless[path] for path in sorted(latest_first, key=lambda path: path.parent.parent)]
        self.waiting = sum(not each.was_read for each in segments)
        segments += [segment for run in list(self.runs.values()) for segment in run.segments]
        for segment in segments:
            fresh = not segment.was_read
            self._refresh(segment)
            self.waiting -= fresh and segment.was_read
        with self.lock:
            self._look_at_states()
            self._number_attempts()
            self.notes = self._notes()
        return any(segment.has_more for segment in segments)

    def _look_for_files(self) -> None:
        found = self._finder.files()
        with self.lock:
            for path, inside in found.items():
                if path not in self._segments:
                    self._segments[path] = self._homeless[path] = Segment(path)
                    if not inside:
                        self._outside.add(path)
            for path in [each for each in self._segments if each not in found]:
                if not self._finder.is_out_of_sight(path):
                    self._forget(path)

    def _forget(self, path: Path) -> None:
        segment = self._segments.pop(path)
        self._homeless.pop(path, None)
        self._outside.discard(path)
        self._move_out(segment)

    def _move_out(self, segment: Segment) -> None:
        """Take a segment from its run, and the run away if it was the last."""
        run = self._home.pop(segment.path, None)
        if run is not None:
            run.segments.remove(segment)
            self._touch(run)
            if not run.segments:
                del self.runs[run.key]
                self._removed[run.key] = self.version

    def _refresh(self, segment: Segment) -> None:
        """Read outside of the lock, portion by portion, and take in under it; no file holds the others up."""
        until = time.monotonic() + _SECONDS_FOR_A_FILE
        try:
            while True:
                events = segment.read()
                if events or segment.was_replaced:
                    with self.lock:
                        segment.take(events)
                        self._place(segment)
                if not segment.has_more or time.monotonic() >= until:
                    return
        except Exception as error:
            segment.give_up(f"{type(error).__name__}: {error}")
            _log.debug("%s could not be read", segment.path, exc_info=True)

    def _place(self, segment: Segment) -> None:
        home = self._home.get(segment.path)
        if home is not None and home.run_id != segment.info.run_id:  # another run's file has taken the name
            self._move_out(segment)
            self._homeless[segment.path] = segment
            home = None
        if home is not None:
            self._touch(home)
        elif segment.path in self._homeless and segment.info.run_id:
            del self._homeless[segment.path]
            run_directory = segment.config.get("run_directory")
            if segment.path not in self._outside or self._finder.is_below_a_root(run_directory):
                self._settle(segment)

    def _notes(self) -> list[str]:
        """What the person who looks should know."""
        told = [f"{_MOST_RUNS} runs are shown, others left out"] if self._full else []
        unread = [each for each in self._homeless.values() if each.was_read or each.problem]
        if unread:
            reason = unread[0].lost or "no run in it yet"
            told.append(f"{len(unread)} files could not be read, such as {unread[0].path.name}: {reason}")
        return told

    def _settle(self, segment: Segment) -> None:
        """Put a segment to its run; runs of one id in folders of their own are different ones."""
        key = segment.info.run_id
        home = segment.path.parent.parent
        for number in range(2, 1000):
            run = self.runs.get(key)
            if run is None or run.segments[0].path.parent.parent == home:
                break
            key = f"{segment.info.run_id}~{number}"
        if run is None:
            if len(self.runs) >= _MOST_RUNS:
                self._full = True
                return
            run = self.runs[key] = Run(segment.info.run_id, key)
            self._removed.pop(key, None)
        self._home[segment.path] = run
        run.segments.append(segment)
        run.segments.sort(key=lambda each: (each.info.started, each.path.name))
        self._touch(run)

    def _look_at_states(self) -> None:
        now = self._clock()
        for run in self.runs.values():
            if run.state_at(now) != run.state:
                self._touch(run)

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
                    self._touch(run)

    def _touch(self, run: Run) -> None:
        self.version += 1
        run.version = self.version
        if run.segments:
            run.state = run.state_at(self._clock())
