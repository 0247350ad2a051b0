"""The importance-weighted bound with other estimators of its gradient.

The loss that is reported is the bound of `vae_exp.objective.multi_sample.IWAE`; only its gradient is another.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vae_exp.distributions.sampling import rsample
from vae_exp.distributions.stop_gradient import held
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.multi_sample import IWAE, MIWAE, log_mean_weight, with_elbo_terms
from vae_exp.objective.posterior_samples import PosteriorSamples, draw


class STL(IWAE):
    """−log (1/K) Σₖ wₖ, sticking the landing (Roeder, Wu & Duvenaud 2017, section 3).

    The encoder's gradient leaves out the score ∂ log q(z|x)/∂φ at fixed z, whose expectation is zero for K = 1.
    Where q is the exact posterior it has no variance. For K > 1 it is biased (Tucker et al. 2019); `DReG` is not.

    Args:
        num_samples: K.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__(num_samples)

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples,))
        loss = -log_mean_weight(drawn.log_weights(held(drawn.posterior)))
        return with_elbo_terms(loss, drawn)


class DReG(IWAE):
    """−log (1/K) Σₖ wₖ with the doubly reparameterised gradient (Tucker et al. 2019, equation 8).

    The encoder's gradient is Σₖ w̃ₖ² (∂ log wₖ/∂zₖ)(∂zₖ/∂φ), w̃ₖ = wₖ / Σᵢ wᵢ; decoder and prior have that of IWAE.
    Unbiased, and its signal does not drown in noise as K grows. K = 1 is `STL`.

    Args:
        num_samples: K.

    Raises:
        ValueError: if there is no draw.
    """

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        drawn = draw(vae, images, generator, (self.num_samples,))
        log_weights = drawn.log_weights(held(drawn.posterior))
        if drawn.latents.requires_grad:
            shares = log_weights.detach().softmax(dim=0).unsqueeze(-1)
            drawn.latents.register_hook(lambda gradient: shares * gradient)
        return with_elbo_terms(-log_mean_weight(log_weights), drawn)


class PIWAE(MIWAE):
    """Partially importance-weighted (Rainforth et al. 2018, section 4): decoder and encoder each have a bound.

    Decoder and prior have the gradient of −log (1/MK) Σₘₖ wₘₖ, which is the loss that is reported; the encoder has
    that of −(1/M) Σₘ log (1/K) Σₖ wₘₖ, whose signal is stronger. Latents are decoded twice. M = 1 is IWAE.

    Args:
        num_bounds: M.
        num_samples: K, of each of the encoder's bounds.

    Raises:
        ValueError: if there is no draw.
    """

    @property
    def weighted_draws(self) -> int:
        """M · K: the decoder's bound weighs all of them."""
        return self.num_bounds * self.num_samples

    def __call__(self, vae: VAE, images: Tensor, generator: torch.Generator) -> LossTerms:
        """Images `[batch, *image_shape]` → terms of shape `[batch]`, in nats."""
        posterior = vae.encode(images)
        latents = rsample(posterior, generator, (self.num_samples, self.num_bounds))
        with _frozen(vae):  # the encoder too, which a VampPrior sees as a part of the prior
            drawn = PosteriorSamples(posterior, vae.prior(), latents, vae.decode(latents).log_prob(images))
        encoder_loss = -log_mean_weight(drawn.log_weights()).mean(dim=0)
        latents = latents.detach()
        log_joint = vae.decode(latents).log_prob(images) + vae.prior().log_prob(latents)
        log_weights = log_joint - drawn.posterior.log_prob(latents).detach()
        loss = -log_mean_weight(log_weights.flatten(0, 1))
        return with_elbo_terms(loss + (encoder_loss - encoder_loss.detach()), drawn)


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """For the length of a block, gradients pass through these modules and leave their parameters alone."""
    trained = [each for module in modules for each in module.parameters() if each.requires_grad]
    for each in trained:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)
