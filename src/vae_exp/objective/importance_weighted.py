"""Importance-weighted objectives, and estimates of log p(x).

With log wₖ = log p(x, zₖ) − log q(zₖ|x) and zₖ ~ q(z|x). `distortion` and `rate` beside these losses are those of
the ELBO, from the same draws. `STL`, `DReG` and `PIWAE` report the bound of `IWAE` and change only its gradient.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn

from vae_exp.argument_checks import check_int
from vae_exp.data.images import Batch
from vae_exp.distributions.sampling import rsample
from vae_exp.distributions.stop_gradient import stop_gradient
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.posterior_samples import PosteriorSamples, sample_posterior
from vae_exp.objective.schedules import Schedule, as_scalar, value_of


class IWAE:
    """−log (1/K) Σₖ wₖ (Burda, Grosse & Salakhutdinov 2016, equation 8); K = 1 is the ELBO.

    Args:
        num_samples: K, draws of z per image.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = check_int("loss.num_samples", num_samples)

    @property
    def weighted_draws(self) -> int:
        """Draws of one image that are weighted against one another."""
        return self.num_samples

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, (self.num_samples,))
        return with_elbo_terms(-log_mean_weight(samples.log_weights()), samples)


class MIWAE(IWAE):
    """−(1/M) Σₘ log (1/K) Σₖ wₘₖ: the mean of M bounds (Rainforth et al. 2018, equation 10).

    M = 1 is IWAE, K = 1 the ELBO with M draws.

    Args:
        num_bounds: M, the number of bounds.
        num_samples: K, of each bound.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_bounds: int, num_samples: int) -> None:
        super().__init__(num_samples)
        self.num_bounds = check_int("loss.num_bounds", num_bounds)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, (self.num_samples, self.num_bounds))
        return with_elbo_terms(-log_mean_weight(samples.log_weights()).mean(dim=0), samples)


class CIWAE(IWAE):
    """β · (−(1/K) Σₖ log wₖ) + (1 − β) · (−log (1/K) Σₖ wₖ) (Rainforth et al. 2018, equation 11).

    β = 0 is IWAE, β = 1 the ELBO with K draws.

    Args:
        num_samples: K, draws of z per image.
        beta: β, the weight of the ELBO beside the IWAE bound, or a schedule.

    Raises:
        ValueError: if there is no draw, or if β is negative or above 1.
    """

    def __init__(self, num_samples: int, beta: float | Schedule) -> None:
        super().__init__(num_samples)
        self.beta = as_scalar("loss.beta", beta, minimum=0, maximum=1)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, (self.num_samples,))
        log_weights = samples.log_weights()
        beta = value_of(self.beta)
        loss = -(beta * log_weights.mean(dim=0) + (1 - beta) * log_mean_weight(log_weights))
        return with_elbo_terms(loss, samples)


def log_mean_weight(log_weights: Tensor) -> Tensor:
    """The bound log (1/K) Σₖ wₖ over the first axis: `[K, …, batch]` → `[…, batch]`, in nats."""
    return log_weights.logsumexp(dim=0) - log(len(log_weights))


def with_elbo_terms(loss: Tensor, samples: PosteriorSamples) -> LossTerms:
    """A loss, `[batch]`, beside the distortion and the rate of the ELBO on the same draws."""
    return LossTerms(loss=loss, distortion=samples.distortion, rate=samples.rate)


class STL(IWAE):
    """−log (1/K) Σₖ wₖ, sticking the landing (Roeder, Wu & Duvenaud 2017, section 3).

    The encoder's gradient leaves out the score ∂ log q(z|x)/∂φ at fixed z, whose expectation is zero for K = 1.
    Where q is the exact posterior it has no variance. For K > 1 it is biased (Tucker et al. 2019); `DReG` is not.

    Args:
        num_samples: K, draws of z per image.

    Raises:
        ValueError: if there is no draw.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__(num_samples)

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, (self.num_samples,))
        loss = -log_mean_weight(samples.log_weights(stop_gradient(samples.posterior)))
        return with_elbo_terms(loss, samples)


class DReG(IWAE):
    """−log (1/K) Σₖ wₖ with the doubly reparameterised gradient (Tucker et al. 2019, equation 8).

    The encoder's gradient is Σₖ w̃ₖ² (∂ log wₖ/∂zₖ)(∂zₖ/∂φ), w̃ₖ = wₖ / Σᵢ wᵢ; decoder and prior have that of IWAE.
    Unbiased, and its signal does not drown in noise as K grows. K = 1 is `STL`.

    Args:
        num_samples: K, draws of z per image.

    Raises:
        ValueError: if there is no draw.
    """

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        samples = sample_posterior(vae, batch, generator, (self.num_samples,))
        log_weights = samples.log_weights(stop_gradient(samples.posterior))
        if samples.latents.requires_grad:
            shares = log_weights.detach().softmax(dim=0).unsqueeze(-1)
            samples.latents.register_hook(lambda gradient: shares * gradient)
        return with_elbo_terms(-log_mean_weight(log_weights), samples)


