"""Objectives that look at the aggregate posterior: β-TCVAE, InfoVAE, DIP-VAE."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from tests.builders import SHAPE, bernoulli_vae
from vae_exp.data.images import Batch
from vae_exp.distributions.sampling import sample
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.flows import FlowPrior
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.disentangling import (
    DIPVAE,
    BetaTCVAE,
    InfoVAE,
    maximum_mean_discrepancy,
    stratified_log_weights,
)
from vae_exp.objective.elbo import ELBO

LIKE = torch.zeros(())


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(9)).round()


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.quick(2)
@pytest.mark.parametrize(("batch", "dataset"), [(2, 2), (2, 7), (3, 4), (4, 4), (4, 9)])
def test_the_stratified_estimate_of_the_aggregate_density_is_unbiased(batch, dataset):
    """Averaged over every ordered batch that holds the image z came from, it is (1/N) Σₙ q(z|xₙ), at several z."""
    posteriors = Normal(torch.linspace(-2, 3, dataset).double(), torch.linspace(0.3, 1.5, dataset).double())
    weights = stratified_log_weights(batch, dataset, torch.zeros((), dtype=torch.float64)).exp()
    for place in (-2.5, 0.1, 2.0):
        densities = posteriors.log_prob(torch.tensor(place, dtype=torch.float64)).exp()
        for own in range(dataset):
            rest = [each for each in range(dataset) if each != own]
            for row in range(batch):
                found = []
                for others in permutations(rest, batch - 1):
                    order = [*others[:row], own, *others[row:]]
                    found.append((weights[row] * densities[order]).sum())
                assert torch.stack(found).mean().item() == pytest.approx(densities.mean().item(), rel=1e-12)


@pytest.mark.parametrize(("batch", "dataset"), [(1, 5), (2, 2), (5, 1000), (128, 60_000)])
def test_the_weights_of_a_row_add_up_to_one_and_the_diagonal_is_one_in_n(batch, dataset):
    weights = stratified_log_weights(batch, dataset, LIKE.double()).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(batch, dtype=torch.float64))
    if batch > 1:
        torch.testing.assert_close(weights.diagonal(), torch.full((batch,), 1 / dataset, dtype=torch.float64))


def test_total_correlation_is_the_papers_formula_in_loops():
    """Five images, three units, a data set of fifty: every sum written out."""
    vae, size, dataset = bernoulli_vae(3), 5, 50
    terms = BetaTCVAE(2.0, 5.0, 3.0, dataset)(vae, Batch(images()), noise())
    posterior = vae.encode(images())
    drawn = posterior.mean + posterior.stddev * torch.randn(1, size, 3, generator=noise())[0]
    weights = [[1 / (size - 1)] * size for _ in range(size)]
    for row in range(size):
        weights[row][row] = 1 / dataset
        weights[row][(row + 1) % size] = (dataset - size + 1) / (dataset * (size - 1))

    def density(row: int, column: int, unit: int) -> float:
        mean, scale = posterior.mean[column, unit].item(), posterior.stddev[column, unit].item()
        return math.exp(-0.5 * ((drawn[row, unit].item() - mean) / scale) ** 2) / scale / math.sqrt(2 * math.pi)

    for i in range(size):
        joint = sum(weights[i][j] * math.prod(density(i, j, u) for u in range(3)) for j in range(size))
        units = math.prod(sum(weights[i][j] * density(i, j, u) for j in range(size)) for u in range(3))
        own = math.prod(density(i, i, u) for u in range(3))
        prior = math.prod(math.exp(-0.5 * drawn[i, u].item() ** 2) / math.sqrt(2 * math.pi) for u in range(3))
        expected = 2 * math.log(own / joint) + 5 * math.log(joint / units) + 3 * math.log(units / prior)
        assert (terms.loss - terms.distortion)[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_equal_weights_of_one_are_the_elbo_on_that_draw():
    vae = bernoulli_vae(3)
    terms = BetaTCVAE(1.0, 1.0, 1.0, 77)(vae, Batch(images()), noise())
    posterior = vae.encode(images())
    drawn = posterior.mean + posterior.stddev * torch.randn(1, 5, 3, generator=noise())[0]
    log_ratio = posterior.log_prob(drawn) - Normal(0.0, 1.0).log_prob(drawn).sum(-1)
    torch.testing.assert_close(terms.loss, terms.distortion + log_ratio, rtol=1e-4, atol=1e-4)


def test_total_correlation_is_near_its_true_value_for_many_images():
    """q(z) of a data set whose posteriors lie on a diagonal: TC by quadrature over two latents."""
    dataset, scale = 400, 0.5
    means = torch.linspace(-2, 2, dataset).repeat(2, 1).T.contiguous()
    vae = VAE(nn.Identity(), MLPDecoder((1, 1, 2), 2, [], "tanh"), StandardNormalPrior(2))
    vae.encoder.forward = lambda images: Independent(Normal(images.flatten(1), scale), 1)
    loss, generator, estimates = BetaTCVAE(0.0, 1.0, 0.0, dataset), noise(), []
    for _ in range(200):
        chosen = means[torch.randperm(dataset, generator=generator)[:200]]
        with torch.no_grad():
            terms = loss(vae, Batch(chosen.reshape(-1, 1, 1, 2)), generator)
        estimates.append((terms.loss - terms.distortion).mean())
    axis = np.linspace(-5, 5, 401)
    kernel = np.exp(-0.5 * ((axis[:, None] - means[:, 0].numpy()) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
    joint, marginal = kernel @ kernel.T / dataset, kernel.mean(1)
    step = axis[1] - axis[0]
    truth = (joint * (np.log(joint + 1e-300) - np.log(marginal[:, None]) - np.log(marginal))).sum() * step**2
    assert truth > 0.3
    assert torch.stack(estimates).mean().item() == pytest.approx(truth, rel=0.05)


def test_a_batch_of_one_has_an_aggregate_of_its_own():
    terms = BetaTCVAE(1.0, 6.0, 1.0, 50)(bernoulli_vae(3), Batch(images(1)), noise())
    assert terms.loss.isfinite().all()


@pytest.mark.parametrize("size", [None, 0, 1])
def test_a_data_set_of_unknown_size_is_refused(size):
    with pytest.raises(ValueError, match=r"loss\.dataset_size="):
        BetaTCVAE(1.0, 1.0, 1.0, size)


def test_the_discrepancy_is_lemma_six_in_loops():
    left, right = torch.randn(4, 3, generator=noise()), torch.randn(4, 3, generator=noise(8)) + 1

    def kernel(one: torch.Tensor, other: torch.Tensor) -> float:
        return math.exp(-sum((a - b).item() ** 2 for a, b in zip(one, other, strict=True)) / (2 * 3))

    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    within = sum(kernel(left[i], left[j]) + kernel(right[i], right[j]) for i, j in pairs) / 12
    between = sum(kernel(one, other) for one in left for other in right) / 16
    assert maximum_mean_discrepancy(left, right).item() == pytest.approx(within - 2 * between, rel=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_the_discrepancy_is_unbiased(shift):
    """Two Gaussians in two dimensions, whose kernel means are Gaussian integrals."""
    generator, width = noise(), 2.0
    found = torch.stack(
        [
            maximum_mean_discrepancy(
                torch.randn(40, 2, generator=generator) + shift, torch.randn(40, 2, generator=generator)
            )
            for _ in range(2000)
        ]
    )
    truth = 2 * width / (width + 2) * (1 - math.exp(-2 * shift**2 / (2 * (width + 2))))
    assert abs(found.mean().item() - truth) < 4.5 * found.std().item() / 2000**0.5


@pytest.mark.parametrize("loss", [InfoVAE(0.0, 1.0), DIPVAE(1, 0.0, 0.0), DIPVAE(2, 0.0, 0.0)])
def test_each_reduces_to_the_elbo(loss):
    vae = bernoulli_vae(3)
    torch.testing.assert_close(
        loss(vae, Batch(images()), noise()).loss, ELBO()(vae, Batch(images()), noise()).loss
    )


@pytest.mark.parametrize(("alpha", "weight"), [(1.0, 5.0), (0.0, 1000.0), (0.3, 10.0), (-1.0, 4.0)])
def test_info_vae_weighs_rate_and_discrepancy_as_in_the_paper(alpha, weight):
    """Equation 6; with α = 1, the MMD-VAE, the rate is left out."""
    vae = bernoulli_vae(3)
    terms = InfoVAE(alpha, weight)(vae, Batch(images()), noise())
    latents, generator = vae.encode(images()), noise()
    drawn = latents.mean + latents.stddev * torch.randn(1, 5, 3, generator=generator)[0]
    discrepancy = maximum_mean_discrepancy(drawn, torch.randn(5, 3, generator=generator))
    rate = kl_divergence(Normal(latents.mean, latents.stddev), Normal(0.0, 1.0)).sum(-1)
    truth = (1 - alpha) * rate + (alpha + weight - 1) * discrepancy
    torch.testing.assert_close(terms.loss - terms.distortion, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", [BetaTCVAE(1.0, 6.0, 1.0, 50), InfoVAE(0.0, 1000.0), DIPVAE(2, 3.0, 3.0)])
def test_what_is_reported_beside_the_loss_is_the_elbo(loss):
    vae = bernoulli_vae(3)
    found, elbo = loss(vae, Batch(images()), noise()), ELBO()(vae, Batch(images()), noise())
    torch.testing.assert_close(found.distortion, elbo.distortion)
    torch.testing.assert_close(found.rate, elbo.rate)
    assert not torch.allclose(found.loss, elbo.loss)


@pytest.mark.parametrize("variant", [1, 2])
def test_the_covariance_penalty_is_the_papers(variant):
    vae = bernoulli_vae(3)
    terms = DIPVAE(variant, 4.0, 7.0)(vae, Batch(images()), noise())
    posterior = vae.encode(images())
    covariance = np.cov(posterior.mean.detach().numpy().T, bias=True)
    if variant == 2:
        covariance = covariance + np.diag(posterior.variance.detach().numpy().mean(0))
    penalty = sum(
        7 * (covariance[i, i] - 1) ** 2 if i == j else 4 * covariance[i, j] ** 2
        for i in range(3)
        for j in range(3)
    )
    expected = torch.full((5,), penalty, dtype=torch.float32)
    torch.testing.assert_close(terms.loss - terms.distortion - terms.rate, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "loss", [BetaTCVAE(1.0, 6.0, 1.0, 50), InfoVAE(0.5, 10.0), DIPVAE(1, 3.0, 3.0), DIPVAE(2, 3.0, 3.0)]
)
def test_gradients_agree_with_finite_differences(loss):
    vae = bernoulli_vae(3).double()
    batch = images().double()
    parameter = vae.encoder.posterior.mean_and_log_variance.bias

    def value() -> torch.Tensor:
        return loss(vae, Batch(batch), noise()).loss.sum()

    value().backward()
    for index in range(len(parameter)):
        step = 1e-6
        with torch.no_grad():
            parameter[index] += step
            above = value()
            parameter[index] -= 2 * step
            below = value()
            parameter[index] += step
        assert parameter.grad[index].item() == pytest.approx(
            ((above - below) / (2 * step)).item(), rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BetaTCVAE(-1.0, 1.0, 1.0, 5), "loss.alpha=-1.0"),
        (lambda: InfoVAE(1.5, 1.0), "loss.alpha=1.5"),
        (lambda: InfoVAE(0.0, -1.0), "loss.weight=-1.0"),
        (lambda: DIPVAE(3, 1.0, 1.0), "loss.variant=3 must be one of 1, 2"),
        (lambda: DIPVAE(1, -1.0, 1.0), "loss.off_diagonal=-1.0"),
    ],
)
def test_values_out_of_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_dip_vae_ii_knows_the_covariances_of_a_full_posterior():
    """Cov_q[z] = E[Σ(x)] + Cov[μ(x)] (Kumar et al., equation 7), here by many draws of z."""
    torch.manual_seed(0)
    encoder = MLPEncoder(SHAPE, 2, [5], "tanh", "full_covariance")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(2)
    vae = VAE(encoder, MLPDecoder(SHAPE, 2, [5], "tanh"), StandardNormalPrior(2))
    batch = images()
    with torch.no_grad():
        terms = DIPVAE(2, 4.0, 7.0)(vae, Batch(batch), noise())
        drawn = sample(vae.encode(batch), noise(), (100_000,)).flatten(0, 1).double()
        covariance = drawn.T.cov(correction=0)
    off = 2 * covariance[0, 1] ** 2
    diagonal = (covariance.diagonal() - 1).square().sum()
    assert covariance[0, 1].abs() > 0.05
    penalty = (terms.loss - terms.distortion - terms.rate)[0].item()
    assert penalty == pytest.approx((4 * off + 7 * diagonal).item(), rel=0.03)


def test_dip_vae_ii_needs_a_posterior_whose_covariance_is_known():
    torch.manual_seed(0)
    encoder = MLPEncoder(SHAPE, 2, [5], "tanh", "flow")
    vae = VAE(encoder, MLPDecoder(SHAPE, 2, [5], "tanh"), StandardNormalPrior(2))
    with pytest.raises(TypeError, match="a GaussianFlow over latents has no density for each unit"):
        DIPVAE(2, 1.0, 1.0)(vae, Batch(images()), noise())
    assert DIPVAE(1, 1.0, 1.0)(vae, Batch(images()), noise()).loss.isfinite().all()


def test_the_discrepancy_trains_a_prior_whose_draws_have_gradients():
    torch.manual_seed(0)
    vae = VAE(MLPEncoder(SHAPE, 2, [5], "tanh"), MLPDecoder(SHAPE, 2, [5], "tanh"), FlowPrior(2))
    InfoVAE(1.0, 10.0)(vae, Batch(images()), noise()).loss.sum().backward()
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in vae.prior.parameters())
