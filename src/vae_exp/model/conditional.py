"""A VAE of images given their class (Sohn, Lee & Yan 2015; Kingma et al. 2014, M2 with known labels)."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.argument_checks import check_int
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.likelihoods import Likelihood
from vae_exp.model.vae import VAE


class ConditionalEncoder(MLPEncoder):
    """q(z|x, y): a fully connected encoder that sees the class beside the image.

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Widths of the hidden layers, from the image inwards.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        classes: How many classes there are.
        posterior: A name from `vae_exp.model.posteriors.POSTERIORS`.

    Raises:
        ValueError: if there is no class.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        classes: int | None,
        posterior: str = "diagonal",
    ) -> None:
        count = check_int("model.classes", classes)
        super().__init__([prod(image_shape) + count], latent_dim, hidden_dims, activation, posterior)
        self.classes = count

    def forward(self, images: Tensor, classes: Tensor) -> Distribution:  # type: ignore[override]
        """Images `[batch, *image_shape]` and their classes `[batch, classes]`, one 1 each → q(z|x, y)."""
        return super().forward(torch.cat([images.flatten(1), classes], dim=1))


class ConditionalDecoder(MLPDecoder):
    """p(x|z, y): a fully connected decoder that sees the class beside the latents.

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Widths of the hidden layers as the encoder lists them.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        classes: How many classes there are.
        likelihood: What the outputs parameterise; Bernoulli by default.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        classes: int,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim + classes, hidden_dims, activation, likelihood)

    def forward(self, latents: Tensor, classes: Tensor) -> Distribution:  # type: ignore[override]
        """Latents `[..., latent_dim]` and classes `[..., classes]`, one 1 each → p(x|z, y)."""
        return super().forward(torch.cat([latents, classes], dim=-1))


class ConditionalVAE(VAE):
    """p(x, z|y) = p(z) p(x|z, y), where the class y of each image is known.

    `encode`, `decode`, `reconstruct` and `sample` take the classes as `labels`.

    Args:
        encoder: A `ConditionalEncoder`, or a module called as one, with an attribute `classes`.
        decoder: A `ConditionalDecoder`, or a module called as one.
        prior: p(z), the same for all classes.
    """

    needs_labels = True

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module) -> None:
        super().__init__(encoder, decoder, prior)
        self.classes = int(encoder.classes)  # type: ignore[arg-type]

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Distribution:
        """q(z|x, y): images `[batch, *image_shape]` → a distribution over `[batch, latent_dim]`.

        Args:
            images: In [0, 1].
            labels: Their classes, integers from 0 to `classes − 1`, which is not checked, `[batch]`.

        Raises:
            ValueError: without labels.
        """
        with self._precision(images):
            posterior: Distribution = self.encoder(images, self._one_hot(labels, images.shape[:1], images))
        return posterior

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Distribution:
        """p(x|z, y): latents `[..., latent_dim]` → a distribution over `[..., *image_shape]`.

        Args:
            latents: z.
            labels: Classes, integers from 0 to `classes − 1`, which is not checked; their shape broadcasts to that
                of the latents less their last axis.

        Raises:
            ValueError: without labels.
        """
        with self._precision(latents):
            likelihood: Distribution = self.decoder(latents, self._one_hot(labels, latents.shape[:-1], latents))
        return likelihood

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, labels: Tensor | None = None) -> Tensor:
        """Mean images of `n` draws, `[n, *image_shape]`; of the classes in turn without labels.

        Raises:
            ValueError: for a label of no class.
        """
        if labels is None:
            labels = torch.arange(n, device=next(self.parameters()).device) % self.classes
        elif not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise ValueError(f"labels={labels.tolist()} must be integers from 0 to {self.classes - 1}.")
        return super().sample(n, generator, labels)

    def _one_hot(self, labels: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
        if labels is None:
            raise ValueError("a class-conditional model needs the class of every image: pass `labels`")
        classes = torch.arange(self.classes, device=like.device)
        return (labels.unsqueeze(-1) == classes).to(like.dtype).expand(*shape, self.classes)
