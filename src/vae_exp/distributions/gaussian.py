"""The diagonal Gaussian posterior and the standard normal prior: a draw and its rate in one operation."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vae_exp.distributions.leading_axis import LastAxisFunction


class _IndependentNormals(Independent):  # type: ignore[type-arg]
    """Normals side by side, which subclasses make in other ways."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same densities over more axes of batches."""
        return Independent(self.base_dist, 1, validate_args=False).expand(batch_shape)


class DiagonalGaussian(_IndependentNormals):
    """N(μ, diag σ²).

    Args:
        parameters: μ, then log σ²: `[batch, 2·latent_dim]`.
    """

    def __init__(self, parameters: Tensor) -> None:
        mean, log_variance = parameters.chunk(2, dim=-1)
        super().__init__(Normal(mean, torch.exp(0.5 * log_variance), validate_args=False), 1, validate_args=False)
        self.parameters = parameters


class StandardNormal(_IndependentNormals):
    """N(0, I).

    Args:
        loc: Zeros, `[latent_dim]`.
        scale: Ones, likewise.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def draw_with_rate(posterior: DiagonalGaussian, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw z = μ + σ ε, with KL(N(μ, diag σ²) ‖ N(0, I)) (Kingma & Welling 2014, appendix B).

    The same as a draw and a divergence one by one, in half of the operations: a small latent space costs nothing
    but their number.

    Args:
        posterior: N(μ, diag σ²) over `[batch, latent_dim]`.
        noise: ε, `[batch, latent_dim]`.

    Returns:
        z, `[batch, latent_dim]`, and the divergence, `[batch]`, in nats.
    """
    latents, rate = _DrawWithRate.compute(posterior.parameters, posterior.base_dist.scale, noise)
    return latents, rate


class _DrawWithRate(LastAxisFunction):
    """The gradient by σ is part of that by log σ²; σ is an argument because the posterior has computed it."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(parameters, scale, noise)
        mean, log_variance = parameters.chunk(2, dim=-1)
        terms = torch.addcmul(log_variance, mean, mean, value=-1).addcmul_(scale, scale, value=-1)
        rate = torch.rsub(terms.sum(dim=-1), -0.5 * mean.shape[-1], alpha=0.5)
        return torch.addcmul(mean, scale, noise), rate

    @staticmethod
    def backward(ctx: Any, by_latents: Tensor, by_rate: Tensor) -> tuple[Tensor, None, None]:
        parameters, scale, noise = ctx.saved_tensors
        mean, _ = parameters.chunk(2, dim=-1)
        weight = by_rate.unsqueeze(-1)
        by_mean = torch.addcmul(by_latents, weight, mean)
        by_scale = torch.addcmul(by_latents * noise, weight, scale)  # without the rate's −1/σ
        by_log_variance = torch.addcmul(-0.5 * weight, by_scale, scale, value=0.5)
        return torch.cat([by_mean, by_log_variance], dim=-1), None, None
