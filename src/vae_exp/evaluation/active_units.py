"""Active latent units, and the rate of each unit."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.argument_checks import check_int, check_number, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.distributions.kl import kl_per_dimension
from vae_exp.distributions.sampling import sample
from vae_exp.evaluation.plotting import plot_latent_units
from vae_exp.model.vae import VAE


class UnitsEvaluator:
    """Active units (Burda, Grosse & Salakhutdinov 2016, section 5.2), and the rate that each unit carries.

    A unit is active if the variance over images of its posterior mean, Var_x E[z|x], is above a threshold. Yields
    `active_units`, how many; and, where posterior and prior have independent units, `active_rate` in nats
    per image, the sum of their rates, and the figure `units`: all units by their rate, with their variances.

    Args:
        threshold: Of the variance; the paper's is 0.01.
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum, or the threshold below zero.
    """

    def __init__(self, threshold: float, batch_size: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._batch_size = check_int("batch_size", batch_size)
        self._threshold = check_number("threshold", threshold, minimum=0)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        """Yield numbers and a figure."""
        prior = vae.prior()
        means, rates = [], []
        for batch in images.batches(self._batch_size):
            posterior = vae.encode(batch.images, batch.labels)
            means.append(posterior.mean.cpu().double())
            rates.append(rate_per_unit(posterior, prior, generator))
        variance = torch.cat(means).var(dim=0, correction=0)
        active = variance > self._threshold
        yield "active_units", int(active.sum())
        available = [rate for rate in rates if rate is not None]
        if not available:
            return
        rate = torch.cat(available).mean(dim=0)
        yield "active_rate", rate[active].sum().item()
        yield "unit_rates", rate.tolist()
        order = rate.argsort(descending=True)
        names = [f"z{unit + 1}" for unit in order.tolist()]
        yield "units", plot_latent_units(rate[order].numpy(), variance[order].numpy(), names, self._threshold)


def rate_per_unit(posterior: Distribution, prior: Distribution, generator: torch.Generator) -> Tensor | None:
    """KL of each unit in nats, on the CPU in float64, `[batch, units]`; None where units depend on one another."""
    try:
        return kl_per_dimension(posterior, prior, sample(posterior, generator, (1,))).cpu().double()
    except TypeError:
        return None
