import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from vae_exp.distributions.gaussian import DiagonalGaussian, StandardNormal, draw_with_rate


@pytest.fixture
def parameters(generator):
    """Means and log variances of 7 images in 3 dimensions, float64."""
    return torch.randn(7, 6, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def noise(generator):
    return torch.randn(7, 3, generator=generator, dtype=torch.float64)


def one_by_one(parameters: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = parameters.chunk(2, dim=-1)
    scale = (log_variance / 2).exp()
    posterior = Independent(Normal(mean, scale), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    return mean + scale * noise, kl_divergence(posterior, prior)


def test_a_draw_with_its_rate_is_both_one_by_one(parameters, noise):
    for value, expected in zip(
        draw_with_rate(DiagonalGaussian(parameters), noise), one_by_one(parameters, noise), strict=True
    ):
        torch.testing.assert_close(value, expected)


def test_the_gradient_is_that_of_both_one_by_one(parameters, noise):
    def gradient(latents: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        weighted = (latents.sin() * noise).sum() + (torch.linspace(-1, 2, 7, dtype=rate.dtype) * rate).sum()
        return torch.autograd.grad(weighted, parameters)[0]

    own = gradient(*draw_with_rate(DiagonalGaussian(parameters), noise))
    torch.testing.assert_close(own, gradient(*one_by_one(parameters, noise)))


def test_an_unused_rate_adds_nothing_to_the_gradient(parameters, noise):
    latents, _ = draw_with_rate(DiagonalGaussian(parameters), noise)
    [gradient] = torch.autograd.grad(latents.sum(), parameters)
    scale = (parameters.detach()[:, 3:] / 2).exp()
    torch.testing.assert_close(gradient, torch.cat([torch.ones_like(scale), noise * scale / 2], dim=1))


def test_it_can_be_differentiated_twice(parameters, noise):
    def both(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return draw_with_rate(DiagonalGaussian(parameters), noise)

    assert torch.autograd.gradgradcheck(both, (parameters,))


def test_both_can_be_expanded(parameters):
    standard = StandardNormal(torch.zeros(3), torch.ones(3))
    for distribution, shape in ((DiagonalGaussian(parameters), (5, 7)), (standard, (4,))):
        expanded = distribution.expand(shape)
        assert (tuple(expanded.batch_shape), tuple(expanded.event_shape)) == (shape, (3,))
        value = expanded.sample()
        torch.testing.assert_close(expanded.log_prob(value), distribution.log_prob(value))


def test_both_are_the_distributions_they_are_named_after(parameters, generator):
    mean, log_variance = parameters.chunk(2, dim=-1)
    values = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    expected = Normal(mean, (log_variance / 2).exp()).log_prob(values).sum(dim=-1)
    torch.testing.assert_close(DiagonalGaussian(parameters).log_prob(values), expected)
    standard = StandardNormal(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(standard.log_prob(values), Normal(0.0, 1.0).log_prob(values).sum(dim=-1))
