"""What evaluators need of a model, asked for before a run rather than at its end."""

import torch
from torch.distributions import Bernoulli, Distribution

from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE

_LOOKED_AT = 256


def require_images(key: str, images: ImageSet, num_images: int | None, least: int) -> None:
    """Refuse a split that is too small for an evaluator.

    Args:
        key: The evaluator, for the message.
        images: What it will be asked to score.
        num_images: How many of them it would take; None for all.
        least: How many it needs.

    Raises:
        UserError: with both numbers.
    """
    count = len(images) if num_images is None else min(num_images, len(images))
    if count < least:
        raise UserError(
            f"evaluator={key} needs at least {least} images and would have {count}: hold out more with "
            f"data.validation_size, score another split, or leave the evaluator out."
        )


def require_density(key: str, vae: VAE, images: ImageSet) -> None:
    """Refuse a posterior that has no density over latents.

    Args:
        key: The evaluator, for the message.
        vae: The model.
        images: What it will be asked to score.

    Raises:
        UserError: with the reason.
    """
    posterior = first_posterior(vae, images)
    try:
        posterior.log_prob(sample(posterior, torch.Generator(images.device), (1,)))
    except NotImplementedError as error:
        raise UserError(f"evaluator={key} cannot be used with this model: {error}.") from error


def require_probability(key: str, vae: VAE, images: ImageSet) -> None:
    """Refuse bits per dimension where the likelihood is no probability of the images.

    Args:
        key: The setting that asked for them, for the message.
        vae: The model.
        images: What it will be asked to score.

    Raises:
        UserError: with the reason.
    """
    if (reason := not_a_probability_reason(vae, images)) is not None:
        raise UserError(f"{key}=true cannot be told: {reason}.")


def not_a_probability_reason(vae: VAE, images: ImageSet) -> str | None:
    """Why p(x|z) is no probability of these images; None where it is one."""
    likelihood = first_likelihood(vae, images)
    support = likelihood.support
    name = type(getattr(likelihood, "base_dist", likelihood)).__name__
    if support is None or not support.is_discrete:
        return f"the likelihood ({name}) is a density of real values, which has no bits"
    if not bool(support.check(images.first(_LOOKED_AT).scaled()).all()):
        return f"the likelihood ({name}) has no probability for grey values such as those of these images"
    return None


def is_bernoulli(vae: VAE, images: ImageSet) -> bool:
    """Whether p(x|z) is a Bernoulli."""
    return isinstance(getattr(first_likelihood(vae, images), "base_dist", None), Bernoulli)


@torch.no_grad()
def first_likelihood(vae: VAE, images: ImageSet) -> Distribution:
    """p(x|z) at the posterior mean of the first image."""
    with vae.given(images.labels_at(slice(0, 1))):
        return vae.decode(vae.encode(images.first(1).scaled()).mean)


@torch.no_grad()
def first_posterior(vae: VAE, images: ImageSet) -> Distribution:
    """q(z|x) of the first image."""
    was_training = vae.training
    vae.eval()
    with vae.given(images.labels_at(slice(0, 1))):
        posterior = vae.encode(images.first(1).scaled())
    vae.train(was_training)
    return posterior
