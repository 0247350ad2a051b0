"""A segment of a run: what one `.wandb` file has recorded."""

import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vae_exp.dashboard.reader.portions import decode_records
from vae_exp.dashboard.reader.records import (
    KINDS,
    LeetError,
    Record,
    Value,
    inspect_with_leet,
    seconds_of,
    split_images,
    values_of,
)
from vae_exp.dashboard.runs.console_lines import Console
from vae_exp.dashboard.runs.history import History
from vae_exp.dashboard.runs.media import ImageFile
from vae_exp.metrics import with_current_metrics
from vae_exp.tracking.wandb_log import UnknownFormatError, WandbLogReader

_MAX_PICTURES = 20_000
_MAX_ALERTS = 1_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """Identity of a run; segments with the same `run_id` are one run."""

    run_id: str
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    started: float = 0.0  # seconds since 1970
    host: str = ""  # left out of exports


class JobOverrides(NamedTuple):
    """The overrides of the job of a sweep by key; older runs have stored those alone that were swept by then."""

    values: dict[str, str]
    swept: dict[str, str]


class Alert(NamedTuple):
    """A warning that the run sent."""

    title: str
    text: str


class Progress(NamedTuple):
    """How far a file is read, the damaged bytes before that, and records that could not be understood."""

    position: int
    corrupt_bytes: int
    invalid: int


