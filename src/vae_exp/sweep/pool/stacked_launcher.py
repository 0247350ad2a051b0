"""A pool whose jobs train as one where they can."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vae_exp.errors import quantity
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import Job, JobGroup
from vae_exp.sweep.pool.launcher import PoolSweep
from vae_exp.sweep.stacks import StackKey, largest_sizes, optimizer_word, stack_key

_MOST_ON_CPU, _MOST_ON_GPU = 64, 128  # members of a stack
_BATCHES_OF_A_SEARCH = 4  # at least: the proposals of each follow from the results of those before


@dataclass
class _OpenStack:
    """A stack that takes more jobs."""

    jobs: list[Job] = field(default_factory=list)
    largest: dict[str, Any] | None = None


class StackedSweep(PoolSweep):
    """A sweep whose jobs train in stacks, and in the pool where they cannot be stacked.

    Args:
        arguments: Those of `PoolSweep`.
        members: The most jobs of a stack; `auto` shares the jobs (of a search a quarter) among the slots, up to 64
            on a CPU and 128 on a GPU, and leaves alone the nets that are too large to gain from it on a CPU.
    """

    def __init__(self, *arguments: Any, members: int | str) -> None:
        super().__init__(*arguments)
        self._members = members

    def _groups(
        self, jobs: Iterable[Job], total: int, display: PoolDisplay, *, in_batches: bool
    ) -> Iterator[JobGroup]:
        """Stacks as soon as they are full, single jobs at once; what is left at the end, or after a batch."""
        on_cpu, most = not self._slots[0].gpu, self._most_members(total, in_batches=in_batches)
        stacks: dict[str, _OpenStack] = {}
        reasons: set[str] = set()
        if most == 1:
            display.say(
                "Stacks of one job: each job runs alone. hydra.launcher.members says how many a stack takes."
            )
        for job in jobs:
            try:
                config = self.composed(job)
                key = stack_key(config, on_cpu=on_cpu, any_size=self._members != "auto")
            except Exception:  # the pool composes it once more, and reports what is wrong
                yield JobGroup([job])
                continue
            if key.reason or most == 1:
                _say_once(key, reasons, display)
                yield JobGroup([job])
                continue
            stack = stacks.setdefault(key.text, _OpenStack())
            stack.jobs.append(job)
            stack.largest = largest_sizes(config, stack.largest)
            job.optimizer = optimizer_word(config, job.number)
            waiting = sum(len(stack.jobs) for stack in stacks.values())
            if len(stack.jobs) == most:
                yield _close(stacks.pop(key.text), display)
            elif in_batches and waiting == most * len(self._slots):
                yield from (_close(stacks.pop(text), display) for text in list(stacks))
        yield from (_close(stack, display) for stack in stacks.values())

    def _most_members(self, total: int, *, in_batches: bool) -> int:
        if self._members != "auto":
            return int(self._members)
        most = _MOST_ON_GPU if self._slots[0].gpu else _MOST_ON_CPU
        batches = _BATCHES_OF_A_SEARCH if in_batches else 1
        return min(most, -(-total // (batches * len(self._slots))))


def _close(stack: _OpenStack, display: PoolDisplay) -> JobGroup:
    assert stack.largest is not None
    if len(stack.jobs) == 1:
        display.say(f"{stack.jobs[0].name} runs alone: no job is left to stack it with.")
        return JobGroup(stack.jobs)
    jobs = sorted(stack.jobs, key=lambda job: job.optimizer)  # neighbours of equal options share a kernel
    sizes = f"latent_dim up to {stack.largest['latent_dim']}, hidden_dims up to {stack.largest['hidden_dims']}"
    numbers = f"{stack.jobs[0].number} to {stack.jobs[-1].number}"
    display.say(f"Stack of {quantity(len(stack.jobs), 'job')} from {numbers}: {sizes}.")
    return JobGroup(jobs, stack.largest)


def _say_once(key: StackKey, reasons: set[str], display: PoolDisplay) -> None:
    if key.reason and key.reason not in reasons:
        reasons.add(key.reason)
        display.say(f"Jobs with {key.reason} run alone.")