class PIWAE(MIWAE):
    """Partially importance-weighted (Rainforth et al. 2018, section 4): decoder and encoder each have a bound.

    Decoder and prior have the gradient of −log (1/MK) Σₘₖ wₘₖ, which is the loss that is reported; the encoder has
    that of −(1/M) Σₘ log (1/K) Σₖ wₘₖ, whose signal is stronger. Latents are decoded twice. M = 1 is IWAE.

    Args:
        num_bounds: M, the number of bounds.
        num_samples: K, of each of the encoder's bounds.

    Raises:
        ValueError: if there is no draw.
    """

    @property
    def weighted_draws(self) -> int:
        """M · K: the decoder's bound weighs all of them."""
        return self.num_bounds * self.num_samples

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        """A batch of images → terms of shape `[batch]`, in nats."""
        posterior = vae.encode(batch.images, batch.labels)
        latents = rsample(posterior, generator, (self.num_samples, self.num_bounds))
        with _frozen(vae):  # the encoder too, which a VampPrior sees as a part of the prior
            log_likelihood = vae.decode(latents, batch.labels).log_prob(batch.images)
            samples = PosteriorSamples(posterior, vae.prior(), latents, log_likelihood)
        encoder_loss = -log_mean_weight(samples.log_weights()).mean(dim=0)
        latents = latents.detach()
        log_joint = vae.decode(latents, batch.labels).log_prob(batch.images) + vae.prior().log_prob(latents)
        log_weights = log_joint - samples.posterior.log_prob(latents).detach()
        loss = -log_mean_weight(log_weights.flatten(0, 1))
        return with_elbo_terms(loss + (encoder_loss - encoder_loss.detach()), samples)


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Freeze the parameters of these modules for the length of a block; gradients still pass through."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def log_weights(vae: VAE, batch: Batch, num_samples: int, generator: torch.Generator) -> Tensor:
    """Log wₖ = log p(x, zₖ) − log q(zₖ|x) for zₖ ~ q(z|x); `[num_samples, batch]`, in nats.

    The encoder is called once per image, however many samples are drawn.
    """
    return next(_log_weight_chunks(vae, batch, [num_samples], generator))


@dataclass(frozen=True)
class LogEvidence:
    """Estimates of log p(x) for each image of a batch, in nats, in float64.

    They stay on the device of the images, except on MPS, which has no float64: there they are on the CPU.
    With w̃ₖ = wₖ / Σⱼ wⱼ the normalised importance weights:

    Args:
        value: log (1/K) Σₖ wₖ, `[batch]` (Burda, Grosse & Salakhutdinov 2016, equation 8).
        variance: Monte Carlo variance of `value` by the jackknife, Σₖ (L₋ₖ − mean of L₋ⱼ)² with L₋ₖ the estimate
            without draw k, `[batch]`. Its expectation is at least the variance of the estimate from K − 1 draws
            (Efron & Stein 1981, equation 1.7), also where few draws count and the delta method is too small. NaN
            for K = 1.
        effective_samples: 1 / Σₖ w̃ₖ², `[batch]`, from 1 to K: how many of the draws count (Kong 1992).
        largest_weight: The largest w̃ₖ, `[batch]`, from 1/K to 1.
    """

    value: Tensor
    variance: Tensor
    effective_samples: Tensor
    largest_weight: Tensor


@torch.no_grad()
def log_evidence(
    vae: VAE, batch: Batch, num_importance_samples: int, generator: torch.Generator, chunk_size: int
) -> LogEvidence:
    """Estimate log p(x) by importance sampling from q(z|x), in nats, summed in float64.

    Args:
        vae: The model.
        batch: Images in [0, 1], with the labels that a class-conditional model needs.
        num_importance_samples: Draws of z per image, K; all of them are used.
        generator: The source of the noise.
        chunk_size: The most latents that are decoded at once; bounds the memory.
    """
    per_chunk = max(1, chunk_size // len(batch))
    whole, rest = divmod(num_importance_samples, per_chunk)
    sizes = [per_chunk] * whole + [rest] * (rest > 0)
    chunks = list(_log_weight_chunks(vae, batch, sizes, generator))
    weights = torch.cat(chunks)
    weights = (weights.cpu() if weights.device.type == "mps" else weights).double()
    log_sum = weights.logsumexp(dim=0)
    return LogEvidence(
        value=log_sum - log(num_importance_samples),
        variance=_jackknife_variance(weights, log_sum),
        effective_samples=torch.exp(2 * log_sum - (2 * weights).logsumexp(dim=0)),
        largest_weight=(weights.amax(dim=0) - log_sum).exp(),
    )


def _jackknife_variance(log_weights: Tensor, log_sum: Tensor) -> Tensor:
    """Σₖ (L₋ₖ − mean of L₋ⱼ)² for L₋ₖ = log Σⱼ wⱼ − log(K − 1) over j ≠ k, `[batch]`."""
    if len(log_weights) == 1:
        return torch.full_like(log_sum, float("nan"))
    changes = torch.log1p(-(log_weights - log_sum).exp())
    largest = log_weights.argmax(dim=0, keepdim=True)  # 1 - w̃ may round to 0 there
    others = log_weights.scatter(0, largest, -torch.inf).logsumexp(dim=0)
    changes.scatter_(0, largest, (others - log_sum).unsqueeze(0))
    return (changes - changes.mean(dim=0)).square().sum(dim=0)


def _log_weight_chunks(vae: VAE, batch: Batch, sizes: list[int], generator: torch.Generator) -> Iterator[Tensor]:
    posterior = vae.encode(batch.images, batch.labels)
    prior = vae.prior()
    for size in sizes:
        latents = rsample(posterior, generator, (size,))
        log_joint = prior.log_prob(latents) + vae.decode(latents, batch.labels).log_prob(batch.images)
        yield log_joint - posterior.log_prob(latents)
