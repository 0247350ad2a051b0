"""Encoders: images `[batch, *image_shape]` in [0, 1] → posterior over `[batch, latent_dim]`."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.model.networks import check_group_norm, conv_stack, mlp, strided_sizes
from vae_exp.model.posteriors import posterior_head


class MLPEncoder(nn.Module):
    """Fully connected encoder (Kingma & Welling 2014).

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Widths of the hidden layers, from the image inwards; empty for a linear encoder.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        posterior: A name from `vae_exp.model.posteriors.POSTERIORS`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        posterior: str = "diagonal",
    ) -> None:
        super().__init__()
        sizes = [prod(image_shape), *hidden_dims]
        self.hidden = mlp(sizes, activation)
        self.posterior = posterior_head(posterior, sizes[-1], latent_dim)

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → q(z|x) over `[batch, latent_dim]`."""
        posterior: Distribution = self.posterior(self.hidden(images.flatten(1)))
        return posterior


class ConvEncoder(nn.Module):
    """Convolutional encoder: each hidden layer halves height and width; any image size and colour are accepted.

    Args:
        image_shape: `[channels, height, width]`.
        latent_dim: Number of latent units.
        hidden_dims: Channels of the convolutions, from the image inwards; empty for a linear encoder.
        activation: A name from `vae_exp.model.networks.ACTIVATIONS`, or `gated`.
        posterior: A name from `vae_exp.model.posteriors.POSTERIORS`.
        residual_blocks: How many follow each convolution (He et al. 2016).
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: str,
        posterior: str = "diagonal",
        residual_blocks: int = 0,
    ) -> None:
        super().__init__()
        check_group_norm(hidden_dims, image_shape, residual_blocks)
        channels, height, width = image_shape
        depth = len(hidden_dims)
        features = (
            [channels, *hidden_dims][-1] * strided_sizes(height, depth)[-1] * strided_sizes(width, depth)[-1]
        )
        self.hidden = conv_stack([channels, *hidden_dims], activation, residual_blocks)
        self.posterior = posterior_head(posterior, features, latent_dim)

    def forward(self, images: Tensor) -> Distribution:
        """Images `[batch, *image_shape]` → q(z|x) over `[batch, latent_dim]`."""
        posterior: Distribution = self.posterior(self.hidden(images).flatten(1))
        return posterior
