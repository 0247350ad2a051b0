"""A run: its segments together."""

import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import ior
from pathlib import Path

import numpy as np

from vae_exp.dashboard.reader.events import (
    Alert,
    ConfigChange,
    ConsoleText,
    Environment,
    Event,
    Exit,
    HistoryRow,
    MachineState,
    RunInfo,
    SummaryChange,
    Value,
)
from vae_exp.dashboard.reader.source import EventSource
from vae_exp.dashboard.runs.history import History, Numbers

STALE_SECONDS = 90.0  # W&B writes the state of the machine more often than that while a run lasts
_MAX_CONSOLE_LINES = 5_000
_MAX_LINE_LENGTH = 10_000
_MAX_PICTURES = 20_000
_MAX_ALERTS = 1_000
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class ImageFile:
    """An image that a run logged under a key of its history."""

    key: str
    step: int
    epoch: float | None  # None if the row does not say
    caption: str
    folder: Path  # the segment's directory
    path: str  # below its `files/`, as the record has it: untrusted


class RunSegment:
    """One `.wandb` file: what was written between a start or resume of a run and its next end.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modified = 0.0
        self.problem = ""
        self.is_stale = False
        self.has_more = False
        self._source = EventSource(path)
        self._stamp: tuple[int, int] | None = None
        self._generation = self._source.generation
        self._clear()

    def _clear(self) -> None:
        self.info = RunInfo("")
        self.config: dict[str, Value] = {}
        self.summary: dict[str, Value] = {}
        self.environment: dict[str, Value] = {}
        self.history = History()
        self.machine = History()
        self.pictures: list[ImageFile] = []
        self.console: deque[ConsoleText] = deque(maxlen=_MAX_CONSOLE_LINES)
        self.alerts: deque[Alert] = deque(maxlen=_MAX_ALERTS)
        self.exit: Exit | None = None

    @property
    def data_loss(self) -> str:
        """What could not be read; empty if nothing."""
        parts = [self.problem, self._source.data_loss]
        if self._source.unfinished and (self.exit is not None or self.is_stale):
            parts.append(f"the last {self._source.unfinished} bytes are not a whole record")
        if self.history.full:
            parts.append("there are more numbers than the dashboard holds")
        return "; ".join(filter(None, parts))

    @property
    def was_read(self) -> bool:
        """Whether it has been read to its end once."""
        return self._stamp is not None

    @property
    def is_behind(self) -> bool:
        """Whether the file holds more than has been read."""
        return self.has_more or not (self.was_read or self.problem)

    @property
    def is_stale_generation(self) -> bool:
        """Whether the events applied so far are void: another file has the name."""
        return self._generation != self._source.generation

    def read(self) -> list[Event]:
        """Read a portion of what was written since the last call; `has_more` says whether there is another."""
        self.has_more = False
        try:
            status = self.path.stat()
            stamp = status.st_size, status.st_mtime_ns
            if stamp == self._stamp:
                return []
            events = self._source.read()
        except OSError as error:
            self.problem = error.strerror or str(error)
            return []
        self.modified = status.st_mtime
        self.has_more = self._source.has_more
        if not self.has_more:
            self._stamp = stamp
        return events

    def mark_unreadable(self, problem: str) -> None:
        """Leave the file alone until it changes."""
        self.has_more = False
        self.problem = problem
        try:
            status = self.path.stat()
            self._stamp = status.st_size, status.st_mtime_ns
        except OSError:
            self._stamp = None

    def apply_events(self, events: Sequence[Event]) -> None:
        """Add what `read` returned."""
        if self.is_stale_generation:
            self._generation = self._source.generation
            self._clear()
        for event in events:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case HistoryRow():
                self._apply_row(event)
            case SummaryChange():
                _change(self.summary, event)
            case ConsoleText():
                self.console.append(ConsoleText(event.text[:_MAX_LINE_LENGTH], event.error, event.time))
            case MachineState():
                self.machine.append(len(self.machine), {"_timestamp": event.time, **event.values})
            case RunInfo():
                self.info = event
                self.config |= event.config
            case ConfigChange():
                _change(self.config, event)
            case Environment():
                self.environment |= event.values
            case Alert():
                self.alerts.append(event)
            case Exit():
                self.exit = event

    def _apply_row(self, row: HistoryRow) -> None:
        self.history.append(row.step, row.values)
        value = row.values.get("epoch")
        epoch = float(value) if isinstance(value, int | float) else None
        for key, images in row.pictures.items():
            room = _MAX_PICTURES - len(self.pictures)
            self.pictures += [
                ImageFile(key, row.step, epoch, image.caption, self.path.parent, image.path)
                for image in images[:room]
            ]


def _change(target: dict[str, Value], change: ConfigChange | SummaryChange) -> None:
    target |= change.update
    for key in change.remove:
        for name in [x for x in target if x == key or x.startswith(f"{key}.")]:
            del target[name]


@dataclass
class Run:
    """A run: its segments in the order of their start.

    Args:
        run_id: The id that all segments share.
        key: The dashboard's name for it: the id, extended where two roots hold different runs of the same id.
        segments: At least one.
        version: The version of the store at its last change.
        state: `reading`, `running`, `finished`, `pruned`, `interrupted`, `diverged`, `failed` or `stale`.
        attempt: Which attempt at its run directory it is, from 1.
        is_replaced: Whether a later attempt has the same run directory.
    """

    run_id: str
    key: str
    segments: list[RunSegment] = field(default_factory=list)
    version: int = 0
    state: str = "reading"
    attempt: int = 1
    is_replaced: bool = False

    @property
    def info(self) -> RunInfo:
        """Identity according to the last segment."""
        return self.segments[-1].info

    @property
    def config(self) -> dict[str, Value]:
        """Flat keys and their values."""
        return _merge(segment.config for segment in self.segments)

    @property
    def summary(self) -> dict[str, Value]:
        """The last value of every key."""
        return _merge(segment.summary for segment in self.segments)

    @property
    def environment(self) -> dict[str, Value]:
        """Host, user, command line."""
        return _merge(segment.environment for segment in self.segments)

    @property
    def started(self) -> float:
        """Seconds since 1970."""
        return self.segments[0].info.started

    @property
    def exit_code(self) -> int | None:
        """0 for success; None if it has not ended."""
        end = self.segments[-1].exit
        return None if end is None else end.code

    @property
    def keys(self) -> list[str]:
        """Keys with numbers in any segment."""
        return list(dict.fromkeys(key for segment in self.segments for key in segment.history.keys))

    @property
    def pictures(self) -> list[ImageFile]:
        """All images; for steps that were run twice, those of the last time."""
        return [
            picture
            for segment, cut in zip(self.segments, self._cuts(), strict=True)
            for picture in segment.pictures
            if cut is None or picture.step < cut
        ]

    @property
    def console(self) -> list[ConsoleText]:
        """The last lines it printed."""
        return [text for segment in self.segments for text in segment.console][-_MAX_CONSOLE_LINES:]

    @property
    def alerts(self) -> list[Alert]:
        """Warnings that it sent."""
        return [alert for segment in self.segments for alert in segment.alerts]

    @property
    def data_loss(self) -> str:
        """What could not be read; empty if nothing."""
        return "; ".join(filter(None, (segment.data_loss for segment in self.segments)))

    def state_at(self, now: float) -> str:
        """Return the state; `reading` until every file is read to its end, which alone says how the run ended.

        Args:
            now: Seconds since 1970.
        """
        if any(segment.is_behind for segment in self.segments):
            return "reading"
        last = self.segments[-1]
        code, status = self.exit_code, last.summary.get("status")
        if code == 0:
            return "pruned" if status == "pruned" else "finished"
        if code is not None:
            if status in ("diverged", "interrupted"):
                return str(status)
            return "interrupted" if code in _INTERRUPTED else "failed"
        last.is_stale = now - max(segment.modified for segment in self.segments) >= STALE_SECONDS
        return "stale" if last.is_stale else "running"

    def series(self, key: str, against: str | None = None) -> tuple[Numbers, Numbers]:
        """Return the numbers of a key, each step as the last segment has it that ran it.

        Args:
            key: The key.
            against: The key of the x-axis; None takes the step.
        """
        cuts = zip(self.segments, self._cuts(), strict=True)
        pieces = [segment.history.series(key, against, cut) for segment, cut in cuts]
        return np.concatenate([x for x, _ in pieces]), np.concatenate([y for _, y in pieces])

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
