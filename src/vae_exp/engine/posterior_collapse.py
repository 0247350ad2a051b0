"""Warnings of posterior collapse and of dying latent units."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.engine.device import matmul_precision
from vae_exp.model.vae import VAE
from vae_exp.objective.schedules import LossSchedules

_NUM_IMAGES = 500
_INACTIVE_BELOW = 0.01  # variance of a unit's mean over images (Burda et al. 2016)
_IN_USE_ABOVE = 0.1  # so that units with random weights do not count
_LOW_RATE = 0.1  # nats per image
_PATIENCE = 3  # epochs: in the first ones a unit or a rate may still change
_REMEDY = (
    "a smaller weight of the rate at first (loss=beta_vae +loss/schedule@loss.beta=linear), "
    "loss=free_bits, or a smaller decoder may help"
)


class PosteriorCollapseMonitor:
    """Detects a rate that goes to zero (Bowman et al. 2016) and latent units that die.

    After an epoch it computes the posterior means of some images; it draws nothing, so that training is the same.

    Args:
        vae: The model.
        images: Held out, or trained on where none are.
        schedules: Of the loss: before they end, a small rate may be what they ask for.
    """

    def __init__(self, vae: VAE, images: ImageSet, schedules: LossSchedules) -> None:
        self._vae = vae
        self._images = images.take(_NUM_IMAGES)
        self._schedules = schedules
        self._low_epochs = 0
        self._previous_rate = inf
        self._epochs_in_use: list[int] = []  # in a row, of each unit; it stays at `_PATIENCE` once that is reached
        self._epochs_inactive: list[int] = []

    @torch.no_grad()
    def update(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Check an epoch's metrics and the latent units; the messages of `posterior_collapse` and `dead_units`."""
        warnings = {}
        rate = metrics["train/rate"]
        is_low = rate < _LOW_RATE and self._schedules.all_finished()
        self._low_epochs = self._low_epochs + 1 if is_low else 0
        is_rising, self._previous_rate = rate > self._previous_rate, rate
        if self._low_epochs >= _PATIENCE and not is_rising:
            warnings["posterior_collapse"] = (
                f"the rate is {rate:.3g} nats per image: the latents carry next to no information; {_REMEDY}."
            )
        variances = self._variances().tolist()
        self._count(variances)
        was_used = [count >= _PATIENCE for count in self._epochs_in_use]
        is_inactive = [epochs >= _PATIENCE for epochs in self._epochs_inactive]
        dead = sum(was and now for was, now in zip(was_used, is_inactive, strict=True))
        if dead > max(1, sum(was_used) // 10):
            active = sum(value > _INACTIVE_BELOW for value in variances)
            warnings["dead_units"] = (
                f"{active} of {len(variances)} latent units are active, and {dead} that were in use have been "
                f"inactive for {_PATIENCE} epochs or more: units die; {_REMEDY}."
            )
        return warnings

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `load_state_dict` takes."""
        return {
            "low_epochs": self._low_epochs,
            "rate_before": self._previous_rate,
            "epochs_in_use": self._epochs_in_use,
            "epochs_inactive": self._epochs_inactive,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._low_epochs, self._previous_rate = state["low_epochs"], state["rate_before"]
        self._epochs_in_use = list(state["epochs_in_use"])
        self._epochs_inactive = list(state["epochs_inactive"])

    def _count(self, variances: list[float]) -> None:
        zeros = [0] * len(variances)
        self._epochs_in_use = [
            count if count >= _PATIENCE else (count + 1) * (value > _IN_USE_ABOVE)
            for count, value in zip(self._epochs_in_use or zeros, variances, strict=True)
        ]
        self._epochs_inactive = [
            (count + 1) * (value <= _INACTIVE_BELOW)
            for count, value in zip(self._epochs_inactive or zeros, variances, strict=True)
        ]

    def _variances(self) -> Tensor:
        """The variance of each unit's posterior mean over the images, `[latent_dim]`."""
        self._vae.eval()
        with matmul_precision(self._vae, "fp32"):
            means = [self._vae.encode(batch.images, batch.labels).mean for batch in self._images.chunks()]
        return torch.cat(means).var(dim=0, correction=0)
