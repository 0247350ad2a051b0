"""CPU threads of a run, and a warning when they do not get their cores."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine.thread_variables import thread_variable
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
# Of a step; two threads gain 10 % at half of it, and cost 50 times that on a busy machine.
_FLOPS_PER_THREAD = 100_000_000
_MIN_SECONDS = 2.0
_MIN_CPU_SHARE = 0.5


def count_step_flops(vae: VAE, loss: Loss, images: ImageSet, batch_size: int) -> int:
    """Count the floating-point operations of a training step in its matrix products and convolutions.

    Args:
        vae: The model, on the CPU.
        loss: The loss.
        images: Two suffice: the count grows with the batch, and the backward pass takes twice the forward one.
        batch_size: Images of a step.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a second to import, which the optimiser needs as well

    was_training = vae.training
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), counter:
        loss(vae.eval(), images.batch(), torch.Generator().manual_seed(0))
    vae.train(was_training)
    return 3 * counter.get_total_flops() * batch_size // len(images)


def choose_threads(requested: str | int | None, flops: int) -> int:
    """The number of CPU threads of a run, from the config and the machine.

    Args:
        requested: `auto` takes one per 10⁸ operations of a step, at most torch's default; None for that default.
            A number set by the environment takes precedence.
        flops: The operations of a step.
    """
    default = torch.get_num_threads()
    if requested is None or thread_variable():
        return default
    if requested == "auto":
        return min(default, max(1, flops // _FLOPS_PER_THREAD))
    return min(int(requested), os.cpu_count() or 1)


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Compute with this many CPU threads within a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ContentionWatch:
    """Warns once if the thread that trains on the CPU has a core for less than half of the time."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0
        self._warned = False

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Measure a block of steps on the CPU in one process, which wait for nothing but the CPU."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self.add(time.perf_counter() - wall, time.thread_time() - cpu)

    def add(self, wall: float, cpu: float) -> None:
        """Add the seconds that steps took, and those that their thread spent on a core."""
        self._wall += wall
        self._cpu += cpu
        if self._warned or self._wall < _MIN_SECONDS or self._cpu > _MIN_CPU_SHARE * self._wall:
            return
        self._warned = True
        threads = torch.get_num_threads()
        remedy = (
            f"{threads} threads wait for one another: trainer.threads=1, or OMP_WAIT_POLICY=PASSIVE in the "
            f"environment, may be many times faster."
            if threads > 1
            else "run fewer of them at a time."
        )
        _log.warning(
            "%.1f s of training had %.1f s of CPU time: other processes use the cores of this machine; %s",
            self._wall,
            self._cpu,
            remedy,
        )
