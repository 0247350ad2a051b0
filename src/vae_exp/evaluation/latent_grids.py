"""Images that a trained VAE generates on grids of latents: arrays in [0, 1]."""

import torch
from torch import Tensor
from torch.distributions import Normal

from vae_exp.data.images import Batch, ImageSet
from vae_exp.model.vae import VAE

_BATCH = 1000
_TAIL = 0.025


@torch.no_grad()
def manifold(vae: VAE, side: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean images over a grid of a two-dimensional latent space (Kingma & Welling 2014, figure 4).

    The grid is uniform on the unit square, put through the inverse normal CDF, so that equal areas carry equal
    prior mass.

    Args:
        vae: A model with two latent units.
        side: Points along each axis.
        labels: The class of all images, `[1]`, which only a class-conditional model uses.

    Returns:
        Images `[side, side, *image_shape]`, z₂ falling along the first axis and z₁ rising along the second; and
        the grid values of an axis, `[side]`, ascending.
    """
    device = next(vae.parameters()).device
    quantiles = torch.linspace(_TAIL, 1 - _TAIL, side, device=device)
    axis = Normal(torch.zeros((), device=device), 1.0).icdf(quantiles)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return vae.decode(torch.stack([first, second], dim=-1), labels).mean, axis


@torch.no_grad()
def traversals(vae: VAE, start: Batch, units: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Mean images as one latent unit at a time runs through the prior's quantiles, the others held at E[z|x].

    Args:
        vae: The model.
        start: Where the traversal starts, a single image; all images have its class.
        units: Which units, `[rows]`.
        steps: Values per unit.

    Returns:
        Images `[rows, steps, *image_shape]` and the values that a unit takes, `[steps]`.
    """
    device = start.images.device
    quantiles = torch.linspace(_TAIL, 1 - _TAIL, steps, device=device)
    values = Normal(torch.zeros((), device=device), 1.0).icdf(quantiles)
    mean = vae.encode(start.images, start.labels).mean[0]
    latents = mean.repeat(len(units), steps, 1)
    for row, unit in enumerate(units.tolist()):
        latents[row, :, unit] = values
    return vae.decode(latents, start.labels).mean, values


@torch.no_grad()
def interpolations(vae: VAE, first: Batch, second: Batch, steps: int) -> Tensor:
    """Mean images along the straight line between the posterior means of two images.

    Args:
        vae: The model.
        first: Where the lines begin, one image a row; images in between have its class.
        second: Where they end.
        steps: Points on each line, ends included.

    Returns:
        Images `[rows, steps, *image_shape]`.
    """
    start = vae.encode(first.images, first.labels).mean
    end = vae.encode(second.images, second.labels).mean
    weights = torch.linspace(0, 1, steps, device=start.device)[None, :, None]
    labels = None if first.labels is None else first.labels.unsqueeze(1)
    return vae.decode(torch.lerp(start[:, None], end[:, None], weights), labels).mean


@torch.no_grad()
def latent_means(vae: VAE, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of images, `[N, latent_dim]` each."""
    posteriors = [vae.encode(batch.images, batch.labels) for batch in images.batches(_BATCH)]
    return torch.cat([q.mean for q in posteriors]), torch.cat([q.stddev for q in posteriors])


def most_active_units(means: Tensor, count: int) -> Tensor:
    """The units whose posterior mean varies most over images, most active first, `[at most count]`."""
    return means.var(dim=0, correction=0).argsort(descending=True)[:count]
