"""Detection of non-finite losses, gradients and weights."""

from collections.abc import Mapping
from math import inf, isfinite, nan

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from vae_exp.engine.train_state import TrainState
from vae_exp.engine.train_step import EpochLossBuffer
from vae_exp.errors import DivergedError
from vae_exp.model.vae import VAE

_STEPS_BETWEEN_COPIES = 32


class LossMonitor:
    """Polls the terms of recent steps without making the device wait.

    On the CPU every step is seen at once. On CUDA a copy is started at the first poll after 32 steps
    and read once it has arrived. Other devices have no events: there the check at the end of an epoch must do.

    Args:
        buffer: The terms of the steps of the epoch.
    """

    def __init__(self, buffer: EpochLossBuffer) -> None:
        self._buffer = buffer
        self._device = buffer.rows.device
        self._is_copying = False
        self._countdown = _STEPS_BETWEEN_COPIES
        if self._device.type == "cuda":
            self._copy = torch.zeros(3, pin_memory=True)
            self._arrival = torch.cuda.Event()

    def poll(self, sums: Tensor, size: int, steps: int = 1) -> Tensor | None:
        """Call it after every step, or after several that are made as one.

        Args:
            sums: The sums of the last step's terms, `[3]`, on the device.
            size: How many images the step had.
            steps: How many steps there were.

        Returns:
            The terms of a recent step per image, on the CPU, not finite if any step of the epoch so far was not;
            None if there is nothing new.
        """
        if self._device.type == "cpu":
            return sums / size
        return self._poll_cuda(sums, size, steps) if self._device.type == "cuda" else None

    def _poll_cuda(self, sums: Tensor, size: int, steps: int) -> Tensor | None:
        if self._is_copying:
            if not self._arrival.query():
                return None
            self._is_copying = False
            return self._copy.clone()
        self._countdown -= steps
        if self._countdown <= 0:
            self._countdown = _STEPS_BETWEEN_COPIES
            # adding 0 × all rows makes a NaN or an infinity of any step visible
            self._copy.copy_(sums / size + 0 * self._buffer.rows.sum(dim=0), non_blocking=True)
            self._arrival.record(torch.cuda.current_stream(self._device))  # not that of the current device
            self._is_copying = True
        return None


class NonFiniteChecker:
    """Names what is not finite.

    Args:
        vae: The model that is trained.
        buffer: The terms of the steps of the epoch.
    """

    def __init__(self, vae: VAE, buffer: EpochLossBuffer) -> None:
        self._weights = {name: weight for name, weight in vae.named_parameters() if weight.requires_grad}
        self._buffer = buffer

    def weights_are_finite(self) -> bool:
        """Whether all trained weights are; waits for the device once."""
        return bool(get_total_norm(list(self._weights.values()), inf).isfinite())

    def check_steps(self, state: TrainState) -> None:
        """Check the steps of the epoch so far; waits for the device.

        Raises:
            DivergedError: if one has a term that is not finite; names the first.
        """
        first = self._buffer.first_non_finite()
        if first is None:
            return
        in_epoch, term, value = first
        step = state.global_step - state.batch_in_epoch + in_epoch + 1
        if self._buffer.rows.device.type == "cpu" and not self.weights_are_finite():  # since the step before
            raise _error(f"the gradient of {self._bad_weight()}", nan, state, step - 1)
        raise _error(f"train/{term}", value, state, step)

    def check_metrics(self, metrics: Mapping[str, float], state: TrainState) -> None:
        """Check the metrics of an epoch, and the weights at its end.

        Raises:
            DivergedError: if something is not finite.
        """
        name = next((name for name, value in metrics.items() if not isfinite(value)), None)
        if name is None and self.weights_are_finite():
            return
        self.check_steps(state)
        raise _error(*(("a weight", nan) if name is None else (name, metrics[name])), state, state.global_step)

    def _bad_weight(self) -> str:
        """The first weight with a gradient that is not finite, or else that is not finite itself."""
        gradients = {name: weight.grad for name, weight in self._weights.items() if weight.grad is not None}
        return next(
            name
            for name, tensor in [*gradients.items(), *self._weights.items()]
            if not bool(tensor.isfinite().all())
        )


def _error(name: str, value: float, state: TrainState, step: int) -> DivergedError:
    advice = "Checkpoints of earlier epochs stand; a" if state.epoch else "There is no checkpoint yet; a"
    return DivergedError(
        f"{name} is {value} in epoch {state.epoch + 1} (step {step}): training diverged. "
        f"{advice} smaller optimizer.lr or trainer.max_grad_norm may help."
    )
