"""Several trainers that train as one, as the runs of a stacked sweep do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_stack import StackedEpoch, TrainerStack
from vae_exp.model.vae import VAE


class StackLoop:
    """Steps of a stack, without what follows on an epoch.

    Args:
        template: A model of their size.
        trainers: At the beginning of their first epochs.
    """

    def __init__(self, template: VAE, trainers: Sequence[Trainer]) -> None:
        self._stack, self._trainers = TrainerStack(template), list(trainers)
        self._epoch: StackedEpoch | None = None
        self._due: list[int] = []
        self._rows: list[Tensor] = []

    def run_steps(self, count: int) -> int:
        """Train all on their next `count` batches; the number of images of all."""
        images = 0
        for _ in range(count):
            if not self._due:
                self._epoch = self._next_epoch()
            assert self._epoch is not None
            size = self._due.pop(0)
            self._rows.append(self._epoch.step(size))
            images += size * len(self._trainers)
        return images

    def _next_epoch(self) -> StackedEpoch:
        if self._epoch is not None:
            self._epoch.give_back(torch.stack(self._rows), 0)
        for trainer in self._trainers:
            trainer.start_epoch()
        self._rows, self._due = [], list(self._trainers[0].due_sizes)
        return StackedEpoch(self._stack, self._trainers, [""] * len(self._trainers))
