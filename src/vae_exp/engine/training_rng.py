"""The random state of a training run, as checkpoints keep it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vae_exp.engine.seeding import get_process_rng_state, make_generator, set_process_rng_state
from vae_exp.engine.train_step import TrainStep

_log = logging.getLogger(__name__)


class TrainingRNG:
    """The generators of order and noise and those of the process, at the batch that a resumed run continues with.

    The order is kept from the start of an epoch, whose batches are drawn at once.

    Args:
        seed: Order and noise follow from it.
        device: Where both are drawn.
        train_step: Draws the noise.
    """

    def __init__(self, seed: int, device: torch.device, train_step: TrainStep) -> None:
        self._seed, self._device, self._train_step = seed, device, train_step
        self._shuffle = make_generator(seed, "shuffle", device)
        self._epoch_start = self._shuffle.get_state()
        self._process_after_steps: dict[str, Any] | None = None

    def draw_order(self, count: int) -> Tensor:
        """The order of an epoch's images, int64 `[count]`, on the device."""
        return torch.randperm(count, generator=self._shuffle, device=self._device)

    def end_steps(self) -> None:
        """Keep the state after the steps of an epoch: evaluators that an interruption cuts begin again."""
        self._process_after_steps = get_process_rng_state(self._device)

    def end_epoch(self) -> None:
        """Keep the state in which the next epoch starts."""
        self._epoch_start, self._process_after_steps = self._shuffle.get_state(), None

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs."""
        return {
            "device": self._device.type,
            "shuffle": self._epoch_start,
            "noise": self._train_step.generator.get_state(),
            "process": self._process_after_steps or get_process_rng_state(self._device),
        }

    def load_state_dict(self, state: Mapping[str, Any], epoch: int) -> None:
        """Continue the draws of a checkpoint; on another kind of device order and noise get new generators.

        Args:
            state: Of `state_dict`.
            epoch: Whole epochs of the checkpoint.
        """
        if state["device"] != self._device.type:
            _log.warning(
                "The checkpoint was written on %s: order and noise come from new generators on %s, so the rest of "
                "the run differs.",
                state["device"],
                self._device.type,
            )
            self._shuffle = make_generator(self._seed, "shuffle", self._device, epoch)
            self._train_step.generator = make_generator(self._seed, "noise", self._device, epoch)
        else:
            self._shuffle.set_state(state["shuffle"].cpu())
            self._train_step.generator.set_state(state["noise"].cpu())
        self._epoch_start = self._shuffle.get_state()
        set_process_rng_state(state["process"], self._device)
