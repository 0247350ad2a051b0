"""A watch on the latents during training: do they still tell anything?"""

import logging
from collections.abc import Mapping
from math import inf

import torch

from vae_exp.data.images import ImageSet
from vae_exp.model.vae import VAE
from vae_exp.objective.schedules import LossSchedules

_log = logging.getLogger(__name__)
_IMAGES = 500
_THRESHOLD = 0.01  # of the variance of a unit's mean (Burda et al. 2016)
_LEAST_RATE = 0.1  # nats per image
_PATIENCE = 3  # epochs: the first ones may still be on their way
_REMEDY = (
    "a smaller weight of the rate at first (loss=beta_vae +loss/schedule@loss.beta=linear), "
    "loss=free_bits, or a smaller decoder may help"
)


class CollapseMonitor:
    """Warns, once each, when the rate goes to nothing (Bowman et al. 2016) and when latent units die.

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
        self._most = 0
        self._low_epochs = 0
        self._rate_before = inf
        self._told_rate = self._told_units = False

    @torch.no_grad()
    def look(self, metrics: Mapping[str, float]) -> None:
        """After an epoch, given what it is reported with."""
        rate = metrics["train/rate"]
        low = rate < _LEAST_RATE and self._schedules.are_at_end()
        self._low_epochs = self._low_epochs + 1 if low else 0
        rising, self._rate_before = rate > self._rate_before, rate  # it may still be on its way up
        if self._low_epochs >= _PATIENCE and not rising and not self._told_rate:
            self._told_rate = True
            _log.warning(
                "The rate is %.3g nats per image: the latents tell next to nothing of it; %s.", rate, _REMEDY
            )
        active, units = self._active_units()
        lost = self._most - active
        if lost > max(1, self._most // 10) and not self._told_units:
            self._told_units = True
            _log.warning(
                "%d of %d latent units are active, %d fewer than before: units die; %s.",
                active,
                units,
                lost,
                _REMEDY,
            )
        self._most = max(self._most, active)

    def _active_units(self) -> tuple[int, int]:
        self._vae.eval()
        with self._vae.given(self._images.labels):
            means = self._vae.encode(self._images.scaled()).mean
        return int((means.var(dim=0, correction=0) > _THRESHOLD).sum()), means.shape[1]
