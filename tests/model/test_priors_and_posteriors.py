"""Priors and posteriors beyond the diagonal Gaussian."""

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vae_exp.data.images import Batch, ImageSet
from vae_exp.distributions.kl import kl
from vae_exp.distributions.sampling import rsample, sample
from vae_exp.evaluation.active_units import UnitsEvaluator
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.posteriors import FullCovarianceGaussianHead, posterior_head
from vae_exp.model.priors import GaussianMixturePrior, StandardNormalPrior, VampPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE

SHAPE = (1, 2, 3)


def vae_with(prior: torch.nn.Module, posterior: str = "diagonal", latent_dim: int = 2) -> VAE:
    encoder = MLPEncoder(SHAPE, latent_dim, [5], "tanh", posterior)
    return VAE(encoder, MLPDecoder(SHAPE, latent_dim, [5], "tanh"), prior)


def images(count: int = 7) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)).round()


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["mixture", "vamp"])
def test_mixtures_integrate_to_one(kind):
    prior = (
        GaussianMixturePrior(2, 4, init_std=2.0)
        if kind == "mixture"
        else vae_with(VampPrior(list(SHAPE), 4)).prior
    )
    axis = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(axis, axis)
    total = prior().log_prob(grid).double().exp().sum() * (axis[1] - axis[0]).double() ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_is_the_weighted_sum_of_scipys_gaussians():
    prior = GaussianMixturePrior(3, 4)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(4))
        prior.log_scale.copy_(0.3 * torch.randn(4, 3))
    places = torch.randn(6, 3)
    shares = prior.logits.softmax(0).tolist()
    expected = sum(
        share * scipy.stats.norm(prior.loc[k].detach(), prior.log_scale[k].exp().detach()).pdf(places).prod(axis=1)
        for k, share in enumerate(shares)
    )
    np.testing.assert_allclose(prior().log_prob(places).detach(), np.log(expected), rtol=1e-5)


def test_the_vamp_prior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    """Tomczak & Welling, equation 9: log of the mean of densities, not the mean of their logs."""
    vae = vae_with(VampPrior(list(SHAPE), 4))
    places = torch.randn(6, 2)
    densities = torch.stack(
        [vae.encode(each.sigmoid().unsqueeze(0)).log_prob(places).exp() for each in vae.prior.pseudo_inputs]
    )
    torch.testing.assert_close(vae.prior().log_prob(places), densities.mean(0).log())


def test_the_vamp_prior_shares_the_encoder_and_does_not_own_it():
    vae = vae_with(VampPrior(list(SHAPE), 4))
    assert list(vae.prior.state_dict()) == ["pseudo_inputs"]
    vae.prior().log_prob(torch.zeros(2)).backward()
    assert vae.encoder.hidden[0].weight.grad.abs().max() > 0
    assert vae.prior.pseudo_inputs.grad.abs().max() > 0


def test_a_copy_of_a_model_with_a_vamp_prior_uses_the_copied_encoder():
    vae = vae_with(VampPrior(list(SHAPE), 4))
    other = copy.deepcopy(vae)
    with torch.no_grad():
        other.encoder.posterior.mean_and_log_variance.bias += 5
    assert not torch.equal(other.prior().mean, vae.prior().mean)


@pytest.mark.parametrize("prior", [GaussianMixturePrior(2, 3), VampPrior(list(SHAPE), 3)])
@pytest.mark.parametrize("loss", [ELBO(3), IWAE(3)])
def test_learned_priors_are_trained(prior, loss):
    vae = vae_with(prior)
    terms = loss(vae, Batch(images()), noise())
    terms.loss.sum().backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_a_rate_without_a_closed_form_is_estimated_from_the_draws():
    vae = vae_with(GaussianMixturePrior(2, 3))
    posterior, prior = vae.encode(images()), vae.prior()
    draws = rsample(posterior, noise(), (5,))
    by_hand = (posterior.log_prob(draws) - prior.log_prob(draws)).mean(0)
    torch.testing.assert_close(kl(posterior, prior, draws), by_hand)


