"""Kullback–Leibler divergences between the distributions that a VAE uses."""

from torch import Tensor
from torch.distributions import Distribution, kl_divergence


def rate(posterior: Distribution, prior: Distribution, latents: Tensor) -> Tensor:
    """KL(q(z|x) ‖ p(z)) per example, in nats.

    Closed form where torch has one; otherwise the estimate log q(z|x) − log p(z), averaged over the draws.

    Args:
        posterior: q(z|x) with batch shape `[batch]` and event shape `[latent_dim]`.
        prior: p(z) with event shape `[latent_dim]`.
        latents: Draws of q(z|x), `[samples, batch, latent_dim]`; used only where there is no closed form.

    Returns:
        Tensor of shape `[batch]`.
    """
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:
        return (posterior.log_prob(latents) - prior.log_prob(latents)).mean(dim=0)
