"""A run as its segments have it together."""

import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from vae_exp.dashboard.reader.source import EventSource, FileSource
from vae_exp.dashboard.runs.history import History, Numbers

STALE_SECONDS = 90.0  # W&B writes down the state of the machine more often than that while a run lasts
_MOST_CONSOLE_LINES = 5_000
_MOST_CHARACTERS_OF_A_LINE = 10_000
_MOST_PICTURES = 20_000
_MOST_ALERTS = 1_000
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True)
class PictureFile:
    """An image that a run has logged.

    Args:
        key: Under which name.
        step: When.
        epoch: When, in epochs; None if the row does not say.
        caption: What stands beside it.
        folder: The segment's directory.
        path: Below its `files/`, as the record has it: not to be trusted.
    """

    key: str
    step: int
    epoch: float | None
    caption: str
    folder: Path
    path: str


class Segment:
    """What one attempt at a run has written: one `.wandb` file.

    Args:
        path: The file.
        source: Reads it.
    """

    def __init__(self, path: Path, source: EventSource | None = None) -> None:
        self.path = path
        self.modified = 0.0
        self.problem = ""
        self.is_stale = False
        self.has_more = False
        self._source = source or FileSource(path)
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
        self.pictures: list[PictureFile] = []
        self.console: deque[ConsoleText] = deque(maxlen=_MOST_CONSOLE_LINES)
        self.alerts: list[Alert] = []
        self.exit: Exit | None = None

    @property
    def lost(self) -> str:
        """What could not be read, in words."""
        told = [each for each in (self.problem, self._source.lost) if each]
        if self._source.unfinished and (self.exit is not None or self.is_stale):
            told.append(f"the last {self._source.unfinished} bytes are not a whole record")
        if self.history.full:
            told.append("there are more numbers than are kept")
        return "; ".join(told)

    @property
    def was_read(self) -> bool:
        """Whether it has been read to its end once."""
        return self._stamp is not None

    @property
    def is_behind(self) -> bool:
        """Whether the file is known to hold more than has been read."""
        return self.has_more or not (self.was_read or self.problem)

    @property
    def was_replaced(self) -> bool:
        """Whether what was taken before is void: another file has the name."""
        return self._generation != self._source.generation

    def read(self) -> list[Event]:
        """A portion of what has been written since the last call; `has_more` tells whether there is another."""
        self.has_more = False
        try:
            found = self.path.stat()
            stamp = found.st_size, found.st_mtime_ns
            if stamp == self._stamp:
                return []
            events = self._source.read()
        except OSError as error:
            self.problem = error.strerror or str(error)
            return []
        self.modified = found.st_mtime
        self.has_more = self._source.has_more
        if not self.has_more:
            self._stamp = stamp
        return events

    def give_up(self, problem: str) -> None:
        """Leave the file alone until it changes."""
        self.has_more = False
        self.problem = problem
        try:
            found = self.path.stat()
            self._stamp = found.st_size, found.st_mtime_ns
        except OSError:
            self._stamp = None

    def take(self, events: Sequence[Event]) -> None:
        """Add what `read` has returned."""
        if self.was_replaced:
            self._generation = self._source.generation
            self._clear()
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case HistoryRow():
                self._take_row(event)
            case SummaryChange():
                _change(self.summary, event.update, event.remove)
            case ConsoleText():
                self.console.append(ConsoleText(event.text[:_MOST_CHARACTERS_OF_A_LINE], event.error, event.time))
            case MachineState():
                self.machine.append(len(self.machine), {"_timestamp": event.time, **event.values})
            case RunInfo():
                self.info = event
                self.config |= event.config
            case ConfigChange():
                _change(self.config, event.update, event.remove)
            case Environment():
                self.environment |= event.values
            case Alert():
                self.alerts = [*self.alerts, event][-_MOST_ALERTS:]
            case Exit():
                self.exit = event

    def _take_row(self, row: HistoryRow) -> None:
        self.history.append(row.step, row.values)
        epoch = row.values.get("epoch")
        for key, pictures in row.pictures.items():
            at = float(epoch) if isinstance(epoch, int | float) else None
            self.pictures += [
                PictureFile(key, row.step, at, each.caption, self.path.parent, each.path)
                for each in pictures[: _MOST_PICTURES - len(self.pictures)]
            ]


