import pytest
import torch
from torch.distributions import Bernoulli, Exponential, Independent, Laplace, Normal

from vae_exp.distributions.sampling import rsample, sample

FAMILIES = {
    "normal": lambda: Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
    "independent normal": lambda: Independent(Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])), 1),
    "laplace": lambda: Laplace(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])),
    "exponential": lambda: Exponential(torch.tensor([0.5, 3.0])),
    "bernoulli": lambda: Bernoulli(probs=torch.tensor([0.2, 0.9])),
}
REPARAMETERISED = [name for name in FAMILIES if name != "bernoulli"]


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
