import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch.distributions import Bernoulli

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae
from vae_exp.data.images import Batch
from vae_exp.objective.importance_weighted import log_evidence, log_weights


def by_quadrature(vae, images: torch.Tensor, points: int = 400, limit: float = 9.0) -> np.ndarray:
    """log p(x) = log ∫∫ p(x|z) p(z) dz over two latents, by the rectangle rule in float64."""
    axis = np.linspace(-limit, limit, points)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_prior = -0.5 * (grid**2).sum(axis=1) - np.log(2 * np.pi)
    with torch.no_grad():
        logits = vae.decode(torch.tensor(grid, dtype=torch.float32)).base_dist.logits.double().flatten(1).numpy()
    pixels = images.double().flatten(1).numpy()
    log_likelihood = pixels @ logits.T - np.logaddexp(0, logits).sum(axis=1)
    cell = (axis[1] - axis[0]) ** 2
    return logsumexp(log_likelihood + log_prior, axis=1) + np.log(cell)


def test_nll_agrees_with_quadrature_over_two_latents(generator):
    vae = bernoulli_vae(2)
    images = torch.rand(8, *SHAPE, generator=generator).round()
    truth = by_quadrature(vae, images)
    estimate = log_evidence(vae, Batch(images), 20_000, generator, chunk_size=40_000)
    errors = (estimate.value.numpy() - truth) / estimate.variance.sqrt().numpy()
    assert np.abs(errors).max() < 4
    assert estimate.variance.sqrt().max() < 0.05


def test_nll_agrees_with_the_closed_form_of_a_linear_gaussian_model(generator):
    vae = linear_gaussian_vae(3, generator)
    images = torch.randn(16, *SHAPE, generator=generator)
    truth = vae.decoder.log_evidence(images).double()
    estimate = log_evidence(vae, Batch(images), 20_000, generator, chunk_size=64_000)
    errors = (estimate.value - truth) / estimate.variance.sqrt()
    assert errors.abs().max() < 4
    assert estimate.variance.sqrt().max() < 0.1


def test_the_exact_posterior_needs_a_single_sample(generator):
    vae = linear_gaussian_vae(1, generator, widening=1.0)
    images = torch.randn(5, *SHAPE, generator=generator)
    torch.testing.assert_close(
        log_weights(vae, Batch(images), 3, generator),
        vae.decoder.log_evidence(images).expand(3, 5),
        rtol=0,
        atol=2e-4,
    )


def test_the_stated_variance_is_that_of_repeated_estimates(generator):
    vae = bernoulli_vae(2)
    image = torch.rand(1, *SHAPE, generator=generator).round()
    repeated = [log_evidence(vae, Batch(image), 200, generator, chunk_size=1000) for _ in range(400)]
    spread = torch.stack([each.value for each in repeated]).var().item()
    stated = torch.stack([each.variance for each in repeated]).mean().item()
    assert stated == pytest.approx(spread, rel=0.3)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("latent_dim", "widening", "num_samples", "at_most"),
    [(2, 1.3, 500, 1.15), (20, 0.7, 500, 1.3), (20, 0.5, 500, 1.3), (3, 0.2, 500, 1.3), (20, 0.5, 50, 1.3)],
)
def test_the_standard_error_covers_the_spread_where_few_draws_count(
    latent_dim: int, widening: float, num_samples: int, at_most: float
):
    """log (1/K) Σ wₖ (Burda et al. 2016, equation 8) over repeated draws for the same images.

    A posterior narrower than the true one has weights of infinite variance, and one or two of the draws count.
    """
    noise = torch.Generator().manual_seed(0)
    vae = linear_gaussian_vae(latent_dim, noise, widening)
    images = torch.randn(40, *SHAPE, generator=noise).repeat(100, 1, 1, 1)
    estimate = log_evidence(vae, Batch(images), num_samples, noise, chunk_size=200_000)
    means = estimate.value.reshape(100, 40).mean(dim=1)
    stated = estimate.variance.reshape(100, 40).sum(dim=1).sqrt() / 40
    truth = vae.decoder.log_evidence(images).double().mean()
    assert means.mean() < truth + 3 * means.std() / 10  # a lower bound in expectation
    ratio = (stated.square().mean().sqrt() / means.std()).item()
    uncertainty = 1 / (2 * 99) ** 0.5
    assert 1 - 3 * uncertainty < ratio < at_most + 3 * uncertainty
    covered = ((means - means.mean()).abs() < 2 * stated).double().mean().item()
    assert covered > 0.9


