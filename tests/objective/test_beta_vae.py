"""Objectives that weigh the rate: β-VAE, capacity, free bits."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT, kl_divergence

from tests.builders import SHAPE, bernoulli_vae
from vae_exp.data.images import Batch
from vae_exp.distributions.kl import kl, kl_per_dimension
from vae_exp.distributions.stop_gradient import stop_gradient
from vae_exp.objective.beta_vae import BetaVAE, CapacityVAE, FreeBits
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Linear


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(9)).round()


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", [BetaVAE(1.0, 3), CapacityVAE(1.0, 0.0, 3), FreeBits(0.0, 3)])
def test_each_reduces_to_the_elbo(loss):
    vae = bernoulli_vae(3)
    found, elbo = loss(vae, Batch(images()), noise()), ELBO(3)(vae, Batch(images()), noise())
    torch.testing.assert_close(found.loss.mean(), elbo.loss.mean())
    torch.testing.assert_close(found.distortion, elbo.distortion)
    torch.testing.assert_close(found.rate, elbo.rate)


@pytest.mark.parametrize("loss", [BetaVAE(4.0), CapacityVAE(30.0, 2.0), FreeBits(2.0)])
def test_what_is_reported_beside_the_loss_is_the_elbo_whatever_the_weights(loss):
    vae = bernoulli_vae(3)
    found, elbo = loss(vae, Batch(images()), noise()), ELBO()(vae, Batch(images()), noise())
    torch.testing.assert_close(found.distortion + found.rate, elbo.loss)
    assert not torch.allclose(found.loss, elbo.loss)


def test_beta_weighs_the_rate_of_every_image():
    terms = BetaVAE(4.0)(bernoulli_vae(3), Batch(images()), noise())
    torch.testing.assert_close(terms.loss, terms.distortion + 4 * terms.rate)


def test_a_scheduled_beta_is_used_as_it_is_now():
    loss = BetaVAE(Linear(0.0, 1.0, 10))
    terms = loss(bernoulli_vae(3), Batch(images()), noise())
    torch.testing.assert_close(terms.loss, terms.distortion)
    loss.beta.set(0.5)
    terms = loss(bernoulli_vae(3), Batch(images()), noise())
    torch.testing.assert_close(terms.loss, terms.distortion + 0.5 * terms.rate)


def test_capacity_pulls_the_rate_from_both_sides():
    vae = bernoulli_vae(3)
    rates = ELBO()(vae, Batch(images()), noise()).rate
    middle = rates.median().item()
    terms = CapacityVAE(7.0, middle)(vae, Batch(images()), noise())
    by_hand = terms.distortion + torch.tensor([7.0 * abs(each.item() - middle) for each in rates])
    torch.testing.assert_close(terms.loss, by_hand)
    assert (rates < middle).any()
    assert (rates > middle).any()


def test_capacity_over_the_batch_holds_the_mean_rate():
    """γ |(1/B) Σ Rₙ − C|, charged to every image; not what the mean of the images' own penalties is."""
    vae = bernoulli_vae(3)
    rates = [each.item() for each in ELBO()(vae, Batch(images()), noise()).rate]
    middle = sorted(rates)[2]
    terms = CapacityVAE(7.0, middle, over="batch")(vae, Batch(images()), noise())
    by_hand = 7.0 * abs(sum(rates) / len(rates) - middle)
    torch.testing.assert_close(terms.loss - terms.distortion, torch.full((5,), by_hand))
    over_images = CapacityVAE(7.0, middle)(vae, Batch(images()), noise())
    assert (over_images.loss.mean() - terms.loss.mean()).item() > 0.1
    with pytest.raises(ValueError, match=r"loss\.over=epoch must be one of image, batch"):
        CapacityVAE(1.0, 0.0, over="epoch")


