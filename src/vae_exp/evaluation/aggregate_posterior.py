"""The aggregate posterior: mutual information of images and latents, and the divergence from the prior."""

import logging
from collections.abc import Iterator, Sequence
from math import exp, log

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.evaluation.requirements import require_density, scored_images
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_ROUNDING = 1e-4  # nats
_CEILING_MARGIN = 1.0  # nats below log N; above it the number of images limits the estimate
_BATCH = 1000  # images encoded at once
_VALUES_AT_ONCE = 2_000_000


class AggregateEvaluator:
    """The rate in two parts: I(x; z) under q, and KL(q(z) ‖ p(z)) (Hoffman & Johnson 2016, equation 6).

    q(z) = (1/N) Σₙ q(z|xₙ) is the mixture over the N images that are scored, summed exactly; z is drawn from it.
    Yields `mutual_information` and `aggregate_kl` in nats; they add up to the rate. As estimates for the mixture
    over all images the first is too low in expectation, and at most log N, and the second as much too high. Where
    the first is within one nat of log N, a warning says so and the second is `aggregate_kl_upper_bound`. A part
    whose estimate is negative, from too few draws, is left out; so are both parts for a single image.

    Args:
        num_images: N, a random subset of the split (`scored_images`); None for all. Time grows with its square,
            memory with N times the size of a posterior.
        num_samples: Draws of z per image.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
    """

    def __init__(self, num_images: int | None, num_samples: int, every_n_epochs: int | None) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_images = check_optional_int("num_images", num_images)
        self._num_samples = check_int("num_samples", num_samples)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse models without a density of latents."""
        require_density("aggregate", vae, images)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        split_size = len(images)
        images = scored_images("aggregate", images, self._num_images)
        if len(images) == 1:
            _log.warning(
                "evaluator.aggregate: a single image has no mutual information; raise "
                "evaluator.aggregate.num_images."
            )
            return
        prior = vae.prior()
        posteriors, latents, under_posterior, under_prior = [], [], 0.0, 0.0
        for batch in images.batches(_BATCH):
            posterior = vae.encode(batch.images, batch.labels)
            draws = sample(posterior, generator, (self._num_samples,))
            under_posterior += posterior.log_prob(draws).double().sum().item()
            under_prior += prior.log_prob(draws).double().sum().item()
            posteriors.append(posterior)
            latents.append(draws.flatten(0, 1))
        log_count = log(len(images))
        per_part = max(1, _VALUES_AT_ONCE // (min(_BATCH, len(images)) * latents[0][0].numel()))
        under_mixture = 0.0
        for index, batch_latents in enumerate(latents):
            images.report(index / len(latents))
            for part in batch_latents.split(per_part):
                under_mixture += (_log_sum(posteriors, part) - log_count).sum().item()
        count = self._num_samples * len(images)
        information = (under_posterior - under_mixture) / count
        divergence = (under_mixture - under_prior) / count
        saturated = information > log_count - _CEILING_MARGIN
        if saturated:
            _log.warning(
                "evaluator.aggregate: mutual_information=%.2f is close to its ceiling, log N = %.2f for N = %d "
                "images, so it is a lower bound, and the divergence is reported as aggregate_kl_upper_bound. "
                "Raise evaluator.aggregate.num_images (the split has %d; e^(rate + 1) = %.2g suffice).",
                information,
                log_count,
                len(images),
                split_size,
                exp(min(information + divergence + 1, 700)),
            )
        for name, value in (
            ("mutual_information", information),
            ("aggregate_kl_upper_bound" if saturated else "aggregate_kl", divergence),
        ):
            if value > -_ROUNDING:
                yield name, max(value, 0.0)
            else:
                _log.warning(
                    "evaluator.aggregate: the estimate of %s is negative (%.3g) and is skipped. Raise "
                    "evaluator.aggregate.num_samples.",
                    name,
                    value,
                )


def _log_sum(posteriors: Sequence[Distribution], latents: Tensor) -> Tensor:
    """Logarithm of Σₙ q(z|xₙ) over the images of all batches, `[latents]` in float64."""
    batches = [q.log_prob(latents.unsqueeze(1)).double().logsumexp(dim=1) for q in posteriors]
    return torch.stack(batches).logsumexp(dim=0)
