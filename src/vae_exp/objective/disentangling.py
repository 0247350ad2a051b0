"""Objectives that look at the aggregate posterior q(z) = (1/N) Σₙ q(z|xₙ): β-TCVAE, InfoVAE, DIP-VAE.

They compare the images of a batch, so that a batch needs at least two (`least_batch`).
"""

from math import log

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from vae_exp.argument_checks import check_choice, check_int
from vae_exp.data.images import Batch
from vae_exp.distributions.kl import per_dimension
from vae_exp.distributions.sampling import rsample, sample
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import refuse_codes, sample_posterior
from vae_exp.objective.schedules import Schedule, as_scalar, value_of


class BetaTCVAE:
    """Distortion + α I(x; z) + β TC(z) + γ Σⱼ KL(q(zⱼ) ‖ p(zⱼ)) (Chen et al. 2018, equation 4).

    The densities of the aggregate posterior are estimated from the batch by minibatch-stratified sampling
    (appendix C.2). α = β = γ = 1 is the ELBO, its rate estimated from the same draw.

    Args:
        alpha: Weight of the mutual information, or a schedule.
        beta: Weight of the total correlation, or a schedule; above 1 it favours independent units.
        gamma: Weight of the dimension-wise divergence, or a schedule.
        dataset_size: N, the number of training images.

    Raises:
        ValueError: if a weight is negative, or if N is not known.
    """

    least_batch = 2

    def __init__(
        self,
        alpha: float | Schedule,
        beta: float | Schedule,
        gamma: float | Schedule,
        dataset_size: int | None,
    ) -> None:
        self.alpha = as_scalar("loss.alpha", alpha, minimum=0)
        self.beta = as_scalar("loss.beta", beta, minimum=0)
        self.gamma = as_scalar("loss.gamma", gamma, minimum=0)
        self.dataset_size = check_int("loss.dataset_size", dataset_size, 2)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, ())
        latents = samples.latents
        units = per_dimension(samples.posterior)
        densities = units.log_prob(latents.unsqueeze(1))  # [z of this image, q of that, unit]
        log_weights = stratified_log_weights(len(batch), self.dataset_size, latents)
        log_q_z = (densities.sum(dim=-1) + log_weights).logsumexp(dim=1)
        log_q_units = (densities + log_weights.unsqueeze(-1)).logsumexp(dim=1).sum(dim=-1)
        log_q_z_x = samples.posterior.log_prob(latents)
        log_p_z = samples.prior.log_prob(latents)
        penalty = (
            value_of(self.alpha) * (log_q_z_x - log_q_z)
            + value_of(self.beta) * (log_q_z - log_q_units)
            + value_of(self.gamma) * (log_q_units - log_p_z)
        )
        distortion = samples.distortion
        return LossTerms(loss=distortion + penalty, distortion=distortion, rate=samples.rate)


def stratified_log_weights(batch_size: int, dataset_size: int, like: Tensor) -> Tensor:
    """Log weights of minibatch-stratified sampling, `[batch, batch]` (Chen et al. 2018, appendix C.2).

    Row i weighs the posteriors of the batch so that Σⱼ weightᵢⱼ q(zᵢ|xⱼ) has the expectation q(zᵢ): 1/N for the
    image that zᵢ was drawn from, (N − M)/(N M) for one other and 1/M for the rest, with M = batch − 1. Each row
    adds up to one.

    Args:
        batch_size: At least 1; a batch of one has nothing but its own posterior.
        dataset_size: N, at least `batch_size`.
        like: Gives device and type.

    Raises:
        ValueError: if N is less than a batch.
    """
    if dataset_size < batch_size:
        raise ValueError(
            f"loss.dataset_size={dataset_size} is less than the {batch_size} images of a batch; leave it out."
        )
    others = batch_size - 1
    if others == 0:
        return like.new_zeros(1, 1)
    numbers = torch.arange(batch_size, device=like.device)
    apart = (numbers - numbers.unsqueeze(1)) % batch_size
    stratum = (dataset_size - others) / (dataset_size * others)
    weights = like.new_full((batch_size, batch_size), -log(others))
    return weights.masked_fill(apart == 1, log(stratum)).masked_fill(apart == 0, -log(dataset_size))


