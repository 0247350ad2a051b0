"""`hydra/launcher=pool` and `stacked`: a sweep on one node, each job in its own process or several in one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PoolLauncher(Launcher):
    """Runs jobs side by side, as many as there are slots.

    Args:
        slots: How many jobs run at once without a GPU, or with `trainer.device=cpu`; None is one per core.
        slots_per_gpu: How many jobs run at once on each GPU.
        gpus: Which GPUs; None takes all that are visible, an empty list none.
        threads: Threads of each job; None shares the cores among the slots.
        grace_seconds: How long a job may take to end in order when the sweep is stopped.
        mps: Whether jobs share a GPU through NVIDIA's Multi-Process Service; `auto` where it can be started.

    Raises:
        ArgumentError: names the key and its value.
    """

    def __init__(
        self,
        slots: int | None,
        slots_per_gpu: int,
        gpus: Sequence[str | int] | None,
        threads: int | None,
        grace_seconds: float,
        mps: bool | str,
    ) -> None:
        from vae_exp.argument_checks import check_number
        from vae_exp.sweep.pool.slots import SlotConfig

        super().__init__()
        self._slots = SlotConfig(slots, slots_per_gpu, gpus, threads, mps)
        self._grace_seconds = check_number("hydra.launcher.grace_seconds", grace_seconds, minimum=0)
        self._arguments: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what the jobs need."""
        self._arguments = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; failures are reported at the end of the sweep."""
        results: Sequence[JobReturn] = self._sweep().launch(job_overrides, initial_job_idx)
        return results

    def stream(self, jobs: Iterable[Any], total: int, done: int, on_end: Callable[[Any], None]) -> None:
        """Run jobs that become known one after the other, as those of a search do."""
        self._sweep().stream(jobs, total, done, on_end)

    def _sweep(self) -> Any:
        from vae_exp.sweep.pool.launcher import PoolSweep

        return PoolSweep(*self._sweep_arguments())

    def _sweep_arguments(self) -> tuple[Any, ...]:
        assert self._arguments is not None, "Hydra calls setup first"
        return (*self._arguments, self._slots, self._grace_seconds)


class StackedLauncher(PoolLauncher):
    """Trains jobs that differ in seed, sizes and scalars as one batched model; the others as the pool does.

    Args:
        members: The most jobs of a stack; `auto` goes by the number of jobs and slots.
        pool: The arguments of `PoolLauncher`.

    Raises:
        ArgumentError: names the key and its value.
    """

    def __init__(self, members: int | str, **pool: Any) -> None:
        from vae_exp.argument_checks import check_auto_or_int

        super().__init__(**pool)
        self._members = check_auto_or_int("hydra.launcher.members", members)

    def _sweep(self) -> Any:
        from vae_exp.sweep.pool.stacked_launcher import StackedSweep

        return StackedSweep(*self._sweep_arguments(), members=self._members)
