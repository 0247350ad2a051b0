"""Warnings for posterior collapse during training."""

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.engine.precision import computing_in
from vae_exp.model.vae import VAE
from vae_exp.objective.schedules import LossSchedules

_IMAGES = 500
_THRESHOLD = 0.01  # a unit whose mean varies less than this over images is inactive (Burda et al. 2016)
_IN_USE = 0.1  # one whose mean varies more than this is in use: random weights do not count
_LEAST_RATE = 0.1  # nats per image
_PATIENCE = 3  # epochs: the first ones may still be on their way
_REMEDY = (
    "a smaller weight of the rate at first (loss=beta_vae +loss/schedule@loss.beta=linear), "
    "loss=free_bits, or a smaller decoder may help"
)


class PosteriorCollapseMonitor:
    """Detects a rate that goes to nothing (Bowman et al. 2016) and latent units that die.

    Looks at the end of an epoch at the posterior means of some images; nothing is drawn, so that nothing changes.

    Args:
        vae: The model.
        images: Held out, or trained on where none are.
        schedules: Of the loss: while one is on its way, a small rate may be what it asks for.
    """

    def __init__(self, vae: VAE, images: ImageSet, schedules: LossSchedules) -> None:
        self._vae = vae
        self._images = images.first(_IMAGES)
        self._schedules = schedules
        self._low_epochs = 0
        self._rate_before = inf
        self._epochs_in_use: list[int] = []  # in a row, of each unit; it stays at `_PATIENCE` once that is reached
        self._epochs_inactive: list[int] = []

    @torch.no_grad()
    def look(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """After an epoch, given what it is reported with: `posterior_collapse`, `dead_units`, and what to do."""
        warnings = {}
        rate = metrics["train/rate"]
        low = rate < _LEAST_RATE and self._schedules.are_at_end()
        self._low_epochs = self._low_epochs + 1 if low else 0
        rising, self._rate_before = rate > self._rate_before, rate  # it may still be on its way up
        if self._low_epochs >= _PATIENCE and not rising:
            warnings["posterior_collapse"] = (
                f"the rate is {rate:.3g} nats per image: the latents carry next to no information; {_REMEDY}."
            )
        variances = self._variances().tolist()
        self._count(variances)
        used = [count >= _PATIENCE for count in self._epochs_in_use]
        dead = sum(was and epochs >= _PATIENCE for was, epochs in zip(used, self._epochs_inactive, strict=True))
        if dead > max(1, sum(used) // 10):
            active = sum(value > _THRESHOLD for value in variances)
            warnings["dead_units"] = (
                f"{active} of {len(variances)} latent units are active, and {dead} that were in use have been "
                f"inactive for {_PATIENCE} epochs or more: units die; {_REMEDY}."
            )
        return warnings

    def state_dict(self) -> dict[str, Any]:
        """Plain values that a checkpoint can hold."""
        return {
            "low_epochs": self._low_epochs,
            "rate_before": self._rate_before,
            "epochs_in_use": self._epochs_in_use,
            "epochs_inactive": self._epochs_inactive,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._low_epochs, self._rate_before = state["low_epochs"], state["rate_before"]
        self._epochs_in_use = list(state["epochs_in_use"])
        self._epochs_inactive = list(state["epochs_inactive"])

    def _count(self, variances: list[float]) -> None:
        none = [0] * len(variances)
        self._epochs_in_use = [
            count if count >= _PATIENCE else (count + 1) * (value > _IN_USE)
            for count, value in zip(self._epochs_in_use or none, variances, strict=True)
        ]
        self._epochs_inactive = [
            (count + 1) * (value <= _THRESHOLD)
            for count, value in zip(self._epochs_inactive or none, variances, strict=True)
        ]

    def _variances(self) -> Tensor:
        """The variance of each unit's posterior mean over the images, `[latent_dim]`."""
        self._vae.eval()
        with self._vae.given(self._images.labels), computing_in(self._vae, "fp32"):
            means = self._vae.encode(self._images.scaled()).mean
        return means.var(dim=0, correction=0)
