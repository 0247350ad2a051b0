"""Draws from `torch.distributions` objects with an explicit generator, and Sobol points.

`torch.distributions` draws from the global generator of the process. Here every draw names its own, so that
a run's noise depends on its seed alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)
from torch.quasirandom import SobolEngine

Shard = tuple[int, int, int]
Draw = tuple[Callable[..., Tensor], tuple[int, ...]]  # `torch.randn` or the like, and a shape
_shard: ContextVar[Shard | None] = ContextVar("shard", default=None)


@contextmanager
def sharded(shard: Shard | None) -> Iterator[None]:
    """Make the draws of a block the part of those that one process would make for the whole batch.

    Processes that share a batch and a seed, each with its own part, draw together what one process draws alone.

    Args:
        shard: First and last-plus-one position of this process in the batch, and the size of the whole batch;
            None draws everything.
    """
    token = _shard.set(shard)
    try:
        yield
    finally:
        _shard.reset(token)


class NoiseTape(torch.Generator):
    """Takes the place of a generator: plays draws that were made before, or notes which are asked for.

    Args:
        draws: What to play, in order; None notes which draws are asked for, and answers with any.
        device: Of the draws that are noted.
    """

    def __new__(  # noqa: D102
        cls, draws: Sequence[Tensor] | None = None, device: torch.device | str = "cpu"
    ) -> "NoiseTape":
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(self, draws: Sequence[Tensor] | None = None, device: torch.device | str = "cpu") -> None:
        self._played = None if draws is None else iter(draws)
        self.noted: list[Draw] = []

    def draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        """The next draws, of this shape."""
        if self._played is not None:
            return next(self._played)
        self.noted.append((draw, shape))
        return draw(shape, device=self.device, generator=torch.Generator(self.device))


def standard_normal(like: Tensor, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    """Standard normal noise of shape `[*shape, *like.shape]`, where the first axis of `like` is the batch."""
    return draw_sharded(torch.randn, like, generator, shape)


def draw_sharded(
    draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator, shape: Sequence[int]
) -> Tensor:
    """Independent draws of shape `[*shape, *like.shape]`, or this process's part of the whole batch's."""
    if isinstance(generator, NoiseTape):
        return generator.draw(draw, (*shape, *like.shape))
    shard = _shard.get()
    kind: dict[str, Any] = {"generator": generator, "device": like.device, "dtype": like.dtype}
    if shard is None or like.dim() < 2:
        return draw((*shape, *like.shape), **kind)
    first, last, whole = shard
    return draw((*shape, whole, *like.shape[1:]), **kind).narrow(len(shape), first, last - first)


def bernoulli(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Black or white, 1 with the given probability; the first axis is the batch, shared as for the noise."""
    return (draw_sharded(torch.rand, probabilities, generator, ()) < probabilities).to(probabilities.dtype)


@singledispatch
def rsample(distribution: Distribution, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    """Draw from a distribution, reparameterised so that gradients reach its parameters.

    Args:
        distribution: What to draw from.
        generator: The source of the noise, on the device of the distribution's parameters.
        shape: Leading shape of independent draws.

    Returns:
        Tensor of shape `[*shape, *batch_shape, *event_shape]`.

    Raises:
        NotImplementedError: if the distribution has no reparameterised draw.
    """
    with _seeded_from(generator):
        return distribution.rsample(torch.Size(shape))


@rsample.register(Independent)
def _(distribution: Any, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    return rsample(distribution.base_dist, generator, shape)


@rsample.register
def _(distribution: Normal, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    loc, scale = distribution.loc, distribution.scale
    return torch.addcmul(loc, scale, standard_normal(loc, generator, shape))


@rsample.register
def _(distribution: MultivariateNormal, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    loc: Tensor = distribution.loc
    noise = standard_normal(loc, generator, shape).unsqueeze(-1)
    return loc + (distribution.scale_tril @ noise).squeeze(-1)


@singledispatch
def sample(distribution: Distribution, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    """Draw from a distribution without gradients; arguments and shape as for `rsample`."""
    with torch.no_grad(), _seeded_from(generator):
        return distribution.sample(torch.Size(shape))


@sample.register(Independent)
def _(distribution: Any, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    return sample(distribution.base_dist, generator, shape)


@sample.register(Normal)
@sample.register(MultivariateNormal)
def _(distribution: Distribution, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        return rsample(distribution, generator, shape)


@sample.register
def _(distribution: Bernoulli, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    with torch.no_grad():
        probs = distribution.probs
        return (draw_sharded(torch.rand, probs, generator, shape) < probs).to(probs.dtype)


@sample.register
def _(distribution: MixtureSameFamily, generator: torch.Generator, shape: Sequence[int] = ()) -> Tensor:
    if distribution.batch_shape:
        return sample.dispatch(Distribution)(distribution, generator, shape)
    with torch.no_grad(), sharded(None):  # the first axis of the components is no batch
        cumulative = distribution.mixture_distribution.probs.cumsum(dim=-1)
        uniform = draw_sharded(torch.rand, cumulative[0], generator, shape)
        chosen = torch.searchsorted(cumulative, uniform, right=True).clamp(max=len(cumulative) - 1)
        components = sample(distribution.component_distribution, generator, shape)
        index = chosen.reshape(*shape, 1, *[1] * len(distribution.event_shape))
        index = index.expand(*shape, 1, *distribution.event_shape)
        return components.gather(len(shape), index).squeeze(len(shape))


@contextmanager
def _seeded_from(generator: torch.Generator) -> Iterator[None]:
    """Seed the process-wide generators from ours for the length of a block, and put them back after it.

    Processes that share a batch draw differently, but not the parts of what one process would.
    """
    device = generator.device
    shard = _shard.get()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        drawn = int(torch.randint(2**62, (), generator=generator, device=device).item())
        seed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed  # of all devices
        seed(drawn + (shard[0] if shard else 0))
        yield


@lru_cache(maxsize=16)
def sobol_normal(count: int, units: int) -> Tensor:
    """Points of a scrambled Sobol sequence, put through the inverse normal CDF; the same ones every time.

    Args:
        count: How many; a power of two fills space best.
        units: Of how many dimensions.

    Returns:
        Float32 tensor of shape `[count, units]`, on the CPU.
    """
    uniform = SobolEngine(units, scramble=True, seed=0).draw(count, dtype=torch.float64)
    points: Tensor = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).float()
    return points
