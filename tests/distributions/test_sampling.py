from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
)

from vae_exp.distributions.sampling import bernoulli, rsample, sample, sharded, standard_normal

FAMILIES = {
    "normal": lambda: Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
    "independent normal": lambda: Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])), 1),
    "laplace": lambda: Laplace(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
    "exponential": lambda: Exponential(torch.tensor([0.5, 3.0])),
    "bernoulli": lambda: Bernoulli(probs=torch.tensor([0.2, 0.9])),
    "mixture": lambda: mixture(torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0])),
    "mixture with a batch": lambda: MixtureSameFamily(
        Categorical(torch.tensor([[0.3, 0.7], [0.8, 0.2]])), Normal(torch.tensor([[1.0, 5.0], [0.0, -4.0]]), 1.0)
    ),
}
REPARAMETERISED = [name for name in FAMILIES if name not in ("bernoulli", "mixture", "mixture with a batch")]


def mixture(weights: Tensor) -> MixtureSameFamily:
    """Of Gaussians far enough from one another that a draw tells its own."""
    places = torch.arange(len(weights)) * 10.0
    components = Independent(Normal(torch.stack([places, -places], dim=1), 0.5), 1)
    return MixtureSameFamily(Categorical(weights), components)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_have_the_moments_of_the_distribution(family, generator):
    distribution = FAMILIES[family]()
    draws = sample(distribution, generator, (50_000,))
    assert draws.shape == (50_000, 2)
    error = distribution.stddev / 50_000**0.5
    assert ((draws.mean(dim=0) - distribution.mean).abs() < 5 * error).all()
    torch.testing.assert_close(draws.var(dim=0), distribution.variance, rtol=0.1, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_from_the_generator_alone(family):
    def draw(seed: int) -> torch.Tensor:
        return sample(FAMILIES[family](), torch.Generator().manual_seed(seed), (64,))

    first = draw(3)
    torch.rand(10)
    torch.testing.assert_close(draw(3), first, rtol=0, atol=0)
    assert not torch.equal(draw(4), first)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_global_generator_is_left_alone(family, generator):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    sample(FAMILIES[family](), generator, (8,))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("family", REPARAMETERISED)
def test_consecutive_draws_differ(family, generator):
    distribution = FAMILIES[family]()
    assert not torch.equal(rsample(distribution, generator, (4,)), rsample(distribution, generator, (4,)))


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.0, 0.2, 0.3, 0.0], [0.0, 1.0], [1.0] * 500])
def test_a_component_is_drawn_as_often_as_it_weighs(weights: list[float], generator):
    exact = torch.tensor(weights) / sum(weights)
    draws = sample(mixture(exact), generator, (40_000,))
    counts = (draws[:, 0] / 10).round().long().bincount(minlength=len(weights))
    assert ((counts / 40_000 - exact).abs() <= 5 * (exact * (1 - exact) / 40_000).sqrt()).all()
    within = draws[:, 0] - 10 * (draws[:, 0] / 10).round()
    assert within.std().item() == pytest.approx(0.5, rel=0.02)


def test_draws_of_a_mixture_are_the_same_on_every_process():
    """A prior has no batch, and the first axis of its components is none."""
    draws = [
        part_of(shard, sample, mixture(torch.ones(3)), seeded(1), (4,)) for shard in (None, (0, 1, 4), (1, 4, 4))
    ]
    assert all(torch.equal(draw, draws[0]) for draw in draws)


@pytest.mark.parametrize("family", ["laplace", "mixture with a batch"])
def test_draws_on_the_cpu_leave_the_generators_of_devices_alone(family, generator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("CUDA is seeded"))
    sample(FAMILIES[family](), generator, (3,))


def test_gradients_reach_the_parameters(generator):
    mean, scale = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
    noise = torch.randn(3, generator=torch.Generator().manual_seed(1))
    rsample(Independent(Normal(mean, scale), 1), generator).sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(3))
    torch.testing.assert_close(scale.grad, noise)


def test_draws_without_gradients_have_none(generator):
    mean = torch.zeros(3, requires_grad=True)
    assert not sample(Normal(mean, torch.ones(3)), generator).requires_grad


def test_a_distribution_without_a_reparameterised_draw_says_so(generator):
    with pytest.raises(NotImplementedError):
        rsample(Bernoulli(probs=torch.tensor([0.5])), generator)


def test_normal_draws_are_the_noise_of_the_generator_moved_and_scaled(generator):
    loc, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rsample(Normal(loc, scale), generator, (4,)), loc + scale * noise)


# The parts of several processes

