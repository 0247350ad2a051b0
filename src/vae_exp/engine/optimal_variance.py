"""The variance of `OptimalGaussianLikelihood` that evaluation uses."""

from functools import cached_property

import torch

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import rsample
from vae_exp.engine.determinism import generator
from vae_exp.engine.interruption import InterruptGuard
from vae_exp.engine.precision import computing_in
from vae_exp.model.gaussian_likelihoods import OptimalGaussianLikelihood
from vae_exp.model.vae import VAE

_MOST_IMAGES = 5000


class OptimalVariance:
    """σ² = (1/NP) Σₙ E_q(z|xₙ)[‖xₙ − μ(z)‖²] over training images (Rybkin, Daniilidis & Levine 2021, equation 9).

    P is the number of values of an image. The expectation is estimated with one draw of z for each image, from the
    same noise at every call. A model without an `OptimalGaussianLikelihood` is left alone.

    Args:
        vae: The model.
        train: The training images; of more than 5,000 a random subset of that size is used, which follows from
            the seed.
        batch_size: Images per forward pass.
        seed: Of the subset and of the noise.
    """

    def __init__(self, vae: VAE, train: ImageSet, batch_size: int, seed: int) -> None:
        self._vae, self._train = vae, train
        self._batch_size, self._seed = batch_size, seed
        self._likelihoods = [each for each in vae.modules() if isinstance(each, OptimalGaussianLikelihood)]

    @torch.no_grad()
    def update(self, guard: InterruptGuard) -> None:
        """Set the variance to the optimum under the current weights.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next batch.
        """
        if not self._likelihoods:
            return
        self._vae.eval()
        noise = generator(self._seed, "evaluation", self._images.device)
        total = torch.zeros((), dtype=torch.float64)
        with computing_in(self._vae, "fp32"):
            for images in self._images.batches_for(self._vae, self._batch_size):
                guard.check()
                means = self._vae.decode(rsample(self._vae.encode(images), noise)).mean
                total += (images - means).square().sum().cpu().double()
        for likelihood in self._likelihoods:
            likelihood.set_variance(total / self._images.pixels.numel())

    @cached_property
    def _images(self) -> ImageSet:
        order = torch.randperm(
            len(self._train), generator=generator(self._seed, "evaluation", torch.device("cpu"))
        )
        positions = order[:_MOST_IMAGES].sort().values
        return self._train.subset(positions).settled()
