"""What a person sees while a run trains or is evaluated: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from math import inf
from types import TracebackType
from typing import Protocol, Self, TextIO

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
_SECONDS_TO_ESTIMATE = 5  # before the time left of an evaluator is believed
_LONG_SECONDS = 20


class StandardOutputHandler(logging.StreamHandler[TextIO]):
    """Logs to whatever `sys.stdout` is at the moment: above a bar while one is drawn, into W&B's capture of it.

    Args:
        stream: What Hydra's default configuration names; not used.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        logging.Handler.__init__(self)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nobody reads standard output any more: the log file goes on alone."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError | AttributeError):
            super().handleError(record)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard output, looked up for every line."""
        return sys.stdout


class ProgressDisplay(Protocol):
    """Told of every step and every epoch."""

    def needs_metrics(self) -> bool:
        """Whether the next step's values will be shown."""
        ...

    def step(self, values: Mapping[str, float] | None) -> None:
        """A step has ended; its terms in nats per image where `needs_metrics` asked for them."""
        ...

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """An epoch has ended."""
        ...

    def close(self) -> None:
        """Training has ended, however."""
        ...


class NullProgress:
    """Shows nothing."""

    def needs_metrics(self) -> bool:
        """Never."""
        return False

    def step(self, values: Mapping[str, float] | None) -> None:
        """Nothing is shown."""

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """Nothing is shown."""

    def close(self) -> None:
        """Nothing is left to do."""


class LogProgress:
    """A line an epoch.

    Args:
        epochs: How many epochs there will be.
        with_batch_sum: Whether lines begin with the loss summed over a batch.
    """

    def __init__(self, epochs: int, *, with_batch_sum: bool = False) -> None:
        self._epochs, self._with_batch_sum = epochs, with_batch_sum

    def needs_metrics(self) -> bool:
        """Never: only epochs are shown."""
        return False

    def step(self, values: Mapping[str, float] | None) -> None:
        """Nothing is shown."""

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """Print and log the epoch."""
        _log.info(epoch_line(epoch, self._epochs, batch_sum if self._with_batch_sum else None, metrics))

    def close(self) -> None:
        """Nothing is left to do."""


class RichProgress:
    """A bar for the whole run, with the current terms; each epoch leaves a line above it and in the log.

    Args:
        epochs: How many epochs there will be.
        steps_per_epoch: How many steps each has.
        done: How many steps a resumed run has behind it.
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
        self._epochs, self._with_batch_sum = epochs, with_batch_sum
        self._next_redraw = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[cyan]{task.fields[values]}"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("steps", total=epochs * steps_per_epoch, completed=done, values="")
        self._pending = 0
        self._progress.start()

    def needs_metrics(self) -> bool:
        """A few times a second."""
        return time.monotonic() >= self._next_redraw

    def step(self, values: Mapping[str, float] | None) -> None:
        """Advance the bar; redrawn only when there are values."""
        self._pending += 1
        if values is None:
            return
        text = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        self._progress.update(self._task, advance=self._pending, values=text, refresh=True)
        self._pending = 0
        self._next_redraw = time.monotonic() + _REDRAW_SECONDS

    def epoch(self, epoch: int, batch_sum: float, metrics: Mapping[str, float]) -> None:
        """Leave the epoch's line above the bar."""
        _log.info(epoch_line(epoch, self._epochs, batch_sum if self._with_batch_sum else None, metrics))

    def close(self) -> None:
        """Draw the bar for the last time."""
        self._progress.update(self._task, advance=self._pending, refresh=True)
        self._progress.stop()


class EvaluationProgress:
    """The progress of one evaluator: a bar with the time left on a terminal, a line every 30 s elsewhere.

    A line says once how long it takes, if that is more than 20 s, and which evaluator takes seconds. To be entered
    while the evaluator runs.

    Args:
        name: The evaluator's key.
        console: The terminal; None for standard output where it is one.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name = name
        self._share = self._first_share = inf  # the first report begins a pass: what precedes it is start-up
        self._began = self._next_redraw = time.monotonic()
        self._next_line = self._began + _LINE_SECONDS
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
        """A share of the evaluator's work is done, from 0 to 1; a smaller one than before begins another pass."""
        now = time.monotonic()
        if share < self._share:
            self._began, self._first_share = now, share
            if self._bar is not None:
                self._bar.reset(self._task)
        self._share = share
        if share > self._first_share:  # the first report of a pass has no pace yet
            self._report_time_left(now, (now - self._began) * (1 - share) / (share - self._first_share))
        if self._bar is not None and now >= self._next_redraw:
            self._next_redraw = now + _REDRAW_SECONDS
            self._bar.update(self._task, completed=share, refresh=True)

    def _report_time_left(self, now: float, left: float) -> None:
        if not self._announced and now - self._began > _SECONDS_TO_ESTIMATE and left > _LONG_SECONDS:
            self._announced = True
            self._next_line = now + _LINE_SECONDS
            quick = "" if self._name == "elbo" else "; evaluator=[elbo] alone takes seconds"
            _log.info("evaluator.%s takes about %s more%s.", self._name, _duration(left), quick)
        elif self._bar is None and now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            _log.info("evaluator.%s: %.0f %% done, about %s left.", self._name, 100 * self._share, _duration(left))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


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
        epoch: Which.
        epochs: Of how many.
        batch_sum: The loss summed over a batch and averaged over batches, put first in the words of the blog post
            that `experiment=minimalist_vae` reproduces; None leaves it out.
        metrics: Of the epoch.
    """
    shown = {name: metrics[name] for name in ("train/loss", "val/loss") if name in metrics}
    terms = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    if batch_sum is None:
        return f"Epoch {epoch}/{epochs}: {terms} nats per image"
    return f"Epoch [{epoch} / {epochs}] average reconstruction error: {batch_sum:f} ({terms} nats per image)"
