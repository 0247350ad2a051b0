"""Latents that are entries of a codebook: the posterior and the prior of a VQ-VAE."""

from collections.abc import Sequence
from functools import cached_property
from math import log
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from vae_exp.distributions.sampling import draw_sharded, rsample, sample


class _Codes(Distribution):
    """Over `positions` entries of a codebook side by side, `[positions · code_dim]`."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's name
    support = constraints.real_vector

    def __init__(self, codebook: Tensor, positions: int, batch_shape: torch.Size) -> None:
        self.codebook, self.positions = codebook, positions
        super().__init__(batch_shape, torch.Size([positions * codebook.shape[1]]), validate_args=False)

    def log_prob(self, value: Tensor) -> NoReturn:
        """Codes have probabilities, but no density over real vectors.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "codes of a codebook have no density over latents; use loss=vq (loss=elbo with model=fsq), and "
            "evaluators that do not weigh latents, such as evaluator=[elbo,codes]"
        )


class VectorQuantizedPosterior(_Codes):
    """The nearest codebook entry for each position, with probability one (van den Oord et al. 2017, equation 1).

    Gradients of a draw go to the encoder's outputs unchanged (equation 2).

    Args:
        outputs: The encoder's, `[batch, positions, code_dim]`.
        codebook: `[codes, code_dim]`.
    """

    has_rsample = True

    def __init__(self, outputs: Tensor, codebook: Tensor) -> None:
        self.outputs = outputs
        super().__init__(codebook, outputs.shape[1], outputs.shape[:1])

    @cached_property
    def indices(self) -> Tensor:
        """Which entry, `[batch, positions]`: argmin ‖e‖² − 2 zᵀe, in float64, exact for large entries too."""
        dtype = torch.float32 if self.codebook.device.type == "mps" else torch.float64  # which MPS has not
        with torch.no_grad():
            entries = self.codebook.to(dtype)
            return (entries.square().sum(dim=-1) - 2 * self.outputs.to(dtype) @ entries.T).argmin(dim=-1)

    @property
    def entries(self) -> Tensor:
        """The entries themselves, `[batch, positions, code_dim]`; gradients go to the codebook."""
        return self.codebook[self.indices]

    @property
    def mean(self) -> Tensor:
        """The entries, `[batch, positions · code_dim]`."""
        return self.entries.flatten(1)

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.mean)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The entries, as often as asked for; gradients pass straight through to the encoder's outputs."""
        outputs = self.outputs.flatten(1)
        through = outputs + (self.mean - outputs).detach()
        return through.expand(*sample_shape, *through.shape)


class FiniteScalarPosterior(VectorQuantizedPosterior):
    """Every number rounded to the nearest integer, with probability one (Mentzer et al. 2023).

    Gradients of a draw go to the bounded outputs unchanged. An entry is its integers divided by their half widths,
    which lie in [−1, 1].

    Args:
        bounded: The encoder's, between the lowest and the highest level, `[batch, positions, code_dim]`.
        half_width: ⌊L/2⌋ for the L levels of each number, `[code_dim]`.
        basis: What a step of each number adds to the index of the code, `[code_dim]`.
        codebook: All combinations of levels, `[codes, code_dim]`.
    """

    def __init__(self, bounded: Tensor, half_width: Tensor, basis: Tensor, codebook: Tensor) -> None:
        self._bounded, self._half_width, self._basis = bounded, half_width, basis
        super().__init__(bounded / half_width, codebook)

    @cached_property
    def indices(self) -> Tensor:
        """Which combination of levels, `[batch, positions]`."""
        with torch.no_grad():
            return ((self._bounded.round().long() + self._half_width) * self._basis).sum(dim=-1)


class UniformCodebookPrior(_Codes):
    """Every entry equally likely at every position.

    Args:
        codebook: `[codes, code_dim]`.
        positions: How many entries a latent has.
    """

    def __init__(self, codebook: Tensor, positions: int) -> None:
        super().__init__(codebook, positions, torch.Size())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of torch's global generator, `[*sample_shape, positions · code_dim]`."""
        shape = (*sample_shape, self.positions)
        return self.codebook[torch.randint(len(self.codebook), shape, device=self.codebook.device)].flatten(-2)


@rsample.register
def _(distribution: VectorQuantizedPosterior, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    return distribution.rsample(shape)


@sample.register
def _(distribution: VectorQuantizedPosterior, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        return distribution.rsample(shape)


@sample.register
def _(distribution: UniformCodebookPrior, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        uniform = draw_sharded(
            torch.rand, distribution.codebook.new_empty(distribution.positions), generator, shape
        )
        codes = (uniform * len(distribution.codebook)).long().clamp(max=len(distribution.codebook) - 1)
        return distribution.codebook[codes].flatten(-2)


@register_kl(VectorQuantizedPosterior, UniformCodebookPrior)  # type: ignore[untyped-decorator]
def _kl_of_codes(posterior: VectorQuantizedPosterior, prior: UniformCodebookPrior) -> Any:
    """Log K for each position, whatever the image (van den Oord et al. 2017, section 3.1)."""
    nats = posterior.positions * log(len(prior.codebook))
    return posterior.outputs.new_full(posterior.batch_shape, nats)
