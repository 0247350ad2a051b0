"""The variational autoencoder: an encoder, a decoder and a prior."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_exp.distributions.sampling import sample


class VAE(nn.Module):
    """p(x, z) = p(z) p(x|z) with the approximate posterior q(z|x) (Kingma & Welling 2014).

    Args:
        encoder: Images `[batch, *image_shape]` in [0, 1] → posterior over `[batch, latent_dim]`.
        decoder: Latents `[..., latent_dim]` → likelihood over `[..., *image_shape]`.
        prior: Called without arguments → distribution over `[latent_dim]`. One that has a method `attach`, such as
            the VampPrior, is given the encoder.

    Attributes:
        needs_labels: Whether the methods need the labels of images; True for class-conditional models.
        compute_dtype: What the matrix products of encoder and decoder are computed in; `torch.bfloat16` runs
            both under autocast, and they are expected to turn their outputs to float32.
    """

    needs_labels = False

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        attach = getattr(prior, "attach", None)
        if callable(attach):
            attach(encoder)
        self.compute_dtype = torch.float32

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Distribution:
        """q(z|x): images `[batch, *image_shape]` → a distribution over `[batch, latent_dim]`.

        Args:
            images: In [0, 1].
            labels: Their classes, which only a class-conditional model uses.
        """
        with self._precision(images):
            posterior: Distribution = self.encoder(images)
        return posterior

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Distribution:
        """p(x|z): latents `[..., latent_dim]` → a distribution over `[..., *image_shape]`.

        Args:
            latents: z.
            labels: Classes, which only a class-conditional model uses.
        """
        with self._precision(latents):
            likelihood: Distribution = self.decoder(latents)
        return likelihood

    def _precision(self, inputs: Tensor) -> AbstractContextManager[object]:
        """The two networks alone compute in `compute_dtype`; densities and bounds stay in float32 or better."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(inputs.device.type, self.compute_dtype, cache_enabled=False)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean image E[x|z] at the posterior mean z = E[z|x]; shape as `images`, values in [0, 1]."""
        return self.decode(self.encode(images, labels).mean, labels).mean

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, labels: Tensor | None = None) -> Tensor:
        """The mean images E[x|z] of `n` draws from the prior: `[n, *image_shape]`, values in [0, 1].

        Args:
            n: How many.
            generator: The source of the noise; None makes one with a random seed.
            labels: The classes of the images, `[n]`, which only a class-conditional model uses.
        """
        if generator is None:
            generator = torch.Generator(next(self.parameters()).device)
            generator.seed()
        return self.decode(sample(self.prior(), generator, (n,)), labels).mean
