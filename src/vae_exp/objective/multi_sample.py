"""Objectives with several importance samples per image: bounds that are tighter than the ELBO.

With log wₖ = log p(x, zₖ) − log q(zₖ|x) and zₖ ~ q(z|x). `distortion` and `rate` beside these losses are those of
the ELBO, from the same draws.
"""

from math import log

import torch
from torch import Tensor

from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import PosteriorSamples, check_num_samples, draw
from vae_exp.objective.schedules import Schedule, current, scalar


class IWAE:
    """−log (1/K) Σₖ wₖ (Burda, Grosse & Salakhutdinov 2016, equation 8); K = 1 is the ELBO.

    Args:
        num_samples: K.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = check_num_samples("num_samples", num_samples)

    @property
    def weighted_draws(self) -> int:
        """Draws of one image that are weighted against one another."""
        return self.num_samples

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples,))
        return with_elbo_terms(-log_mean_weight(drawn.log_weights()), drawn)


class MIWAE(IWAE):
    """−(1/M) Σₘ log (1/K) Σₖ wₘₖ: the mean of M bounds (Rainforth et al. 2018, equation 10).

    M = 1 is IWAE, K = 1 the ELBO with M draws.

    Args:
        num_bounds: M.
        num_samples: K, of each bound.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_bounds: int, num_samples: int) -> None:
        super().__init__(num_samples)
        self.num_bounds = check_num_samples("num_bounds", num_bounds)

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples, self.num_bounds))
        return with_elbo_terms(-log_mean_weight(drawn.log_weights()).mean(dim=0), drawn)


class CIWAE(IWAE):
    """β · (−(1/K) Σₖ log wₖ) + (1 − β) · (−log (1/K) Σₖ wₖ) (Rainforth et al. 2018, equation 11).

    β = 0 is IWAE, β = 1 the ELBO with K draws.

    Args:
        num_samples: K.
        beta: From 0 to 1, or a schedule.

    Raises:
        ValueError: if there is no draw, or if β is negative or above 1.
    """

    def __init__(self, num_samples: int, beta: float | Schedule) -> None:
        super().__init__(num_samples)
        self.beta = scalar("loss.beta", beta, least=0, most=1)

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples,))
        log_weights = drawn.log_weights()
        beta = current(self.beta)
        loss = -(beta * log_weights.mean(dim=0) + (1 - beta) * log_mean_weight(log_weights))
        return with_elbo_terms(loss, drawn)


def log_mean_weight(log_weights: Tensor) -> Tensor:
    """The bound log (1/K) Σₖ wₖ over the first axis: `[K, …, batch]` → `[…, batch]`, in nats."""
    return log_weights.logsumexp(dim=0) - log(len(log_weights))


def with_elbo_terms(loss: Tensor, drawn: PosteriorSamples) -> LossTerms:
    """A loss, `[batch]`, beside the distortion and the rate of the ELBO on the same draws."""
    return LossTerms(loss=loss, distortion=drawn.distortion, rate=drawn.rate)
