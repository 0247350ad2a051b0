"""The display of a pool: a live table on a terminal, a line per job elsewhere."""

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vae_exp.engine.progress import format_duration
from vae_exp.sweep.pool.job import Job, JobOutcome
from vae_exp.sweep.pool.slots import Slot

_SHOWN = ("val/elbo", "train/elbo", "val/loss", "train/loss")
_REFRESHES_A_SECOND = 2


class PoolDisplay:
    """Notified of every job that starts and ends.

    Args:
        total: How many jobs there are.
        slots: How many run at once.
        console: Where to; standard output if None.
        done: How many of them an earlier command has run.
    """

    def __init__(self, total: int, slots: int, console: Console | None = None, done: int = 0) -> None:
        self._console = console or Console(soft_wrap=not sys.stdout.isatty())
        self._total, self._slots, self._done_before = total, slots, done
        self._running: dict[int, Job] = {}
        self._counts = dict.fromkeys(JobOutcome, 0)
        self._spent: list[float] = []
        self._began = time.monotonic()
        self._live: Live | None = None

    @property
    def is_live(self) -> bool:
        """Whether there is a table that shows jobs as they run."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, job: Job, slot: Slot) -> None:
        """A job's process has been started."""
        job.status = "running" if slot.gpu is None else f"on GPU {slot.gpu}"
        self._running[job.number] = job

    def ended(self, job: Job) -> None:
        """A job has ended, or needed no process."""
        self._running.pop(job.number, None)
        assert job.outcome is not None
        self._counts[job.outcome] += 1
        if job.outcome is JobOutcome.DONE:
            self._spent.append(job.seconds)
        self._say(self._line(job))

    def requeued(self, job: Job) -> None:
        """A job ran out of memory and will be run once more."""
        self._running.pop(job.number, None)
        self._say(f"{job.name} ran out of memory; it is repeated when no other job shares its GPU (or the cores).")

    def stopping(self, count: int) -> None:
        """The sweep was asked to stop."""
        self._say(f"Stopping: {count} running jobs save a checkpoint. Press Ctrl-C again to stop at once.")

    def refresh(self) -> None:
        """Redraw the table."""
        if self._live is not None:
            self._live.update(self._drawn(), refresh=True)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the reader has closed the pipe; the sweep continues
            self._console.print(Text(text), highlight=False, soft_wrap=True)

    def _line(self, job: Job) -> str:
        done = self._done_before + sum(self._counts.values())
        width = len(str(self._total))
        what = (
            job.status
            if job.outcome in (JobOutcome.DONE, JobOutcome.FAILED)
            else job.outcome.value
            if job.outcome
            else ""
        )
        parts = [f"[{done:{width}}/{self._total}]", what, job.name]
        if job.seconds:
            parts.append(f"{job.seconds:.1f} s")
        if job.outcome is JobOutcome.DONE:
            parts.append(shown_metric(job))
        if job.reason:
            parts.append(job.reason.splitlines()[0])
        left = self._left()
        return "  ".join(part for part in (*parts, f"({left} left)" if left else "") if part)

    def _left(self) -> str:
        """How long the rest will take, at the pace of the jobs so far; empty where nothing is known."""
        rest = self._total - self._done_before - sum(self._counts.values())
        if not rest or not self._spent:
            return ""
        pace = sum(self._spent) / len(self._spent)
        under_way = sum(min(1.0, job.seconds / pace) for job in self._running.values() if pace)
        return format_duration(pace * max(0.0, rest - under_way) / min(self._slots, rest))

    def _drawn(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("job", "where", "time", "epochs", "last"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        for job in self._running.values():
            epoch = int(job.metrics.get("epoch", 0))
            epochs = f"{epoch}/{job.epochs}" if job.epochs else str(epoch)
            table.add_row(Text(job.name), job.status, format_duration(job.seconds), epochs, shown_metric(job))
        return Group(table, Text(self._totals()))

    def _totals(self) -> str:
        waiting = self._total - self._done_before - sum(self._counts.values()) - len(self._running)
        parts = [f"{len(self._running)} running", f"{waiting} waiting"]
        parts += [f"{count} {end.value}" for end, count in self._counts.items() if count]
        left = self._left()
        return ", ".join(parts) + (f"; about {left} left" if left else "")


def shown_metric(job: Job) -> str:
    """The metric of a job that says most, with its name; empty if there is none yet."""
    for name in (job.monitor if not job.monitor.endswith("/loss") else "", *_SHOWN):
        if name in job.metrics:
            return f"{name} {job.metrics[name]:.3f}"
    return ""