class RunSegment:
    """One `.wandb` file: what was written between a start or resume of a run and its next end.

    Args:
        path: The file.
        is_below_root: Whether it was found below a root; of the others, only runs whose directory is are shown.
    """

    def __init__(self, path: Path, is_below_root: bool = True) -> None:
        self.path = path
        self.is_below_root = is_below_root
        self.problem = ""
        self.has_more = False
        self.info = RunInfo("")
        self.config: dict[str, Value] = {}
        self.summary: dict[str, Value] = {}
        self.environment: dict[str, Value] = {}
        self.history = History()
        self.machine = History()
        self.pictures: list[ImageFile] = []
        self.console = Console()
        self.alerts: deque[Alert] = deque(maxlen=_MAX_ALERTS)
        self.exit_code: int | None = None
        self._log: WandbLogReader | None = WandbLogReader(path)
        self._status: os.stat_result | None = None  # when it was read last
        self._invalid = 0
        self._job: JobOverrides | None = None

    def resume(self, progress: Progress, status: os.stat_result) -> None:
        """Continue where another segment of the same file was.

        Args:
            progress: Of that segment, whose records this one has.
            status: Of the file then.
        """
        self._log = WandbLogReader(self.path, progress.position, status.st_size, progress.corrupt_bytes)
        self._invalid, self._status = progress.invalid, status

    @property
    def progress(self) -> Progress | None:
        """How far the file is read; None unless all of it is, up to a whole record."""
        log = self._log
        if log is None or self.problem or self.is_behind or not log.is_between_records:
            return None
        return Progress(log.position, log.corrupt_bytes, self._invalid)

    @property
    def status(self) -> os.stat_result | None:
        """Of the file when it was read last; None if it was not."""
        return self._status

    @property
    def folder(self) -> Path:
        """W&B's folder, which the runs of a project share."""
        return self.path.parent.parent

    @property
    def modified(self) -> float:
        """When the file was written, in seconds since 1970."""
        return 0.0 if self._status is None else self._status.st_mtime

    @property
    def scores(self) -> dict[str, Value]:
        """The summary without W&B's own keys."""
        return {key: value for key, value in self.summary.items() if not key.startswith("_")}

    @property
    def job(self) -> JobOverrides:
        """What the run has stored in its config as the job of a sweep."""
        if self._job is None:
            self._job = JobOverrides(_below(self.config, "overrides."), _below(self.config, "swept."))
        return self._job

    @property
    def is_of_scores(self) -> bool:
        """Whether it only adds to the summary of its run.

        Such a segment has no history, and no status as training leaves one; one of `tracking.run_summary` repeats
        the whole summary, and has the run directory as its config.
        """
        repeats = self.config.keys() == {"run_directory"}
        return not len(self.history) and bool(self.scores) and (repeats or "status" not in self.summary)

    @property
    def is_behind(self) -> bool:
        """Whether the file holds more than has been read."""
        return self.has_more or (self._status is None and not self.problem)

    @property
    def unread(self) -> int:
        """Bytes at the end that are not a whole record."""
        return self._log.unread if self._log else 0

    @property
    def data_loss(self) -> str:
        """What could not be read; empty if nothing."""
        damaged = self._log.corrupt_bytes if self._log else 0
        parts = [
            self.problem,
            f"{damaged} damaged bytes were skipped" if damaged else "",
            f"{self._invalid} records could not be understood" if self._invalid else "",
            "there are more numbers than the dashboard holds" if self.history.full else "",
        ]
        return "; ".join(filter(None, parts))

    def is_outdated(self, status: os.stat_result) -> bool:
        """Whether it must be read again from its beginning: another file has the name, or the format is unknown.

        Args:
            status: Of the file now.
        """
        if self._status is None:
            return False
        is_replaced = status.st_ino != self._status.st_ino or status.st_size < self._status.st_size
        return is_replaced or (self._log is None and self.has_changed(status))

    def has_changed(self, status: os.stat_result) -> bool:
        """Whether the file has changed since it was read.

        Args:
            status: Of the file now.
        """
        old = self._status
        return old is None or (status.st_size, status.st_mtime_ns) != (old.st_size, old.st_mtime_ns)

    def read(self) -> list[Record]:
        """Read a portion of what was written since the last call; `has_more` says whether there is another."""
        try:
            status = self.path.stat()
            if self.is_outdated(status) or not (self.has_more or self.has_changed(status)):
                self.has_more = False
                return []
            self.problem, self.has_more = "", False
            records = self._read_log(self._log) if self._log else []
        except UnknownFormatError:
            self._log = None
            records = self._read_with_leet()
        except OSError as error:
            self.problem, self.has_more = error.strerror or str(error), False
            return []
        self._status = status
        return records

    def _read_log(self, log: WandbLogReader) -> list[Record]:
        records, invalid = decode_records(log.read())
        self._invalid += invalid
        self.has_more = log.has_more
        return records

    def _read_with_leet(self) -> list[Record]:
        try:
            return inspect_with_leet(self.path)
        except LeetError as error:
            self.problem = f"unknown format, and W&B's own reader says: {error}"
            return []

    def apply(self, records: Sequence[Record]) -> None:
        """Add what `read` returned; a record that cannot be understood is counted, and affects no other."""
        for record in records:
            try:
                kind = record["type"]
                if kind in KINDS:
                    self._apply(kind, record[kind])
            except Exception:
                self._invalid += 1
                _log.debug("a record of %s cannot be understood", self.path, exc_info=True)

    def _apply(self, kind: str, body: Mapping[str, Any]) -> None:
        match kind:
            case "run":
                self._job = None
                self.info = _run_info(body)
                self.config |= values_of(body.get("config", {}).get("update"))
            case "config":
                self._job = None
                _change(self.config, body)
            case "summary":
                _change(self.summary, {**body, "update": with_current_metrics(body.get("update", {}))})
            case "history":
                self._apply_row(body)
            case "output" | "output_raw":
                is_error = body.get("output_type", "STDERR") == "STDERR"
                self.console.append(str(body.get("line", "")), is_error)
            case "stats":
                time = seconds_of(body.get("timestamp"))
                self.machine.append(len(self.machine), {**values_of(body.get("item")), "_timestamp": time})
            case "environment":
                self.environment |= values_of({key: value for key, value in body.items() if key != "writer_id"})
            case "alert":
                self.alerts.append(Alert(str(body.get("title", "")), str(body.get("text", ""))))
            case "exit":
                self.exit_code = int(body.get("exit_code", 0))

    def _apply_row(self, body: Mapping[str, Any]) -> None:
        if "numbers" in body:
            self.history.append_numbers(body["step"], body["keys"], body["numbers"])
            return
        values, images = split_images(values_of(body.get("item")))
        step = int(body["step"].get("num", 0) if "step" in body else values.get("_step", 0))
        self.history.append(step, values)
        epoch = values.get("epoch")
        pictures = [
            ImageFile(
                key, step, float(epoch) if isinstance(epoch, int | float) else None, text, self.path.parent, path
            )
            for key, references in images.items()
            for path, text in references
        ]
        self.pictures += pictures[: _MAX_PICTURES - len(self.pictures)]


def _run_info(body: Mapping[str, Any]) -> RunInfo:
    return RunInfo(
        run_id=str(body["run_id"]),
        name=str(body.get("display_name", "")),
        project=str(body.get("project", "")),
        group=str(body.get("run_group", "")),
        job_type=str(body.get("job_type", "")),
        tags=tuple(str(tag) for tag in body.get("tags", ())),
        notes=str(body.get("notes", "")),
        started=seconds_of(body.get("start_time")),
        host=str(body.get("host", "")),
    )


def _below(config: Mapping[str, Value], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): str(value) for key, value in config.items() if key.startswith(prefix)}


def _change(target: dict[str, Value], change: Mapping[str, Any]) -> None:
    """Set and remove keys of the config or the summary."""
    target |= values_of(change.get("update"))
    for key in change.get("remove", ()):
        for name in [x for x in target if x == key or x.startswith(f"{key}.")]:
            del target[name]
