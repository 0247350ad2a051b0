"""A run: its segments together."""

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import ior

import numpy as np
import numpy.typing as npt

from vae_exp.dashboard.reader.records import Value
from vae_exp.dashboard.runs.console_lines import MAX_LINES, ConsoleText
from vae_exp.dashboard.runs.history import Numbers
from vae_exp.dashboard.runs.media import ImageFile
from vae_exp.dashboard.runs.run_notes import Note, Status
from vae_exp.dashboard.runs.segment import Alert, RunInfo, RunSegment

STALE_SECONDS = 90.0  # W&B writes the state of the machine more often than that while a run lasts
_GPU = re.compile(r"gpu\.\d+\.(gpu|memory|memoryAllocated|memoryAllocatedBytes)")
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass
class Run:
    """A run: its segments in the order of their start.

    Args:
        run_id: The id that all segments share.
        key: The dashboard's name for it: the id, extended where two roots hold different runs of the same id.
        segments: At least one. Those that only add scores to the summary do not count as training.
        version: The version of the store at its last change.
        state: `reading`, `running`, `finished`, `pruned`, `interrupted`, `diverged`, `failed` or `stale`.
        attempt: Which attempt at its run directory it is, from 1.
        is_replaced: Whether a later attempt has the same run directory.
        overrides: Of the job of a sweep: short key and value, by key.
        note: What people have written about it.
        note_status: Of its file when it was read last; None without one, empty before the first look.
        label: The job beside those of its sweep; empty for other runs and where `tracker.name` has named it.
    """

    run_id: str
    key: str
    segments: list[RunSegment] = field(default_factory=list)
    version: int = 0
    state: str = "reading"
    attempt: int = 1
    is_replaced: bool = False
    overrides: dict[str, tuple[str, str]] = field(default_factory=dict)
    note: Note = field(default_factory=Note)
    note_status: Status | tuple[()] | None = ()
    label: str = ""

    @property
    def trained(self) -> RunSegment:
        """The last segment that is of the training, and not of scores that were added to it afterwards."""
        return next(
            (segment for segment in reversed(self.segments) if not segment.is_of_scores), self.segments[-1]
        )

    @property
    def info(self) -> RunInfo:
        """Identity according to the last segment of the training."""
        return self.trained.info

    @property
    def config(self) -> dict[str, Value]:
        """Flat keys and their values."""
        return _merge(segment.config for segment in self.segments)

    @property
    def summary(self) -> dict[str, Value]:
        """The last value of every key; W&B's own are those of the training, the run time that of all its segments.

        Test scores of an epoch that is no longer the best or the last, because the run was resumed, are left out.
        """
        trained = [segment for segment in self.segments if not self._is_added(segment)]
        summary = _merge(segment.summary if segment in trained else segment.scores for segment in self.segments)
        if len(trained) > 1:
            times, _ = trained[-1].history.series("_runtime", "_runtime")
            if len(times):
                summary["_runtime"] = float(times[-1]) + _time_offsets(trained, [None] * len(trained))[-1]
        epochs = [summary.get(key) for key in ("best/epoch", "epoch")]
        if summary.get("test/epoch", epochs[0]) not in epochs:
            return {key: value for key, value in summary.items() if not key.startswith("test/")}
        return summary

    @property
    def environment(self) -> dict[str, Value]:
        """Host, user, command line of the training."""
        return _merge(segment.environment for segment in self.segments if not self._is_added(segment))

    @property
    def directory(self) -> str:
        """The run directory; empty for runs of other programs."""
        directories = (segment.config.get("run_directory") for segment in reversed(self.segments))
        return next((directory for directory in directories if isinstance(directory, str)), "")

    @property
    def sweep(self) -> str:
        """The directory of the sweep whose job it is; empty for other runs."""
        directory = self.trained.config.get("run_directory")
        return str(directory).rpartition("/")[0] if directory and self.info.job_type == "sweep" else ""

    @property
    def started(self) -> float:
        """Seconds since 1970."""
        return self.segments[0].info.started

    @property
    def exit_code(self) -> int | None:
        """0 for success; None if it has not ended."""
        return self.trained.exit_code

    @property
    def keys(self) -> list[str]:
        """Keys with numbers in any segment."""
        return list(dict.fromkeys(key for segment in self.segments for key in segment.history.keys))

    @property
    def gpu_keys(self) -> list[str]:
        """Keys of what W&B measured of GPUs: use and memory."""
        keys = dict.fromkeys(key for segment in self.segments for key in segment.machine.keys)
        return list(filter(_GPU.fullmatch, keys))

    @property
    def pictures(self) -> list[ImageFile]:
        """All images; for steps that were run twice, those of the last time."""
        names = [{(picture.key, picture.step) for picture in segment.pictures} for segment in self.segments]
        return [
            picture
            for number, (segment, cut) in enumerate(zip(self.segments, self._cuts(), strict=True), 1)
            for picture in segment.pictures
            if cut is None
            or picture.step < cut
            or (picture.step == cut and (picture.key, cut) not in set().union(*names[number:]))
        ]

    @property
    def console(self) -> list[ConsoleText]:
        """The last lines it printed."""
        return [text for segment in self.segments for text in segment.console][-MAX_LINES:]

    @property
    def alerts(self) -> list[Alert]:
        """Warnings that it sent."""
        return [alert for segment in self.segments for alert in segment.alerts]

    @property
    def data_loss(self) -> str:
        """What could not be read; empty if nothing."""
        parts = [segment.data_loss for segment in self.segments]
        unread = sum(segment.unread for segment in self.segments)
        if unread and self.state not in ("reading", "running"):
            parts.append(f"{unread} bytes at the end are not a whole record")
        return "; ".join(filter(None, parts))

    def _is_added(self, segment: RunSegment) -> bool:
        return segment.is_of_scores and segment is not self.trained

    def state_at(self, now: float) -> str:
        """Return the state; `reading` until every file is read to its end, which alone says how the run ended.

        Args:
            now: Seconds since 1970.
        """
        if any(segment.is_behind for segment in self.segments):
            return "reading"
        code, status = self.exit_code, self.trained.summary.get("status")
        if code == 0:
            return "pruned" if status == "pruned" else "finished"
        if code is not None:
            if status in ("diverged", "interrupted"):
                return str(status)
            return "interrupted" if code in _INTERRUPTED else "failed"
        return "stale" if now - self.trained.modified >= STALE_SECONDS else "running"

    def series(self, key: str, against: str | None = None) -> tuple[Numbers, Numbers]:
        """Return the numbers of a key, each step as the last segment has it that ran it.

        Args:
            key: The key.
            against: The key of the x-axis; None takes the step.
        """
        cuts = zip(self.segments, self._cuts_of(key), strict=True)
        pieces = [segment.history.series(key, against, cut) for segment, cut in cuts]
        offsets = _time_offsets(self.segments, self._cuts()) if against == "_runtime" else [0.0] * len(pieces)
        places = [x + offset for (x, _), offset in zip(pieces, offsets, strict=True)]
        return np.concatenate(places), np.concatenate([y for _, y in pieces])

    def gpu_series(self, key: str, against: str | None = None) -> tuple[Numbers, Numbers]:
        """Return what was measured of a GPU, against how far the run was at that time, from 0 at its start.

        Args:
            key: One of `gpu_keys`.
            against: As in `series`.
        """
        pieces = [segment.machine.series(key, "_timestamp") for segment in self.segments]
        times, values = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        places, row_times = self.series("_timestamp", against)
        return np.interp(times, [self.started, *row_times], [0.0, *places]), values

    def rows(self) -> tuple[npt.NDArray[np.int64], dict[str, Numbers]]:
        """Return the steps `[N]`, and by key the numbers `[N]`, NaN where a step has none; each step once."""
        cuts = zip(self.segments, self._cuts(), strict=True)
        parts = [segment.history.rows(None if cut is None else cut + 1) for segment, cut in cuts]
        steps = np.concatenate([steps for steps, _ in parts])
        missing = [np.full(len(steps), np.nan) for steps, _ in parts]
        columns = {
            key: np.concatenate([values.get(key, nan) for (_, values), nan in zip(parts, missing, strict=True)])
            for key in self.keys
        }
        repeated = np.flatnonzero(steps[:-1] == steps[1:])
        for values in columns.values():
            gaps = repeated[np.isnan(values[repeated + 1])]
            values[gaps + 1] = values[gaps]
        return np.delete(steps, repeated), {key: np.delete(values, repeated) for key, values in columns.items()}

    def _cuts_of(self, key: str) -> list[int | None]:
        """Return the cuts for a key: at the step of a cut it stays where no later segment has it.

        A run that is resumed at its end logs the scores of its best epoch once more, and nothing else.
        """
        cuts = self._cuts()
        for number, cut in enumerate(cuts):
            later = self.segments[number + 1 :]
            if cut is not None and not any(segment.history.has(key, cut) for segment in later):
                cuts[number] = cut + 1
        return cuts

    def _cuts(self) -> list[int | None]:
        """Return, for each segment, the step from which later segments ran everything again."""
        cuts: list[int | None] = []
        first_step: int | None = None
        for segment in reversed(self.segments):
            cuts.append(first_step)
            if len(segment.history):
                first = min(segment.history.steps)
                first_step = first if first_step is None else min(first, first_step)
        return cuts[::-1]


def _merge(parts: Iterable[dict[str, Value]]) -> dict[str, Value]:
    return reduce(ior, parts, {})


def _time_offsets(segments: Sequence[RunSegment], cuts: Sequence[int | None]) -> list[float]:
    """What is added to the times of each segment: those that count from their own start follow the one before."""
    end, last_stamp, offsets = 0.0, np.inf, []
    for segment, cut in zip(segments, cuts, strict=True):
        times, stamps = segment.history.series("_timestamp", "_runtime", cut)
        if len(times):
            counts_anew = stamps[0] - times[0] >= last_stamp
        else:
            times, _ = segment.history.series("_runtime", "_runtime", cut)
            counts_anew = bool(len(times)) and times[0] < end
        offsets.append(end if counts_anew else 0.0)
        end = float(times[-1]) + offsets[-1] if len(times) else end
        last_stamp = float(stamps[-1]) if len(stamps) else last_stamp
    return offsets