def test_free_bits_charge_each_unit_at_least_its_free_nats():
    """Five images, three units: averaged over images, then the larger of that and λ, then summed over units."""
    vae = bernoulli_vae(3)
    posterior = vae.encode(images())
    per_unit = [
        [
            kl_divergence(
                Normal(posterior.mean[image, unit], posterior.stddev[image, unit]), Normal(0.0, 1.0)
            ).item()
            for image in range(5)
        ]
        for unit in range(3)
    ]
    means = [sum(unit) / 5 for unit in per_unit]
    free = sorted(means)[1] + 1e-4  # two units are free, one is charged
    terms = FreeBits(free)(vae, Batch(images()), noise())
    torch.testing.assert_close(
        terms.loss - terms.distortion, torch.full((5,), sum(max(free, each) for each in means))
    )
    torch.testing.assert_close(terms.rate, torch.tensor([sum(unit[i] for unit in per_unit) for i in range(5)]))


def test_a_unit_below_its_free_nats_is_not_pushed():
    vae = bernoulli_vae(3)
    head = vae.encoder.posterior.mean_and_log_variance.bias
    terms = FreeBits(1e3)(vae, Batch(images()), noise())
    [charged] = torch.autograd.grad((terms.loss - terms.distortion).sum(), head, allow_unused=True)
    assert charged is None or not charged.any()
    terms = FreeBits(0.0)(vae, Batch(images()), noise())
    [charged] = torch.autograd.grad((terms.loss - terms.distortion).sum(), head)
    assert charged.abs().max() > 0.1


@pytest.mark.parametrize("make", [BetaVAE, lambda x: CapacityVAE(x, 0.0), lambda x: CapacityVAE(1.0, x), FreeBits])
@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), None])
def test_a_weight_out_of_range_is_refused(make, value):
    with pytest.raises(ValueError, match=r"loss\.\w+="):
        make(value)


def test_rates_of_the_units_add_up_to_the_rate():
    posterior = Independent(Normal(torch.randn(4, 3), torch.rand(4, 3) + 0.1), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    draws = posterior.sample((2,))
    per_unit = kl_per_dimension(posterior, prior, draws)
    assert per_unit.shape == (4, 3)
    torch.testing.assert_close(per_unit.sum(-1), kl(posterior, prior, draws))


def test_rates_without_a_closed_form_are_estimated_unit_by_unit():
    torch.manual_seed(0)
    posterior = Independent(StudentT(5.0, torch.tensor([[0.0, 1.0, 2.0]]), torch.ones(1, 3)), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    draws = posterior.sample((200_000,))
    places = torch.linspace(-60, 60, 400_001, dtype=torch.float64)
    for unit, found in enumerate(kl_per_dimension(posterior, prior, draws)[0]):
        q = StudentT(5.0, torch.tensor(float(unit), dtype=torch.float64), 1.0).log_prob(places)
        p = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0).log_prob(places)
        truth = torch.trapezoid(q.exp() * (q - p), places)
        assert found.item() == pytest.approx(truth.item(), rel=0.03, abs=0.01)


def test_a_posterior_whose_units_depend_on_one_another_has_no_rate_for_each():
    posterior = MultivariateNormal(torch.zeros(4, 3), torch.eye(3))
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    with pytest.raises(TypeError, match="MultivariateNormal over latents has no density for each unit"):
        kl_per_dimension(posterior, prior, torch.zeros(1, 4, 3))


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_held_distribution_is_the_same_density_without_gradients(kind):
    mean, scale = torch.randn(4, 3, requires_grad=True), (torch.rand(4, 3) + 0.1).requires_grad_()
    given = (
        Independent(Normal(mean, scale), 1)
        if kind == "diagonal"
        else MultivariateNormal(mean, scale_tril=scale.diag_embed())
    )
    value = torch.randn(4, 3, requires_grad=True)
    fixed = stop_gradient(given).log_prob(value)
    torch.testing.assert_close(fixed, given.log_prob(value))
    by_value, by_mean, by_scale = torch.autograd.grad(fixed.sum(), [value, mean, scale], allow_unused=True)
    assert by_mean is None
    assert by_scale is None
    torch.testing.assert_close(by_value, torch.autograd.grad(given.log_prob(value).sum(), value)[0])


def test_a_distribution_of_unknown_kind_cannot_be_held():
    with pytest.raises(TypeError, match="parameters of a StudentT cannot be held fixed"):
        stop_gradient(Independent(StudentT(3.0, torch.zeros(2, 3), torch.ones(3)), 1))