DRAW_TWICE = 2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def part_of(shard: tuple[int, int, int] | None, draw, *arguments):
    with sharded(shard):
        return draw(*arguments)


@st.composite
def cuts(draw) -> list[int]:
    """Where a batch is cut into the parts of the processes; parts may be empty."""
    total = draw(st.integers(min_value=1, max_value=12))
    inner = draw(st.lists(st.integers(min_value=0, max_value=total), max_size=3))
    return [0, *sorted(inner), total]


@settings(max_examples=80)
@given(cuts(), st.sampled_from([(), (1,), (3,), (2, 2)]), st.sampled_from([(2,), (3, 2)]), st.integers(0, 2**31))
def test_the_parts_together_are_the_draw_of_one_process(cut, shape, features, seed):
    total, alone = cut[-1], seeded(seed)
    whole = [standard_normal(torch.zeros(total, *features), alone, shape) for _ in range(DRAW_TWICE)]
    parts = []
    for first, last in pairwise(cut):
        own = seeded(seed)
        with sharded((first, last, total)):
            like = torch.zeros(last - first, *features)
            parts.append([standard_normal(like, own, shape) for _ in range(DRAW_TWICE)])
        assert torch.equal(own.get_state(), alone.get_state())
    for draw in range(DRAW_TWICE):
        assert torch.equal(torch.cat([part[draw] for part in parts], dim=len(shape)), whole[draw])


@settings(max_examples=30)
@given(cuts(), st.integers(0, 2**31))
def test_draws_of_a_posterior_are_those_of_one_process(cut, seed):
    total = cut[-1]
    loc, scale = torch.arange(2.0 * total).reshape(total, 2), torch.full((total, 2), 0.3)

    def posterior(part: slice) -> Distribution:
        return Independent(Normal(loc[part], scale[part]), 1)

    whole = rsample(posterior(slice(None)), seeded(seed), (3,))
    parts = [
        part_of((first, last, total), rsample, posterior(slice(first, last)), seeded(seed), (3,))
        for first, last in pairwise(cut)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@settings(max_examples=30)
@given(cuts(), st.integers(0, 2**31))
def test_the_binarised_parts_together_are_those_of_one_process(cut, seed):
    probabilities = torch.linspace(0, 1, 3 * cut[-1]).reshape(cut[-1], 1, 3)
    whole = bernoulli(probabilities, seeded(seed))
    parts = [
        part_of((first, last, cut[-1]), bernoulli, probabilities[first:last], seeded(seed))
        for first, last in pairwise(cut)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert set(whole.unique().tolist()) <= {0.0, 1.0}


def test_binarised_values_are_white_as_often_as_they_say(generator):
    probabilities = torch.tensor([0.0, 0.2, 0.9, 1.0]).expand(20_000, 4)
    frequencies = bernoulli(probabilities, generator).mean(dim=0)
    torch.testing.assert_close(frequencies, probabilities[0], rtol=0, atol=5 * 0.5 / 20_000**0.5)
    assert frequencies[0] == 0
    assert frequencies[3] == 1


def test_draws_of_what_has_no_batch_are_the_same_on_every_process():
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    draws = [part_of(shard, sample, prior, seeded(1), (4,)) for shard in (None, (0, 1, 4), (1, 4, 4))]
    assert all(torch.equal(draw, draws[0]) for draw in draws)


def test_an_ordinary_generator_draws_ordinary_noise(generator):
    expected = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(standard_normal(torch.zeros(4, 2), generator, (3,)), expected)


def test_noise_has_the_kind_of_what_it_is_for(generator):
    assert standard_normal(torch.zeros(4, 2, dtype=torch.float64), generator).dtype == torch.float64


def _batch(family: str, part: slice) -> Distribution:
    values = torch.linspace(0.1, 0.9, 10).reshape(5, 2)[part]
    return {"laplace": lambda: Laplace(values, values), "bernoulli": lambda: Bernoulli(probs=values)}[family]()


def test_draws_of_other_families_differ_between_processes():
    part = _batch("laplace", slice(0, 2))
    draws = [part_of(shard, sample, part, seeded(1), (8,)) for shard in ((0, 2, 5), (2, 4, 5))]
    assert not torch.equal(*draws)


def test_draws_of_bernoullis_are_those_of_one_process():
    def draw(part: slice, shard: tuple[int, int, int] | None) -> Tensor:
        return part_of(shard, sample, _batch("bernoulli", part), seeded(1), (64,))

    parts = [draw(slice(0, 2), (0, 2, 5)), draw(slice(2, 5), (2, 5, 5))]
    torch.testing.assert_close(torch.cat(parts, dim=1), draw(slice(None), None))
