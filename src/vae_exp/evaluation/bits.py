"""Bits per dimension: nats of a probability, per pixel and channel."""

from math import log, prod

import torch

from vae_exp.data.images import ImageSet
from vae_exp.model.vae import VAE

_LOOKED_AT = 256


@torch.no_grad()
def bits_per_dim(nats: float, vae: VAE, images: ImageSet) -> float | None:
    """−log p(x) in nats per image as bits per dimension; None where p is no probability of these images.

    A density of real values has none, and neither has a Bernoulli on grey values.

    Args:
        nats: −log p(x) per image, or a bound on it.
        vae: Whose likelihood p(x|z) is asked what it is a distribution of.
        images: What was scored.
    """
    with vae.given(images.labels_at(slice(0, 1))):
        support = vae.decode(vae.encode(images.first(1).scaled()).mean).support
    if support is None or not support.is_discrete:
        return None
    if not bool(support.check(images.first(_LOOKED_AT).scaled()).all()):
        return None
    return nats / log(2) / prod(images.image_shape)
