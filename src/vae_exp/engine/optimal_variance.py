"""The variance of `OptimalGaussianLikelihood` that evaluation uses."""

import torch

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import rsample
from vae_exp.engine.device import matmul_precision
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.model.likelihoods import OptimalGaussianLikelihood
from vae_exp.model.vae import VAE

_MAX_IMAGES = 5000


class OptimalVariance:
    """σ² = (1/NP) Σₙ E_q(z|xₙ)[‖xₙ − μ(z)‖²] over training images (Rybkin, Daniilidis & Levine 2021, equation 9).

    P is the number of values of an image. The expectation is estimated with one draw of z for each image, from the
    same noise at every call. A model without an `OptimalGaussianLikelihood` is not changed.

    Args:
        vae: The model.
        train: The training images; more than 5,000 are represented by a random subset, the same for every run.
        batch_size: Images per forward pass.
        seed: Of the noise.
    """

    def __init__(self, vae: VAE, train: ImageSet, batch_size: int, seed: int) -> None:
        self._vae, self._train = vae, train
        self._batch_size, self._seed = batch_size, seed
        self._likelihoods = [module for module in vae.modules() if isinstance(module, OptimalGaussianLikelihood)]

    @torch.no_grad()
    def update(self, shutdown: GracefulShutdown) -> None:
        """Set the variance to the optimum under the current weights.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next batch.
        """
        if not self._likelihoods:
            return
        self._vae.eval()
        images = self._train.random_subset(_MAX_IMAGES).with_fixed_binarization()
        noise = make_generator(self._seed, "evaluation", images.device)
        total = torch.zeros((), dtype=torch.float64)
        with matmul_precision(self._vae, "fp32"):
            for batch in images.batches(self._batch_size):
                shutdown.raise_if_requested()
                latents = rsample(self._vae.encode(batch.images, batch.labels), noise)
                means = self._vae.decode(latents, batch.labels).mean
                total += (batch.images - means).square().sum().cpu().double()
        for likelihood in self._likelihoods:
            likelihood.set_variance(total / images.pixels.numel())