def _change(known: dict[str, Value], update: Any, remove: Iterable[str]) -> None:
    known |= update
    for key in remove:
        for each in [each for each in known if each == key or each.startswith(f"{key}.")]:
            del known[each]


@dataclass
class Run:
    """A run: its segments in the order of their start.

    Args:
        run_id: What all segments share.
        key: What the dashboard calls it: the id, and more where two roots hold another run of the same id.
        segments: At least one.
        version: Of the store, when it last changed.
        state: `reading`, `running`, `finished`, `pruned`, `interrupted`, `diverged`, `failed` or `stale`.
        attempt: Which attempt at its run directory it is, from 1.
        is_replaced: Whether a later attempt has the same run directory.
    """

    run_id: str
    key: str
    segments: list[Segment] = field(default_factory=list)
    version: int = 0
    state: str = "reading"
    attempt: int = 1
    is_replaced: bool = False

    @property
    def info(self) -> RunInfo:
        """As the last segment says."""
        return self.segments[-1].info

    @property
    def config(self) -> dict[str, Value]:
        """Keys with dots and their values."""
        return _joined([each.config for each in self.segments])

    @property
    def summary(self) -> dict[str, Value]:
        """The last value of everything."""
        return _joined([each.summary for each in self.segments])

    @property
    def environment(self) -> dict[str, Value]:
        """Where it was started, and how."""
        return _joined([each.environment for each in self.segments])

    @property
    def started(self) -> float:
        """Seconds since 1970."""
        return self.segments[0].info.started

    @property
    def modified(self) -> float:
        """When something was last written."""
        return max(each.modified for each in self.segments)

    @property
    def exit_code(self) -> int | None:
        """0 if it ended well; None if it has not ended."""
        ended = self.segments[-1].exit
        return None if ended is None else ended.code

    @property
    def keys(self) -> list[str]:
        """Keys with numbers in any segment."""
        return list(dict.fromkeys(key for each in self.segments for key in each.history.keys))

    @property
    def pictures(self) -> list[PictureFile]:
        """All images; those of steps that were gone through again, of the last time."""
        cuts = self._cuts()
        return [
            picture
            for segment, cut in zip(self.segments, cuts, strict=True)
            for picture in segment.pictures
            if cut is None or picture.step < cut
        ]

    @property
    def console(self) -> list[ConsoleText]:
        """What it has printed last."""
        return [text for each in self.segments for text in each.console][-_MOST_CONSOLE_LINES:]

    @property
    def alerts(self) -> list[Alert]:
        """What it has drawn attention to."""
        return [alert for each in self.segments for alert in each.alerts]

    @property
    def lost(self) -> str:
        """What could not be read, in words."""
        return "; ".join(each.lost for each in self.segments if each.lost)

    def state_at(self, now: float) -> str:
        """How the run stands.

        Args:
            now: Seconds since 1970.

        Returns:
            `reading` until every file is read to its end: only the end says how the run ended.
        """
        if any(each.is_behind for each in self.segments):
            return "reading"
        code, status = self.exit_code, self.segments[-1].summary.get("status")
        if code == 0:
            return "pruned" if status == "pruned" else "finished"
        if code is not None:
            if status in ("diverged", "interrupted"):
                return str(status)
            return "interrupted" if code in _INTERRUPTED else "failed"
        self.segments[-1].is_stale = now - self.modified >= STALE_SECONDS
        return "stale" if self.segments[-1].is_stale else "running"

    def series(self, key: str, against: str | None = None) -> tuple[Numbers, Numbers]:
        """The numbers of a key, each step as the last segment has it that went through it.

        Args:
            key: Whose numbers.
            against: The key of the abscissa; None takes the step.
        """
        from numpy import concatenate

        pieces = [
            segment.history.series(key, against, cut)
            for segment, cut in zip(self.segments, self._cuts(), strict=True)
        ]
        return concatenate([x for x, _ in pieces]), concatenate([y for _, y in pieces])

    def _cuts(self) -> list[int | None]:
        """For each segment the step from which a later one has gone through everything again."""
        cuts: list[int | None] = []
        least: int | None = None
        for segment in reversed(self.segments):
            cuts.append(least)
            if len(segment.history):
                first = min(segment.history.steps)
                least = first if least is None else min(first, least)
        return cuts[::-1]


def _joined(parts: Sequence[dict[str, Value]]) -> dict[str, Value]:
    whole: dict[str, Value] = {}
    for part in parts:
        whole |= part
    return whole