class InfoVAE:
    """Distortion + (1 − α) rate + (α + λ − 1) MMD(q(z), p(z)) (Zhao, Song & Ermon 2019, equation 6).

    The maximum mean discrepancy is estimated without bias from the draws of the batch and as many of the prior,
    with the kernel exp(−‖z − z'‖² / (2 h²)), h² = latent_dim (Gretton et al. 2012, lemma 6); it has no unit.
    The same number is charged to every image of the batch. α = 0 and λ = 1 is the ELBO; α = 1 the MMD-VAE. A
    prior that is a mixture learns from the rate alone: its draws have no gradient.

    Args:
        alpha: α, or a schedule; above 1 the rate would be rewarded.
        weight: λ, or a schedule.

    Raises:
        ValueError: if α is above 1 or λ negative.
    """

    least_batch = 2

    def __init__(self, alpha: float | Schedule, weight: float | Schedule) -> None:
        self.alpha = as_scalar("loss.alpha", alpha, maximum=1)
        self.weight = as_scalar("loss.weight", weight, minimum=0)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, ())
        latents = samples.latents
        alpha = value_of(self.alpha)
        draw_prior = rsample if samples.prior.has_rsample else sample
        discrepancy = maximum_mean_discrepancy(latents, draw_prior(samples.prior, generator, (len(latents),)))
        penalty = (1 - alpha) * samples.rate + (alpha + value_of(self.weight) - 1) * discrepancy
        distortion = samples.distortion
        return LossTerms(loss=distortion + penalty, distortion=distortion, rate=samples.rate)


def maximum_mean_discrepancy(left: Tensor, right: Tensor) -> Tensor:
    """The unbiased estimate of MMD² between two samples (Gretton et al. 2012, lemma 6); may be below zero.

    Args:
        left: `[n, units]`.
        right: `[n, units]`. For n = 1, which leaves no pairs, the estimate is 0.
    """
    count, units = left.shape
    if count < 2:
        return 0 * left.sum()

    def mean_kernel(one: Tensor, other: Tensor, *, same: bool) -> Tensor:
        kernel = torch.exp(-(one.unsqueeze(1) - other).square().sum(dim=-1) / (2 * units))
        return (kernel.sum() - count) / (count * (count - 1)) if same else kernel.mean()

    within = mean_kernel(left, left, same=True) + mean_kernel(right, right, same=True)
    return within - 2 * mean_kernel(left, right, same=False)


def _mean_covariance(posterior: Distribution) -> Tensor:
    """E[Cov(z|x)] over the batch, `[units, units]`.

    Raises:
        TypeError: if the posterior has dependent units whose covariance is not known.
    """
    if isinstance(posterior, MultivariateNormal):
        return posterior.covariance_matrix.mean(dim=0)
    return per_dimension(posterior).variance.mean(dim=0).diag_embed()


class DIPVAE:
    """−ELBO + λ_od Σᵢ≠ⱼ Cᵢⱼ² + λ_d Σᵢ (Cᵢᵢ − 1)² (Kumar, Sattigeri & Balakrishnan 2018, equations 6 and 7).

    C is the covariance over the batch of the posterior means (DIP-VAE-I), or that plus the mean of the posterior
    covariances (DIP-VAE-II). The same number is charged to every image of the batch. λ_od = λ_d = 0 is the ELBO.

    Args:
        variant: 1 for DIP-VAE-I, 2 for DIP-VAE-II.
        off_diagonal: λ_od, or a schedule.
        diagonal: λ_d, or a schedule.

    Raises:
        ValueError: if there is no such variant or a weight is negative.
    """

    least_batch = 2

    def __init__(self, variant: int, off_diagonal: float | Schedule, diagonal: float | Schedule) -> None:
        self.variant = check_choice("loss.variant", variant, (1, 2))
        self.off_diagonal = as_scalar("loss.off_diagonal", off_diagonal, minimum=0)
        self.diagonal = as_scalar("loss.diagonal", diagonal, minimum=0)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, ())
        refuse_codes(samples.posterior, "the covariance")
        means = samples.posterior.mean
        centred = means - means.mean(dim=0)
        covariance = centred.T @ centred / len(means)
        if self.variant == 2:
            covariance = covariance + _mean_covariance(samples.posterior)
        on_diagonal = covariance.diagonal()
        off = covariance.square().sum() - on_diagonal.square().sum()
        penalty = value_of(self.off_diagonal) * off + value_of(self.diagonal) * (on_diagonal - 1).square().sum()
        distortion, rate = samples.distortion, samples.rate
        return LossTerms(loss=distortion + rate + penalty, distortion=distortion, rate=rate)
