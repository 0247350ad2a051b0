"""The aggregate posterior: how much z tells about x, and how far the codes lie from the prior."""

import logging
from collections.abc import Iterator
from math import log

import torch

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.evaluation.arguments import require_count
from vae_exp.evaluation.requirements import require_density
from vae_exp.evaluation.subset import scored_images
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_ROUNDING = 1e-4  # nats
_PAIRS_AT_ONCE = 1_000_000


class AggregateEvaluator:
    """The rate in two parts: I(x; z) under q, and KL(q(z) ‖ p(z)) (Hoffman & Johnson 2016).

    q(z) = (1/N) Σₙ q(z|xₙ) is the mixture over the N images that are scored, summed exactly; z is drawn from it.
    Yields `mutual_information`, which is at most log N, and `aggregate_kl`, both in nats; they add up to the rate.
    One that comes out negative, for want of draws, is left out, and so are both of a single image.

    Args:
        num_images: N, a random subset of the split (`scored_images`); None for all. Time grows with its square.
        num_samples: Draws of z per image.
        every: Cadence in epochs during training; 0 runs it once, at the end.

    Raises:
        ValueError: if a count is below its least.
    """

    def __init__(self, num_images: int | None, num_samples: int, every: int) -> None:
        self.every = require_count("every", every, 0)
        self._num_images = None if num_images is None else require_count("num_images", num_images)
        self._num_samples = require_count("num_samples", num_samples)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse models without a density of latents.

        Raises:
            UserError: with the reason.
        """
        require_density("aggregate", vae, images)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("aggregate", images, self._num_images)
        if len(images) == 1:
            _log.warning(
                "evaluator.aggregate: of a single image nothing is told; raise evaluator.aggregate.num_images."
            )
            return
        with vae.given(images.labels):
            posterior = vae.encode(images.scaled())
        latents = sample(posterior, generator, (self._num_samples,))
        own = posterior.log_prob(latents).double().mean().item()
        prior = vae.prior().log_prob(latents).double().mean().item()
        flat = latents.flatten(0, 1)
        count = latents.shape[1]
        total = 0.0
        for part in flat.split(max(1, _PAIRS_AT_ONCE // count)):
            densities = posterior.log_prob(part.unsqueeze(1))  # [drawn, images]
            total += (densities.double().logsumexp(dim=1) - log(count)).sum().item()
        mixture = total / len(flat)
        for name, value in (("mutual_information", own - mixture), ("aggregate_kl", mixture - prior)):
            if value > -_ROUNDING:
                yield name, max(value, 0.0)
            else:
                _log.warning(
                    "evaluator.aggregate: %s would be %.3g, and cannot be negative; it is not told. Raise "
                    "evaluator.aggregate.num_samples.",
                    name,
                    value,
                )
