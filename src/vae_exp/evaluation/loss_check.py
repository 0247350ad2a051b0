"""What a loss means on these data with this model, reported before training starts."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from vae_exp.data.images import Batch, ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.requirements import first_likelihood
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss, LossTerms

_DIGITS = 6  # further ones depend on memory alignment in LAPACK, and terms are in float32
_IMAGES = 256
_PIXELS_FROM = 2000
_CONSTANT = 1e-4  # relative spread below which the weight of a term cannot be estimated, as of the rate of codes
_LINEAR = 1e-3  # relative residual below which a loss is taken for a weighted sum of its terms
_BETA_ERROR = 0.01  # relative standard error, of a β of 0.1 or more, up to which β is determined


@dataclass(frozen=True)
class LossReport:
    """Findings about a loss on data; all in nats per image.

    Args:
        distortion_weight: a in loss = a · distortion + b · rate, by least squares over images at the start;
            None where the loss is no such sum, as bounds of several samples are not, where the rate is constant,
            and for images so large that two fill a batch.
        effective_beta: b / a; 1 is the ELBO. None too where the rate is lost in the rounding of the loss.
        entropy_floor: Mean Σ −x log x − (1 − x) log(1 − x) over pixels: no Bernoulli can have a lower
            distortion on these images. Zero on black and white ones; None for other likelihoods.
        mean_image_distortion: −log p(x) of the constant mean image: what a model gets that ignores its latents.
            None where the likelihood has further parameters.
        pixels: Values of an image.
        warnings: Sentences about what does not fit together.
    """

    distortion_weight: float | None
    effective_beta: float | None
    entropy_floor: float | None
    mean_image_distortion: float | None
    pixels: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values, as `result.json` has them."""
        return {**asdict(self), "warnings": list(self.warnings)}

    def to_log_lines(self) -> list[str]:
        """A summary line, then the warnings."""
        parts = []
        if self.effective_beta is not None:
            parts.append(f"β = {_two_decimals(self.effective_beta)}")
        if self.entropy_floor:
            parts.append(f"no distortion below {self.entropy_floor:.2f} (entropy of the grey values)")
        if self.mean_image_distortion is not None:
            parts.append(f"the mean image alone scores {self.mean_image_distortion:.2f}")
        head = f"Loss in nats per image of {self.pixels} values" + (f": {'; '.join(parts)}." if parts else ".")
        return [head, *self.warnings]


def _two_decimals(beta: float) -> str:
    """β as text; a zero has no sign."""
    return f"{round(beta, 2) + 0.0:g}" if not 1e-4 <= abs(beta) < 0.1 else f"{beta:.1g}"


@torch.no_grad()
def check_loss(vae: VAE, loss: Loss, images: ImageSet, generator: torch.Generator) -> LossReport:
    """Estimate the weights of a loss, its floor and its mistakes from the first images.

    Args:
        vae: The model before training.
        loss: The loss to be minimised.
        images: The training images, as they are scored.
        generator: Draws the latents; the process-wide generators keep their state.

    Raises:
        UserError: if the loss yields NaN or infinity, or if the likelihood has fewer levels than the
            pixels take.
    """
    was_training = vae.training
    vae.eval()
    with torch.random.fork_rng(devices=[]):
        weight, beta = _weights(vae, loss, images, generator)
        likelihood = getattr(first_likelihood(vae, images), "base_dist", None)
    vae.train(was_training)
    first_images = images.take(_PIXELS_FROM)
    _require_levels(likelihood, first_images)
    bernoulli = isinstance(likelihood, Bernoulli)
    return LossReport(
        distortion_weight=weight,
        effective_beta=beta,
        entropy_floor=_mean_entropy(first_images) if bernoulli else None,
        mean_image_distortion=_mean_image_distortion(first_images) if bernoulli else None,
        pixels=prod(images.image_shape),
        warnings=tuple(_warnings(likelihood, images, weight)),
    )


def _weights(
    vae: VAE, loss: Loss, images: ImageSet, generator: torch.Generator
) -> tuple[float | None, float | None]:
    batch = next(images.take(_IMAGES).chunks())  # fewer where images are large
    terms = _terms(vae, loss, batch, generator)
    parts = torch.stack([terms.distortion, terms.rate], dim=1).double()
    spread = parts.std(dim=0) if len(batch) > 2 else torch.zeros(2)
    if bool((spread < _CONSTANT * parts.abs().mean(dim=0)).any()) or not bool(spread.all()):
        return None, None
    total = terms.loss.double()
    norms = parts.norm(dim=0)
    inverse = torch.linalg.pinv(parts / norms) / norms.unsqueeze(1)  # scaled: one column may be tiny
    weight, charge = (inverse @ total).tolist()
    residual = parts @ (inverse @ total) - total
    if residual.norm() > _LINEAR * total.norm() or weight == 0:
        return None, None
    beta = charge / weight
    rounding = torch.finfo(terms.loss.dtype).eps * total.norm()
    deviation = residual.norm().maximum(rounding) / len(total) ** 0.5
    error = deviation * ((inverse[1] - beta * inverse[0]) / weight).norm()  # b / a to first order
    is_determined = bool(error <= _BETA_ERROR * max(abs(beta), 0.1))
    return round(weight, _DIGITS), round(beta, _DIGITS) if is_determined else None


