"""The display of a pool: a live table on a terminal, a line per job elsewhere."""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vae_exp.engine.progress import format_duration
from vae_exp.errors import quantity
from vae_exp.metrics import format_value
from vae_exp.sweep.pool.job import Job, JobOutcome
from vae_exp.sweep.pool.slots import Slot

_SHOWN = ("val/elbo", "train/elbo", "val/loss", "train/loss")


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
        self._stacked: set[int] = set()  # jobs of stacks, without the first of each
        self._stack_sizes: dict[int, int] = {}  # by the first
        self._counts: Counter[JobOutcome] = Counter()
        self._spent: list[float] = []
        is_terminal = self._console.is_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if is_terminal else None

    @property
    def is_live(self) -> bool:
        """Whether there is a table that shows jobs as they run."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, jobs: Sequence[Job], slot: Slot) -> None:
        """The process of jobs has been started; those of a stack are shown as its first."""
        for job in jobs:
            job.status = "running" if slot.gpu is None else f"on GPU {slot.gpu}"
            self._running[job.number] = job
        self._stacked |= {job.number for job in jobs[1:]}
        self._stack_sizes[jobs[0].number] = len(jobs)

    def ended(self, job: Job) -> None:
        """A job has ended, or needed no process."""
        self._running.pop(job.number, None)
        assert job.outcome is not None
        self._counts[job.outcome] += 1
        if job.outcome is JobOutcome.DONE:
            self._spent.append(job.seconds)
        self.say(self._line(job, job.outcome))

    def requeued(self, job: Job) -> None:
        """A job ran out of memory and will be run once more."""
        self._running.pop(job.number, None)
        self.say(f"{job.name} ran out of memory; it is repeated when no other job shares its GPU (or the cores).")

    def halved(self, count: int) -> None:
        """A stack of so many jobs ran out of memory."""
        self.say(f"A stack of {count} jobs ran out of memory; it is repeated as two halves.")

    def stopping(self, count: int) -> None:
        """The sweep was asked to stop."""
        self.say(
            f"Stopping {quantity(count, 'running job')} after a checkpoint. Press Ctrl-C again to stop at once."
        )

    def refresh(self) -> None:
        """Redraw the table."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def say(self, text: str) -> None:
        """Print a line."""
        with suppress(OSError):  # the reader has closed the pipe; the sweep continues
            self._console.print(Text(text), highlight=False, soft_wrap=True)

    def _line(self, job: Job, outcome: JobOutcome) -> str:
        ended = self._total - self._remaining()
        left = self._left()
        is_done = outcome is JobOutcome.DONE
        parts = [
            f"[{ended:{len(str(self._total))}}/{self._total}]",
            job.status if is_done or outcome is JobOutcome.FAILED else outcome.value,
            job.name,
            f"{job.seconds:.1f} s" if job.seconds else "",
            _shown_metric(job) if is_done else "",
            job.reason.partition("\n")[0],
            f"({left} left)" if left else "",
        ]
        return "  ".join(filter(None, parts))

    def _remaining(self) -> int:
        return self._total - self._done_before - self._counts.total()

    def _left(self) -> str:
        """How long the rest will take, at the pace of the jobs so far; empty where nothing is known."""
        rest = self._remaining()
        if not rest or not self._spent:
            return ""
        pace = sum(self._spent) / len(self._spent)
        under_way = sum(min(1.0, job.seconds / pace) for job in self._running.values() if pace)
        left = pace * (rest - under_way) / min(self._slots, rest)
        return format_duration(left) if left >= 1 else ""

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("job", "where", "time", "epochs", "last"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        for job in (job for number, job in self._running.items() if number not in self._stacked):
            more = self._stack_sizes[job.number] - 1
            name = f"{job.name} and {more} more" if more else job.name
            epoch = int(job.metrics.get("epoch", 0))
            epochs = f"{epoch}/{job.epochs}" if job.epochs else str(epoch)
            table.add_row(Text(name), job.status, format_duration(job.seconds), epochs, _shown_metric(job))
        parts = [f"{len(self._running)} running", f"{self._remaining() - len(self._running)} waiting"]
        parts += [f"{count} {outcome.value}" for outcome, count in self._counts.items()]
        left = self._left()
        return Group(table, Text(", ".join(parts) + (f"; about {left} left" if left else "")))


def _shown_metric(job: Job) -> str:
    """The main metric of a job with its name, of the best epoch once it has ended; empty without any."""
    names = (job.monitor if not job.monitor.endswith("/loss") else "", *_SHOWN)
    metrics = job.metrics | {name: job.metrics[f"best/{name}"] for name in names if f"best/{name}" in job.metrics}
    return next((f"{name} {format_value(name, metrics[name])}" for name in names if name in metrics), "")