def test_the_variance_is_that_of_leaving_out_one_draw_after_another():
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    vae = bernoulli_vae(2, scale=8.0)
    found = log_evidence(vae, Batch(images), 30, torch.Generator().manual_seed(6), 10**6)
    weights = log_weights(vae, Batch(images), 30, torch.Generator().manual_seed(6)).detach().double().numpy()
    without = np.stack([logsumexp(np.delete(weights, k, axis=0), axis=0) - np.log(29) for k in range(30)])
    expected = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(found.variance.numpy(), expected, rtol=1e-4)
    shares = np.exp(weights - logsumexp(weights, axis=0))
    np.testing.assert_allclose(found.largest_weight.numpy(), shares.max(axis=0), rtol=1e-4)


def test_one_importance_sample_is_the_monte_carlo_elbo_on_that_draw():
    vae = bernoulli_vae(2)
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(4)).round()
    weights = log_weights(vae, Batch(images), 1, torch.Generator().manual_seed(5))[0]
    posterior = vae.encode(images)
    noise = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(5))
    latents = (posterior.mean + posterior.stddev * noise)[0]
    logits = vae.decoder.output(vae.decoder.hidden(latents)).unflatten(-1, SHAPE)
    expected = (
        Bernoulli(logits=logits).log_prob(images).flatten(1).sum(1)
        + torch.distributions.Normal(0.0, 1.0).log_prob(latents).sum(1)
        - torch.distributions.Normal(posterior.mean, posterior.stddev).log_prob(latents).sum(1)
    )
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("chunk_size", [1, 7, 3000, 10**6])
def test_chunks_change_nothing_but_the_draws(chunk_size):
    vae = bernoulli_vae(2)
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    whole = log_evidence(vae, Batch(images), 2000, torch.Generator().manual_seed(6), 10**6)
    chunked = log_evidence(vae, Batch(images), 2000, torch.Generator().manual_seed(7), chunk_size)
    error = (whole.variance + chunked.variance).sqrt()
    assert ((whole.value - chunked.value).abs() < 4 * error).all()
    assert error.max() < 0.2


def test_a_single_sample_tells_nothing_of_its_error(generator):
    images = torch.rand(3, *SHAPE, generator=generator)
    assert log_evidence(bernoulli_vae(2), Batch(images), 1, generator, 10).variance.isnan().all()


def test_every_sample_asked_for_is_drawn(generator):
    vae = bernoulli_vae(2)
    images = torch.rand(4, *SHAPE, generator=generator)
    drawn = []
    decode = vae.decode
    vae.decode = lambda latents, labels: (drawn.append(latents.shape[0]), decode(latents))[1]
    log_evidence(vae, Batch(images), 37, generator, chunk_size=40)
    assert sum(drawn) == 37


def test_the_encoder_is_called_once_per_image(generator):
    vae = bernoulli_vae(2)
    calls = []
    encode = vae.encode
    vae.encode = lambda images, labels: (calls.append(len(images)), encode(images))[1]
    log_evidence(vae, Batch(torch.rand(4, *SHAPE, generator=generator)), 50, generator, chunk_size=8)
    assert calls == [4]


def test_more_samples_give_a_tighter_bound(generator):
    vae = bernoulli_vae(2, scale=3.0)
    images = torch.rand(64, *SHAPE, generator=generator).round()
    bounds = [
        torch.stack([log_evidence(vae, Batch(images), k, generator, 5000).value.mean() for _ in range(20)]).mean()
        for k in (1, 5, 50)
    ]
    assert bounds[0] < bounds[1] < bounds[2]


def test_weights_have_samples_first_and_images_second(generator):
    vae = bernoulli_vae(3)
    assert log_weights(vae, Batch(torch.rand(4, *SHAPE, generator=generator)), 7, generator).shape == (7, 4)


def test_an_image_far_from_the_model_gives_finite_numbers(generator):
    vae = bernoulli_vae(2, scale=60.0)
    estimate = log_evidence(vae, Batch(torch.ones(2, *SHAPE)), 50, generator, chunk_size=10)
    assert estimate.value.isfinite().all()
    assert (estimate.variance >= 0).all()
    assert estimate.variance.isfinite().all()


def test_the_effective_number_of_draws_is_that_of_the_weights():
    vae = bernoulli_vae(2)
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)).round()
    found = log_evidence(vae, Batch(images), 50, torch.Generator().manual_seed(6), 10**6).effective_samples
    weights = log_weights(vae, Batch(images), 50, torch.Generator().manual_seed(6)).double().exp()
    expected = weights.sum(0) ** 2 / weights.square().sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ((found >= 1) & (found <= 50)).all()


def test_draws_of_the_exact_posterior_all_count(generator):
    vae = linear_gaussian_vae(1, generator, widening=1.0)
    images = torch.randn(5, *SHAPE, generator=generator)
    found = log_evidence(vae, Batch(images), 40, generator, 10**6).effective_samples
    torch.testing.assert_close(found, torch.full((5,), 40.0, dtype=torch.float64), rtol=1e-4, atol=1e-3)