def test_a_mixture_of_one_standard_component_is_the_standard_normal():
    prior = GaussianMixturePrior(3, 1, init_std=0.0)
    places = torch.randn(5, 3)
    torch.testing.assert_close(prior().log_prob(places), StandardNormalPrior(3)().log_prob(places))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: GaussianMixturePrior(2, 0), "model.prior.components=0 must be a whole number of at least 1"),
        (lambda: GaussianMixturePrior(2, 3, -1.0), "model.prior.init_std=-1.0"),
        (lambda: VampPrior([1, 2, 3], 0), "model.prior.components=0"),
        (lambda: posterior_head("round", 3, 2), "model.posterior=round must be one of diagonal, full"),
    ],
)
def test_values_out_of_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_the_full_covariance_is_that_of_its_factor(latent_dim):
    head = FullCovarianceGaussianHead(4, latent_dim)
    features = torch.randn(6, 4)
    posterior = head(features)
    outputs = head.mean_and_factor(features)
    for row in range(6):
        factor = torch.zeros(latent_dim, latent_dim)
        below = iter(outputs[row, 2 * latent_dim :])
        for i in range(latent_dim):
            for j in range(i):
                factor[i, j] = next(below)
            factor[i, i] = outputs[row, latent_dim + i].exp()
        torch.testing.assert_close(posterior.covariance_matrix[row], factor @ factor.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(posterior.mean[row], outputs[row, :latent_dim])


def test_draws_of_a_full_covariance_have_it_and_follow_from_the_generator():
    posterior = FullCovarianceGaussianHead(4, 3)(torch.randn(2, 4))
    before = torch.get_rng_state()
    draws = sample(posterior, noise(), (200_000,))
    assert torch.equal(torch.get_rng_state(), before)
    for image in range(2):
        found = torch.cov(draws[:, image].T)
        torch.testing.assert_close(found, posterior.covariance_matrix[image], rtol=0.03, atol=0.02)
    assert torch.equal(draws[:10], sample(posterior, noise(), (200_000,))[:10])


def test_gradients_reach_every_output_of_the_full_covariance():
    head = FullCovarianceGaussianHead(4, 3)
    rsample(head(torch.randn(2, 4)), noise(), (7,)).square().sum().backward()
    assert (head.mean_and_factor.bias.grad != 0).all()


def test_the_rate_of_a_full_covariance_is_its_closed_form():
    posterior = FullCovarianceGaussianHead(4, 3)(torch.randn(5, 4))
    prior = StandardNormalPrior(3)()
    covariance, mean = posterior.covariance_matrix, posterior.mean
    by_hand = 0.5 * (
        covariance.diagonal(dim1=1, dim2=2).sum(1) + mean.square().sum(1) - 3 - torch.linalg.slogdet(covariance)[1]
    )
    torch.testing.assert_close(kl(posterior, prior, torch.zeros(1, 5, 3)), by_hand, rtol=1e-4, atol=1e-5)


def test_a_diagonal_factor_is_the_diagonal_gaussian():
    scale = torch.rand(5, 3) + 0.1
    full = MultivariateNormal(torch.zeros(5, 3), scale_tril=scale.diag_embed())
    diagonal = Independent(Normal(torch.zeros(5, 3), scale), 1)
    prior = StandardNormalPrior(3)()
    torch.testing.assert_close(kl(full, prior, torch.zeros(1, 5, 3)), kl_divergence(diagonal, prior))


@pytest.mark.parametrize("prior", [GaussianMixturePrior(2, 3), StandardNormalPrior(2)])
def test_units_that_depend_on_one_another_are_counted_without_rates(prior):
    posterior = "full_covariance" if isinstance(prior, StandardNormalPrior) else "diagonal"
    found = UnitsEvaluator(0.0, 3, None).run(vae_with(prior, posterior), ImageSet(images(), None, 1), noise())
    assert dict(found) == {"active_units": 2}
