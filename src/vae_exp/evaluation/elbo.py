"""The evidence lower bound of a split, with its parts."""

from collections.abc import Iterator

import torch

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.evaluation.requirements import BitsPerDim
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO


class ELBOEvaluator:
    """ELBO, rate and distortion by draws from the posterior, and the reconstruction from its mean.

    Yields `elbo`, `negative_elbo`, `rate`, `distortion` (z drawn from q(z|x)) and
    `reconstruction_from_mean`, which is −log p(x|z) at z = E[z|x], as the minimalist VAE has it at evaluation;
    all in nats per image. That last one plus the rate is no bound on −log p(x). Where the likelihood is a
    probability of these images, `negative_elbo_bits_per_dim` is −ELBO in bits per pixel and channel.

    Args:
        num_samples: Draws of z per image.
        batch_size: Images at once.
        every_n_epochs: Interval during training; None runs it once, at the end.
        bits: Whether bits per dimension are given: `auto` where the model has them; True refuses models without.
    """

    def __init__(
        self, num_samples: int, batch_size: int, every_n_epochs: int | None, bits: str | bool = "auto"
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._elbo = ELBO(check_int("num_samples", num_samples))
        self._batch_size = check_int("batch_size", batch_size)
        self._bits = BitsPerDim("evaluator.elbo.bits", bits)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse `bits=True` where there are none."""
        self._bits.check(vae, images)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values, averaged over the images with equal weight."""
        distortion = rate = from_mean = 0.0
        for batch in images.batches(self._batch_size):
            terms = self._elbo(vae, batch, generator)
            distortion += terms.distortion.cpu().double().sum().item()
            rate += terms.rate.cpu().double().sum().item()
            mean = vae.encode(batch.images, batch.labels).mean
            from_mean -= vae.decode(mean, batch.labels).log_prob(batch.images).cpu().double().sum().item()
        count = len(images)
        yield "elbo", -(distortion + rate) / count
        yield "negative_elbo", (distortion + rate) / count
        if (bits := self._bits.compute((distortion + rate) / count, vae, images)) is not None:
            yield "negative_elbo_bits_per_dim", bits
        yield "rate", rate / count
        yield "distortion", distortion / count
        yield "reconstruction_from_mean", from_mean / count
