"""All runs below some folders, kept up to date."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from vae_exp.dashboard.runs.cache import SegmentCache
from vae_exp.dashboard.runs.discovery import RunDiscovery
from vae_exp.dashboard.runs.packing import pack, unpack
from vae_exp.dashboard.runs.run import STALE_SECONDS, Run
from vae_exp.dashboard.runs.run_notes import Note, NoteFiles, note_status
from vae_exp.dashboard.runs.segment import RunSegment
from vae_exp.dashboard.runs.sweep_labels import label_jobs
from vae_exp.errors import quantity

_DISCOVERY_SECONDS = 2.0
_DISCOVERY_SHARE = 0.05  # of the time at most
_SECONDS_PER_REFRESH = 1.0
_SECONDS_PER_FILE = 0.25
_SETTLED_SECONDS = 2.0  # until a further change of a file is sure to change its time
_MAX_RUNS = 10_000

_log = logging.getLogger(__name__)


class RunStore:
    """Runs by their key. Hold `lock` to read them; one thread calls `refresh`.

    Args:
        roots: Folders that are searched at any depth, or files.
        clock: Seconds since 1970.
        cache: What earlier stores have read.
    """

    def __init__(
        self, roots: Sequence[Path], clock: Callable[[], float] = time.time, cache: SegmentCache | None = None
    ) -> None:
        self._discovery = RunDiscovery(roots)
        self.lock = threading.RLock()
        self.note_files = NoteFiles(self.is_below_a_root)
        self.identity = secrets.token_hex(8)
        self.runs: dict[str, Run] = {}
        self._by_folder: dict[tuple[str, Path], Run] = {}  # by id and W&B folder
        self.version = 0
        self.notes: list[str] = []
        self._clock = clock
        self._cache = cache or SegmentCache(None)
        self._segments: dict[Path, RunSegment] = {}
        self._owner: dict[Path, Run] = {}
        self._is_full = False
        self._removed: dict[str, int] = {}
        self._arranged = -1  # the version in which attempts and labels are right
        self._arranged_runs = 0
        self._discovered = float("-inf")
        self._discovery_seconds = _DISCOVERY_SECONDS

    @property
    def pending(self) -> int:
        """How many files are still to be read; one until the first search has ended."""
        is_searching = self._discovered == float("-inf")
        return 1 if is_searching else sum(segment.is_behind for segment in self._segments.values())

    def removed_since(self, version: int) -> list[str]:
        """Return the keys of runs whose files have gone since then."""
        return [key for key, removed in self._removed.items() if removed > version]

    def is_below_a_root(self, directory: str) -> bool:
        """Whether a run directory is below one of the folders."""
        return self._discovery.is_below_a_root(directory)

    def read_all(self) -> None:
        """Read everything that has been written."""
        while self.refresh():
            pass

    def close(self) -> None:
        """Close the cache, in the thread that has read."""
        self._cache.close()

    def refresh(self) -> bool:
        """Read for about a second what was written since the last call, of each file for at most a moment.

        Returns:
            Whether there is more to read.
        """
        start = time.monotonic()
        is_due = start - self._discovered >= self._discovery_seconds
        if is_due:
            self._discover()
            self._discovered = time.monotonic()
            self._discovery_seconds = max(_DISCOVERY_SECONDS, (self._discovered - start) / _DISCOVERY_SHARE)
        self._read(time.monotonic() + _SECONDS_PER_REFRESH)
        with self.lock:
            self._assign_further_segments()
            self._update_states()
            pending = self.pending
            if self.version != self._arranged and (not pending or len(self.runs) > 1.2 * self._arranged_runs):
                self._number_attempts()
                self._label_jobs()
                self._arranged, self._arranged_runs = self.version, len(self.runs)
            self.notes = self._make_notes()
            unread = [run for run in self.runs.values() if is_due or run.note_status == ()]
        for run in unread:
            self.refresh_note(run)
        return pending > 0

    def _read(self, deadline: float) -> None:
        """Read files that have changed or may grow, and store those that have ended in the cache."""
        now = self._clock()
        behind = [segment for segment in self._segments.values() if segment.is_behind]
        growing = [x for x in self._segments.values() if not x.is_behind and not _has_ended(x, now)]
        entries = []
        for number, segment in enumerate(growing + behind):
            if number and time.monotonic() >= deadline:
                break
            if segment.status is None and self._restore(segment):
                continue
            self._refresh(segment)
            if segment.has_more:  # its next turn is after those of the others
                with self.lock:
                    self._segments[segment.path] = self._segments.pop(segment.path)
            if segment.progress and _has_ended(segment, now) and now - segment.modified > _SETTLED_SECONDS:
                entries.append(segment)
        self._cache.put([(x.path, x.status, pack(x)) for x in entries if x.status is not None])

    def refresh_note(self, run: Run) -> None:
        """Read the note of a run if it has changed."""
        directory = run.directory
        status = note_status(directory) if directory else None
        if status != run.note_status:
            note = self.note_files.read(directory) if status else Note()
            with self.lock:
                run.note_status = status
                if note != run.note:
                    run.note = note
                    self._mark_changed(run)

    def _discover(self) -> None:
        files = self._discovery.files()
        with self.lock:
            for path, segment in list(self._segments.items()):
                file = files.get(path)
                is_gone = file is None and not self._discovery.is_unreadable(path)
                if is_gone or (file is not None and segment.is_outdated(file.status)):
                    self._remove(segment)
                elif file is not None and segment.has_changed(file.status):
                    segment.has_more = True
            for path in sorted(
                files.keys() - self._segments.keys(), key=str, reverse=True
            ):  # the last attempt first
                self._segments[path] = RunSegment(path, files[path].is_below_root)

    def _restore(self, segment: RunSegment) -> bool:
        """Replace a new segment by what the cache has of its file; False if that is nothing."""
        try:
            status = segment.path.stat()
            data = self._cache.get(segment.path, status)
            restored = None if data is None else unpack(data, segment.path, segment.is_below_root, status)
        except Exception:
            _log.debug("what the cache has of %s cannot be used", segment.path, exc_info=True)
            return False
        if restored is None:
            return False
        with self.lock:
            self._segments[segment.path] = restored
            self._assign(restored)
        return True

    def _remove(self, segment: RunSegment) -> None:
        """Remove a segment, and its run if it was the last."""
        del self._segments[segment.path]
        run = self._owner.pop(segment.path, None)
        if run is not None:
            run.segments.remove(segment)
            self._mark_changed(run)
            if not run.segments:
                del self.runs[run.key], self._by_folder[run.run_id, segment.folder]
                self._removed[run.key] = self.version

    def _refresh(self, segment: RunSegment) -> None:
        """Read without the lock, portion by portion, and apply with it; an error affects no other file."""
        deadline = time.monotonic() + _SECONDS_PER_FILE
        try:
            while True:
                records = segment.read()
                if records:
                    with self.lock:
                        segment.apply(records)
                        self._assign(segment)
                if not segment.has_more or time.monotonic() >= deadline:
                    return
        except Exception as error:
            segment.problem, segment.has_more = f"{type(error).__name__}: {error}", False
            _log.debug("%s could not be read", segment.path, exc_info=True)

    def _assign(self, segment: RunSegment) -> None:
        """Note that the run of a segment has changed; find that of a new segment."""
        run = self._owner.get(segment.path)
        if run is None and segment.info.run_id:
            directory = segment.config.get("run_directory")
            if segment.is_below_root or self._discovery.is_below_a_root(directory):
                run = self._run_of(segment)
        if run is not None:
            self._mark_changed(run)

    def _run_of(self, segment: RunSegment) -> Run | None:
        """Add a segment to its run, a new one if need be; in different W&B folders one id means two runs."""
        run_id, identity = segment.info.run_id, (segment.info.run_id, segment.folder)
        run = self._by_folder.get(identity)
        if run is None:
            if len(self.runs) >= _MAX_RUNS:
                self._is_full = True
                return None
            keys = (run_id if number == 1 else f"{run_id}~{number}" for number in count(1))
            key = next(key for key in keys if key not in self.runs)
            run = self.runs[key] = self._by_folder[identity] = Run(run_id, key)
            self._removed.pop(key, None)
        self._add(segment, run)
        return run

    def _assign_further_segments(self) -> None:
        """Add to the runs those of their segments that do not say to which run directory they belong."""
        for segment in self._segments.values():
            if segment.info.run_id and segment.path not in self._owner:
                run = self._by_folder.get((segment.info.run_id, segment.folder))
                if run is not None:
                    self._add(segment, run)
                    self._mark_changed(run)

    def _add(self, segment: RunSegment, run: Run) -> None:
        self._owner[segment.path] = run
        run.segments.append(segment)
        run.segments.sort(key=lambda x: (x.info.started, x.path.name))

    def _update_states(self) -> None:
        """Note what changes with the time alone; other states change with a file."""
        now = self._clock()
        for run in self.runs.values():
            if run.state in ("reading", "running") and run.state_at(now) != run.state:
                self._mark_changed(run)

    def _number_attempts(self) -> None:
        """Number the runs that share a W&B folder and a run directory: attempts at one job."""
        attempts: dict[tuple[Path, str], list[Run]] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.started):
            directory = run.trained.config.get("run_directory")
            if isinstance(directory, str):
                attempts.setdefault((run.segments[0].folder, directory), []).append(run)
        for runs in attempts.values():
            for number, run in enumerate(runs, 1):
                if (run.attempt, run.is_replaced) != (number, number < len(runs)):
                    run.attempt, run.is_replaced = number, number < len(runs)
                    self._mark_changed(run)

    def _label_jobs(self) -> None:
        """Label the jobs of sweeps: one more job may make the labels of others longer."""
        for run in label_jobs(self.runs.values()):
            self._mark_changed(run)

    def _mark_changed(self, run: Run) -> None:
        self.version += 1
        run.version = self.version
        if run.segments:
            run.state = run.state_at(self._clock())

    def _make_notes(self) -> list[str]:
        """Messages for the user about what is not shown."""
        notes = [f"{_MAX_RUNS} runs are shown, others left out"] if self._is_full else []
        unknown = [x for x in self._segments.values() if not x.info.run_id and not x.is_behind]
        if unknown:
            reason = unknown[0].data_loss or "no run in it yet"
            files = quantity(len(unknown), "file")
            notes.append(f"{files} could not be read, such as {unknown[0].path.name}: {reason}")
        return notes


def _has_ended(segment: RunSegment, now: float) -> bool:
    """Whether its process is not expected to write any more."""
    return segment.exit_code is not None or now - segment.modified >= STALE_SECONDS
