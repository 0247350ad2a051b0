"""The engine itself, run for some steps at a time."""

from typing import Any

from vae_exp.engine.precision import computing_in
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer


class BurstTrainer(Trainer):
    """A trainer whose epochs can be trained in parts; validation, figures and checkpoints are left out.

    Args:
        arguments: As `Trainer` takes them.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._guard = GracefulShutdown()
        self._silence = NullProgress()

    def burst(self, steps: int) -> int:
        """Train on the next batches, epoch after epoch; how many images that were."""
        self._vae.train()
        with self._stepper.running(), computing_in(self._vae, self._recipe.precision):
            return sum(self._next_step() for _ in range(steps))

    def _next_step(self) -> int:
        """One step as `Trainer` runs it, with what it does between epochs where one ends."""
        if self.position.batches == len(self._sizes):
            means = self._record.totals() / len(self._train)
            self.position.epoch += 1
            self.position.batches = 0
            self._metrics_of_epoch(means, self.position.epoch, self._guard)
        if self.position.batches == 0:
            self._begin_epoch(0)
        size = self._sizes[self.position.batches]
        self._stop_if_asked(self._guard)
        self._run_step(size, self._silence)
        return size
