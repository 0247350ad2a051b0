"""The gap between ELBO and log p(x): the part due to the posterior's family and the part due to the encoder."""

from collections.abc import Callable, Iterator
from functools import partial
from math import log

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vae_exp.argument_checks import check_int, check_number, check_optional_int
from vae_exp.data.images import Batch, ImageSet
from vae_exp.distributions.sampling import rsample
from vae_exp.errors import UserError
from vae_exp.evaluation.nll import decode_chunk_size, outputs_per_value
from vae_exp.evaluation.requirements import first_posterior, require_density, scored_images
from vae_exp.model.vae import VAE
from vae_exp.objective.importance_weighted import log_mean_weight

_DRAWS_PER_STEP = 10
_SHARE_OF_STEPS = 0.8  # of the time of a batch; the estimates take the rest
_BATCH, _BATCH_ON_GPU = 100, 1000  # images; a GPU takes as long for either


class InferenceGapEvaluator:
    """Inference gap = approximation gap + amortisation gap (Cremer, Li & Duvenaud 2018, equations 6 to 8).

    With L[q] the ELBO of an image, q the encoder's posterior and q* the diagonal Gaussian that maximises L for
    this image, found by Adam from the encoder's posterior: `inference_gap` = log p(x) − L[q],
    `approximation_gap` = log p(x) − L[q*], `amortization_gap` = L[q*] − L[q], in nats per image, and
    `gaps_images`, how many images these are averages of. log p(x) is estimated by importance sampling with half
    of the draws from q and half from q*, weighted by their mixture (Veach & Guibas 1995): a lower bound in
    expectation. q and q* are compared with the same noise. For diagonal Gaussian posteriors.

    Args:
        num_images: How many images of the split, a random subset (`scored_images`); None for all.
        num_steps: Steps of Adam for each image; its rate falls to zero along half a cosine.
        learning_rate: Of the first step.
        num_importance_samples: Draws per image for an ELBO, from q and from q*; log p(x) has both.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum, or the rate not positive.
    """

    def __init__(
        self,
        num_images: int | None,
        num_steps: int,
        learning_rate: float,
        num_importance_samples: int,
        every_n_epochs: int | None,
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_images = check_optional_int("num_images", num_images)
        self._num_steps = check_int("num_steps", num_steps)
        self._num_importance_samples = check_int("num_importance_samples", num_importance_samples)
        self._learning_rate = check_number("learning_rate", learning_rate, above=0)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse posteriors that are not diagonal Gaussians: a gap between families is no amortisation gap."""
        require_density("gaps", vae, images)
        posterior = first_posterior(vae, images)
        if not (isinstance(posterior, Independent) and isinstance(posterior.base_dist, Normal)):
            raise UserError(
                f"evaluator=gaps compares with the best diagonal Gaussian; the posterior is a "
                f"{type(posterior).__name__}. Use model.posterior=diagonal."
            )

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield names and values."""
        images = scored_images("gaps", images, self._num_images)
        totals = torch.zeros(3, dtype=torch.float64)
        done = 0
        for batch in images.batches(_batch_size(vae, images)):
            with torch.no_grad():
                amortized = vae.encode(batch.images, batch.labels)
            report = partial(_report, images, done, len(batch))
            done += len(batch)
            best = self._optimize(vae, batch, amortized, generator, report)
            state = generator.get_state()
            bound, weights = self._score(vae, batch, amortized, best, generator)
            generator.set_state(state)
            best_bound, best_weights = self._score(vae, batch, best, amortized, generator)
            truth = log_mean_weight(torch.cat([weights, best_weights]))
            totals += torch.stack([truth - bound, truth - best_bound, best_bound - bound]).sum(dim=1)
        inference, approximation, amortization = (totals / len(images)).tolist()
        yield "inference_gap", inference
        yield "approximation_gap", approximation
        yield "amortization_gap", amortization
        yield "gaps_images", len(images)

    @torch.enable_grad()
    def _optimize(
        self,
        vae: VAE,
        batch: Batch,
        start: Distribution,
        generator: torch.Generator,
        report: Callable[[float], None],
    ) -> Distribution:
        mean = start.mean.detach().clone().requires_grad_()
        log_scale = start.stddev.detach().clamp(min=1e-6).log().requires_grad_()
        optimizer = torch.optim.Adam([mean, log_scale], lr=self._learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self._num_steps)
        frozen = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            for step in range(self._num_steps):
                report(step / self._num_steps)
                optimizer.zero_grad()
                posterior = _gaussian(mean, log_scale)
                latents = rsample(posterior, generator, (_DRAWS_PER_STEP,))
                bound = _log_joint(vae, latents, batch) - posterior.log_prob(latents)
                (-bound.mean(dim=0).sum()).backward()
                optimizer.step()
                schedule.step()
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        return _gaussian(mean.detach(), log_scale.detach())

    @torch.no_grad()
    def _score(
        self, vae: VAE, batch: Batch, posterior: Distribution, other: Distribution, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The ELBO under a posterior, `[batch]`, and its draws' weights under the mixture with the other one.

        Returns:
            Float64 on the CPU; the logarithms of the weights are `[draws, batch]`.
        """
        chunk = max(1, _latents_at_once(vae, batch.images) // len(batch))
        bounds, weights, left = [], [], self._num_importance_samples
        while left:
            size = min(left, chunk)
            latents = rsample(posterior, generator, (size,))
            joint = _log_joint(vae, latents, batch).cpu().double()
            log_q = posterior.log_prob(latents).cpu().double()
            mixture = torch.logaddexp(log_q, other.log_prob(latents).cpu().double()) - log(2)
            bounds.append(joint - log_q)
            weights.append(joint - mixture)
            left -= size
        return torch.cat(bounds).mean(dim=0), torch.cat(weights)


def _report(images: ImageSet, done: int, size: int, share: float) -> None:
    """Report the progress within a batch, given the share of its steps."""
    images.report((done + _SHARE_OF_STEPS * share * size) / len(images))


def _batch_size(vae: VAE, images: ImageSet) -> int:
    if images.device.type != "cuda":
        return _BATCH
    latents = _latents_at_once(vae, images.batch(slice(0, 1)).images)
    return max(_BATCH, min(_BATCH_ON_GPU, latents // _DRAWS_PER_STEP))


def _latents_at_once(vae: VAE, images: Tensor) -> int:
    return decode_chunk_size(images[0].numel() * outputs_per_value(vae), images.device)


def _gaussian(mean: Tensor, log_scale: Tensor) -> Distribution:
    return Independent(Normal(mean, log_scale.exp(), validate_args=False), 1, validate_args=False)


def _log_joint(vae: VAE, latents: Tensor, batch: Batch) -> Tensor:
    joint: Tensor = vae.prior().log_prob(latents) + vae.decode(latents, batch.labels).log_prob(batch.images)
    return joint
