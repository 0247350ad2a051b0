import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vae_exp.distributions.kl import kl
from vae_exp.distributions.sampling import rsample


def gaussian(mean: torch.Tensor, scale: torch.Tensor) -> Independent:
    return Independent(Normal(mean, scale), 1)


@pytest.fixture
def posterior(generator):
    return gaussian(torch.randn(4, 3, generator=generator), torch.rand(4, 3, generator=generator) + 0.2)


def test_a_distribution_is_no_distance_from_itself(posterior, generator):
    divergence = kl(posterior, posterior, rsample(posterior, generator, (1,)))
    torch.testing.assert_close(divergence, torch.zeros(4), rtol=0, atol=1e-6)


def test_the_closed_form_agrees_with_monte_carlo(posterior, generator):
    prior = gaussian(torch.zeros(3), torch.ones(3))
    draws = rsample(posterior, generator, (200_000,))
    ratios = posterior.log_prob(draws) - prior.log_prob(draws)
    error = ratios.std(dim=0) / len(draws) ** 0.5
    assert ((kl(posterior, prior, draws) - ratios.mean(dim=0)).abs() < 4 * error).all()


def test_without_a_closed_form_the_draws_are_used(posterior, generator):
    mixture = MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7])), gaussian(torch.tensor([[-1.0] * 3, [1.0] * 3]), torch.ones(2, 3))
    )
    draws = rsample(posterior, generator, (5,))
    expected = (posterior.log_prob(draws) - mixture.log_prob(draws)).mean(dim=0)
    torch.testing.assert_close(kl(posterior, mixture, draws), expected)


def test_gaussians_have_torchs_closed_form_and_its_gradients():
    generator = torch.Generator().manual_seed(3)
    loc, prior_loc = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    scale, prior_scale = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64) + 0.1
    given = [each.requires_grad_() for each in (loc, scale, prior_loc[0].clone(), prior_scale[0].clone())]

    def closed(*parts: torch.Tensor) -> torch.Tensor:
        one, other = (Independent(Normal(*pair), 1) for pair in (parts[:2], parts[2:]))
        return kl(one, other, torch.empty(0))

    one, other = (Independent(Normal(*pair), 1) for pair in (given[:2], given[2:]))
    torch.testing.assert_close(closed(*given), kl_divergence(one, other))
    assert torch.autograd.gradcheck(closed, tuple(given))
    assert torch.autograd.gradgradcheck(closed, tuple(given))
