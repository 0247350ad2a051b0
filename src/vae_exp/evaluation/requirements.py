"""Checks of evaluators before a run: their arguments, the images, the model; and bits per dimension."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log, prod

import torch
from torch.distributions import Bernoulli, Distribution

from vae_exp.argument_checks import check_choice
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE

_log = logging.getLogger(__name__)
_CLASSES_LISTED = 10
BITS_MODES: tuple[str | bool, ...] = ("auto", True, False)


def scored_images(key: str, images: ImageSet, num_images: int | None) -> ImageSet:
    """A random subset of a split, the same for every run on the data; a warning lists the classes it lacks.

    Args:
        key: The evaluator, for the message.
        images: The split.
        num_images: How many to score; None for all.
    """
    subset = images.random_subset(num_images)
    if images.labels is not None and subset.labels is not None and subset is not images:
        missing = sorted(set(images.labels.unique().tolist()) - set(subset.labels.unique().tolist()))
        if missing:
            listed = ", ".join(map(str, missing[:_CLASSES_LISTED]))
            _log.warning(
                "evaluator.%s: the %d images scored have none of %d classes of the split (%s%s); raise "
                "evaluator.%s.num_images.",
                key,
                len(subset),
                len(missing),
                listed,
                ", …" if len(missing) > _CLASSES_LISTED else "",
                key,
            )
    return subset


def require_images(key: str, images: ImageSet, num_images: int | None, minimum: int) -> None:
    """Refuse a split that is too small for an evaluator.

    Args:
        key: The evaluator, for the message.
        images: The split.
        num_images: How many images the evaluator scores; None for all.
        minimum: How many it needs.

    Raises:
        UserError: with both numbers.
    """
    count = len(images) if num_images is None else min(num_images, len(images))
    if count < minimum:
        raise UserError(
            f"evaluator={key} needs at least {minimum} images and would have {count}: hold out more with "
            f"data.validation_size, score another split, or leave the evaluator out."
        )


def require_density(key: str, vae: VAE, images: ImageSet) -> None:
    """Refuse a posterior that has no density over latents.

    Raises:
        UserError: with the reason.
    """
    posterior = first_posterior(vae, images)
    try:
        posterior.log_prob(sample(posterior, torch.Generator(images.device), (1,)))
    except NotImplementedError as error:
        raise UserError(f"evaluator={key} cannot be used with this model: {error}.") from error


def not_a_probability_reason(vae: VAE, images: ImageSet) -> str | None:
    """Why p(x|z) is no probability of these images; None where it is one."""
    likelihood = first_likelihood(vae, images)
    support = likelihood.support
    name = type(getattr(likelihood, "base_dist", likelihood)).__name__
    if support is None or not support.is_discrete:
        return f"the likelihood ({name}) is a density of real values, which has no bits"
    if not all(bool(support.check(batch.images).all()) for batch in replace(images, on_progress=None).chunks()):
        return f"the likelihood ({name}) has no probability for grey values such as those of these images"
    return None


def is_bernoulli(vae: VAE, images: ImageSet) -> bool:
    """Whether p(x|z) is a Bernoulli."""
    return isinstance(getattr(first_likelihood(vae, images), "base_dist", None), Bernoulli)


@torch.no_grad()
def first_likelihood(vae: VAE, images: ImageSet) -> Distribution:
    """p(x|z) at the posterior mean of the first image."""
    first = images.take(1).batch()
    with _evaluating(vae):
        return vae.decode(vae.encode(first.images, first.labels).mean, first.labels)


@torch.no_grad()
def first_posterior(vae: VAE, images: ImageSet) -> Distribution:
    """q(z|x) of the first image."""
    first = images.take(1).batch()
    with _evaluating(vae):
        return vae.encode(first.images, first.labels)


@contextmanager
def _evaluating(vae: VAE) -> Iterator[None]:
    """The model in the mode of evaluation: batch normalisation refuses one image in that of training."""
    was_training = vae.training
    vae.eval()
    try:
        yield
    finally:
        vae.train(was_training)


class BitsPerDim:
    """Bits per pixel and channel, where the likelihood is a probability of the images.

    A density of real values has none, and neither has a Bernoulli on grey values.

    Args:
        key: The setting, for messages.
        mode: `auto` computes them where they exist, `True` refuses to run where they do not, `False` never
            computes them.

    Raises:
        ValueError: for any other mode.
    """

    def __init__(self, key: str, mode: str | bool) -> None:
        self._key = key
        self._mode = check_choice(key, mode, BITS_MODES)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse a model and images without bits per dimension if the mode is `True`."""
        if self._mode is True and (reason := not_a_probability_reason(vae, images)) is not None:
            raise UserError(f"{self._key}=true is not possible: {reason}.")

    def compute(self, nats: float, vae: VAE, images: ImageSet) -> float | None:
        """Convert nats per image; None where there are no bits per dimension, or the mode is `False`.

        Args:
            nats: −log p(x) per image, or a bound on it.
            vae: The model whose likelihood p(x|z) gave them.
            images: The images scored.
        """
        if self._mode is False or not_a_probability_reason(vae, images) is not None:
            return None
        return nats / log(2) / prod(images.image_shape)
