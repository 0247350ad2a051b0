"""Progress of training and of evaluators: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from math import inf
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_log = logging.getLogger(__name__)
_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 30
_SECONDS_TO_ESTIMATE = 5  # before the time left of an evaluator is reported
_LONG_SECONDS = 20
_SECONDS_LEFT_SHOWN = 120  # at the end of an epoch


class StandardOutputHandler(logging.StreamHandler[TextIO]):
    """Logs to the current `sys.stdout`: above a bar while one is drawn, into W&B's capture of it.

    Args:
        stream: The stream that Hydra's default configuration names; not used.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        logging.Handler.__init__(self)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Ignore a closed standard output; the log file still gets the record."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError | AttributeError):
            super().handleError(record)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard output, looked up for every line."""
        return sys.stdout


class ProgressDisplay:
    """Shows nothing; the base of the displays below."""

    def needs_metrics(self) -> bool:
        """Whether the metrics of the next step will be shown."""
        return False

    def step(self, metrics: Mapping[str, float] | None) -> None:
        """Advance by a step, with its terms in nats per image where `needs_metrics` was true."""

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """Show an epoch."""

    def close(self) -> None:
        """End the display."""


class NullProgress(ProgressDisplay):
    """Shows nothing."""


class LogProgress(ProgressDisplay):
    """A line an epoch.

    Args:
        epochs: The number of epochs.
        with_batch_sum: Whether lines begin with the loss summed over a batch.
    """

    def __init__(self, epochs: int, *, with_batch_sum: bool = False) -> None:
        self._epochs, self._with_batch_sum = epochs, with_batch_sum
        self._start, self._lines = time.monotonic(), 0

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """Print and log the epoch, with the time left where that is minutes."""
        self._lines += 1
        seconds = (time.monotonic() - self._start) / self._lines * (self._epochs - epoch)
        left = f", {format_duration(seconds)} left" if seconds >= _SECONDS_LEFT_SHOWN else ""
        line = epoch_line(epoch, self._epochs, batch_sum if self._with_batch_sum else None, metrics)
        _log.info("%s%s", line, left)


class RichProgress(LogProgress):
    """A bar for the whole run, with the current terms; each epoch leaves a line above it and in the log.

    Args:
        epochs: The number of epochs.
        steps_per_epoch: The number of steps of an epoch.
        done: Steps before the run was resumed.
        with_batch_sum: Whether lines begin with the loss summed over a batch.
        console: The terminal.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        done: int = 0,
        *,
        with_batch_sum: bool = False,
        console: Console | None = None,
    ) -> None:
        super().__init__(epochs, with_batch_sum=with_batch_sum)
        self._next_redraw = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("steps", total=epochs * steps_per_epoch, completed=done, metrics="")
        self._pending = 0
        self._progress.start()

    def needs_metrics(self) -> bool:
        """A few times a second."""
        return time.monotonic() >= self._next_redraw

    def step(self, metrics: Mapping[str, float] | None) -> None:
        """Advance the bar; redraw only with metrics."""
        self._pending += 1
        if metrics is None:
            return
        text = "  ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        self._progress.update(self._task, advance=self._pending, metrics=text, refresh=True)
        self._pending = 0
        self._next_redraw = time.monotonic() + _REDRAW_SECONDS

    def close(self) -> None:
        """Draw the bar for the last time."""
        self._progress.update(self._task, advance=self._pending, refresh=True)
        self._progress.stop()


class EvaluationProgress:
    """The progress of a pass over images: a bar with the time left on a terminal, a line every 30 s elsewhere.

    A line says once how long it takes, if that is more than 20 s, and what would take seconds. The display is the
    context manager around the work.

    Args:
        name: What is done, such as `evaluator.nll`.
        remedy: What takes seconds instead; empty where nothing does.
        console: The terminal; None for standard output where it is one.
    """

    def __init__(self, name: str, remedy: str = "", console: Console | None = None) -> None:
        self._name, self._remedy = name, remedy
        self._share = self._first_share = inf  # the first report starts a pass
        self._start = self._next_redraw = time.monotonic()
        self._next_line = self._start + _LINE_SECONDS
        self._announced = False
        self._bar: Progress | None = None
        if console is not None or (sys.stdout is not None and sys.stdout.isatty()):
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True)
            self._task = self._bar.add_task(name, total=1.0)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, share: float) -> None:
        """Report the share of the work that is done, from 0 to 1; a smaller one than before starts a new pass."""
        now = time.monotonic()
        if share < self._share:
            self._start, self._first_share = now, share
            if self._bar is not None:
                self._bar.reset(self._task)
        self._share = share
        if share > self._first_share:  # the first report of a pass has no pace yet
            self._report_time_left(now, (now - self._start) * (1 - share) / (share - self._first_share))
        if self._bar is not None and now >= self._next_redraw:
            self._next_redraw = now + _REDRAW_SECONDS
            self._bar.update(self._task, completed=share, refresh=True)

    def _report_time_left(self, now: float, left: float) -> None:
        if not self._announced and now - self._start > _SECONDS_TO_ESTIMATE and left > _LONG_SECONDS:
            self._announced = True
            self._next_line = now + _LINE_SECONDS
            remedy = f"; {self._remedy}" if self._remedy else ""
            _log.info("%s takes about %s more%s.", self._name, format_duration(left), remedy)
        elif self._bar is None and now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            _log.info("%s: %.0f %% done, about %s left.", self._name, 100 * self._share, format_duration(left))


def evaluator_progress(key: str, console: Console | None = None) -> EvaluationProgress:
    """The progress of the evaluator with this key."""
    remedy = "" if key == "elbo" else "evaluator=[elbo] alone takes seconds"
    return EvaluationProgress(f"evaluator.{key}", remedy, console)


def format_duration(seconds: float) -> str:
    """Seconds with a unit: `90 s`, `12 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def progress_display(
    epochs: int, steps_per_epoch: int, done: int = 0, *, with_batch_sum: bool = False
) -> ProgressDisplay:
    """A bar when standard output is a terminal, plain lines otherwise; arguments as `RichProgress`."""
    if sys.stdout is not None and sys.stdout.isatty():
        return RichProgress(epochs, steps_per_epoch, done, with_batch_sum=with_batch_sum)
    return LogProgress(epochs, with_batch_sum=with_batch_sum)


def epoch_line(epoch: int, epochs: int, batch_sum: float | None, metrics: Mapping[str, float]) -> str:
    """The line of an epoch, in nats per image.

    Args:
        epoch: The number of the epoch.
        epochs: The number of epochs.
        batch_sum: The loss summed over a batch and averaged over batches, which comes first as in the blog post
            that `experiment=minimalist_vae` reproduces; None for a line without it.
        metrics: The metrics of the epoch.
    """
    losses = {name: metrics[name] for name in ("train/loss", "val/loss") if name in metrics}
    terms = ", ".join(f"{name} {value:.2f}" for name, value in losses.items())
    if batch_sum is None:
        return f"Epoch {epoch}/{epochs}: {terms} nats per image"
    return f"Epoch [{epoch} / {epochs}] average reconstruction error: {batch_sum:f} ({terms} nats per image)"
