"""Bits per dimension: nats of a probability, per pixel and channel."""

from math import log, prod

from vae_exp.data.images import ImageSet
from vae_exp.evaluation.requirements import not_a_probability_reason, require_probability
from vae_exp.model.vae import VAE

CHOICES = ("auto", True, False)


class Bits:
    """Whether and how an evaluator tells bits per dimension.

    A density of real values has none, and neither has a Bernoulli on grey values.

    Args:
        key: The setting, for messages.
        wanted: `auto` tells them where there are any, `True` refuses to run where there are none, `False` tells
            none.

    Raises:
        ValueError: if it is something else.
    """

    def __init__(self, key: str, wanted: str | bool) -> None:
        if wanted not in CHOICES:
            raise ValueError(f"{key}={wanted} must be one of {', '.join(map(str, CHOICES))}.")
        self._key = key
        self._wanted = wanted

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse what cannot be told.

        Raises:
            UserError: if bits are wanted and there are none.
        """
        if self._wanted is True:
            require_probability(self._key, vae, images)

    def of(self, nats: float, vae: VAE, images: ImageSet) -> float | None:
        """Nats as bits per dimension; None where there are none, or none are wanted.

        Args:
            nats: −log p(x) per image, or a bound on it.
            vae: Whose likelihood p(x|z) is asked what it is a distribution of.
            images: What was scored.
        """
        if self._wanted is False or not_a_probability_reason(vae, images) is not None:
            return None
        return nats / log(2) / prod(images.image_shape)