def _terms(vae: VAE, loss: Loss, batch: Batch, generator: torch.Generator) -> LossTerms:
    """The terms of a loss on images; refuses NaN and infinity, with which training would end at its first step."""
    label = f"loss ({type(loss).__module__}.{type(loss).__qualname__})"
    try:
        terms = loss(vae, batch, generator)
    except ValueError as error:  # torch.distributions checks its parameters
        raise UserError(f"{label} fails on the first images: {error}") from error
    for name in ("distortion", "rate", "loss"):
        values = getattr(terms, name)
        bad = values[~values.isfinite()]
        if len(bad):
            raise UserError(
                f"{label} yields {name}={bad[0].item()} on the first images; look for an argument of the loss "
                f"that is too large, or for a division or a logarithm of zero in the model."
            )
    return terms


def _levels(likelihood: Any) -> int | None:
    """How many grey levels a likelihood has probabilities for; None for likelihoods without levels."""
    levels = getattr(getattr(likelihood, "component_distribution", likelihood), "levels", None)
    return levels if isinstance(levels, int) else None


def _require_levels(likelihood: Any, images: ImageSet) -> None:
    levels = _levels(likelihood)
    if levels is None:
        return
    values = len(torch.cat([part.unique() for part in images.pixel_chunks()]).unique())
    if values > levels:
        expected = images.pixel_max + 1 if images.pixels.dtype == torch.uint8 else values
        raise UserError(
            f"model.likelihood.levels={levels} is less than the {values} values that the pixels take: their "
            f"probabilities would add up to more than one. Set model.likelihood.levels={expected}."
        )


def _entropy(pixels: Tensor) -> Tensor:
    return -(torch.xlogy(pixels, pixels) + torch.xlogy(1 - pixels, 1 - pixels))


def _mean_entropy(images: ImageSet) -> float:
    total = sum(_entropy(batch.images.double()).sum().item() for batch in images.chunks())
    return total / len(images)


def _mean_image_distortion(images: ImageSet) -> float:
    # the mean cross-entropy to a fixed image is linear in the pixels
    return _entropy(images.mean().double()).sum().item()


def _warnings(likelihood: Any, images: ImageSet, weight: float | None) -> list[str]:
    warnings = []
    images = images.take(_PIXELS_FROM)
    binary = images.is_binary()
    if isinstance(likelihood, Bernoulli) and not binary:
        warnings.append(_advice_on_bernoulli(images))
    if isinstance(likelihood, Normal) and binary:
        warnings.append(
            "The images are black and white and the likelihood is a Gaussian density: it may grow without bound; "
            "model/likelihood=bernoulli is a probability of such images."
        )
    levels = _levels(likelihood)
    if levels is not None and images.pixels.dtype == torch.uint8 and levels != images.pixel_max + 1:
        warnings.append(
            f"model.likelihood.levels={levels}, but the images have {images.pixel_max + 1} grey levels: "
            f"bits per dimension would be of other data; say model.likelihood.levels={images.pixel_max + 1}."
        )
    if weight is not None and abs(weight - 1) > 0.01:
        warnings.append(
            f"The loss is {weight:.4g} times what it would be in nats: its value cannot be compared with others, "
            f"and optimizer.lr and trainer.max_grad_norm mean something else."
        )
    return warnings


def _advice_on_bernoulli(images: ImageSet) -> str:
    """What a Bernoulli likelihood means on images that are not black and white, and what suits them."""
    if images.kind == "greyscale":
        advice = (
            f"data.binarization=dynamic makes likelihoods of them, and model/likelihood=discretized_logistic "
            f"model.likelihood.levels={images.pixel_max + 1} scores the grey levels themselves"
        )
    elif images.pixels.is_floating_point():
        advice = "model/likelihood=gaussian_shared or gaussian_optimal suits them better"
    else:
        advice = "model/likelihood=gaussian_shared, gaussian_optimal or discretized_logistic suits them better"
    return (
        f"These are {images.kind} images and the likelihood is a Bernoulli: losses are cross-entropies, not "
        f"likelihoods; {advice} ('Which likelihood' in docs/explanation/likelihoods_and_models.md)."
    )
