"""Importance-weighted bounds and their gradients, against quadrature over one latent."""

import math

import pytest
import torch

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae
from tests.objective.models import (
    IMAGE,
    expected_bound,
    gradient,
    log_evidence_of_image,
    one_latent_vae,
    sampled_gradient,
)
from vae_exp.data.images import Batch
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import VampPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE, STL, DReG, log_weights


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(9)).round()


def noise(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", [IWAE(7), DReG(7), STL(7), MIWAE(1, 7), PIWAE(1, 7), CIWAE(7, 0.0)])
def test_the_loss_is_minus_the_log_of_the_mean_weight(loss):
    """From the log weights of seven draws for each of four images, summed over the draws by hand."""
    vae = bernoulli_vae(2)
    weights = log_weights(vae, Batch(images()), 7, noise()).double().exp()
    expected = torch.tensor([-math.log(sum(weights[k, b].item() for k in range(7)) / 7) for b in range(4)])
    torch.testing.assert_close(loss(vae, Batch(images()), noise()).loss, expected, rtol=1e-5, atol=1e-5)


def test_several_bounds_are_averaged_over_the_right_axis():
    """Three bounds of five draws each: another number than five of three, and than one of fifteen."""
    vae = bernoulli_vae(2)
    flat = log_weights(vae, Batch(images()), 15, noise()).double()  # the same draws, in the same order
    by_hand = torch.zeros(4, dtype=torch.float64)
    for bound in range(3):
        draws = [flat[k * 3 + bound] for k in range(5)]
        by_hand -= torch.log(sum(each.exp() for each in draws) / 5) / 3
    torch.testing.assert_close(
        MIWAE(3, 5)(vae, Batch(images()), noise()).loss.double(), by_hand, rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(MIWAE(5, 3)(vae, Batch(images()), noise()).loss.double(), by_hand, rtol=1e-3)


@pytest.mark.parametrize("loss", [IWAE(6), DReG(6), STL(6), MIWAE(2, 3), PIWAE(2, 3), CIWAE(6, 0.3)])
def test_distortion_and_rate_are_those_of_the_elbo_whatever_is_minimised(loss):
    vae = bernoulli_vae(2)
    found, elbo = loss(vae, Batch(images()), noise()), ELBO(6)(vae, Batch(images()), noise())
    torch.testing.assert_close(found.distortion, elbo.distortion)
    torch.testing.assert_close(found.rate, elbo.rate)


@pytest.mark.parametrize("loss", [IWAE(3), DReG(3), MIWAE(2, 3), PIWAE(2, 3)])
def test_one_sample_of_each_is_the_elbo_on_that_draw(loss):
    vae = bernoulli_vae(2)
    one = type(loss)(
        **{**vars(loss), "num_samples": 1, **({"num_bounds": 1} if "num_bounds" in vars(loss) else {})}
    )
    torch.testing.assert_close(
        one(vae, Batch(images()), noise()).loss, -log_weights(vae, Batch(images()), 1, noise())[0]
    )


def test_beta_leads_from_the_bound_to_the_elbo():
    vae = bernoulli_vae(2)
    drawn = log_weights(vae, Batch(images()), 5, noise())
    torch.testing.assert_close(CIWAE(5, 1.0)(vae, Batch(images()), noise()).loss, -drawn.mean(0))
    between = 0.25 * -drawn.mean(0) + 0.75 * IWAE(5)(vae, Batch(images()), noise()).loss
    torch.testing.assert_close(CIWAE(5, 0.25)(vae, Batch(images()), noise()).loss, between)


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_the_mean_weight_is_an_unbiased_estimate_of_the_likelihood(num_samples):
    vae = one_latent_vae()
    losses = IWAE(num_samples)(vae, Batch(IMAGE.expand(200_000, *SHAPE)), noise()).loss.detach()
    ratios = torch.exp(-losses - log_evidence_of_image(vae).detach())
    assert abs(ratios.mean() - 1) < 4.5 * ratios.std() / len(ratios) ** 0.5
    assert ratios.std() > 0.01


@pytest.mark.parametrize("num_samples", [1, 2])
def test_the_expected_bound_is_that_of_quadrature(num_samples):
    vae = one_latent_vae()
    losses = IWAE(num_samples)(vae, Batch(IMAGE.expand(200_000, *SHAPE)), noise()).loss.detach()
    error = losses.std() / len(losses) ** 0.5
    assert abs(-losses.mean() - expected_bound(vae, num_samples).detach()) < 4.5 * error


@pytest.mark.slow
def test_more_samples_make_the_bound_tighter():
    vae = one_latent_vae()
    bounds = [
        -IWAE(k)(vae, Batch(IMAGE.expand(100_000, *SHAPE)), noise()).loss.mean().item() for k in (1, 2, 8, 64)
    ]
    truth = log_evidence_of_image(vae).item()
    assert bounds == sorted(bounds)
    assert bounds[-1] < truth + 1e-3
    assert truth - bounds[-1] < 0.1 * (truth - bounds[0])


@pytest.mark.parametrize(
    ("loss", "num_samples"),
    [(IWAE(2), 2), (DReG(2), 2), (MIWAE(3, 2), 2), (PIWAE(3, 2), 2), (STL(1), 1), (DReG(1), 1)],
)
def test_the_encoders_gradient_is_that_of_the_expected_bound(loss, num_samples):
    vae = one_latent_vae()
    truth = -gradient(expected_bound(vae, num_samples), vae.encoder)
    assert sampled_gradient(loss, vae, vae.encoder).agrees_with(truth)


@pytest.mark.parametrize(
    ("loss", "num_samples"),
    [(IWAE(2), 2), (DReG(2), 2), (MIWAE(3, 2), 2), (PIWAE(1, 2), 2), (STL(1), 1), (STL(2), 2)],
)
def test_the_decoders_gradient_is_that_of_the_expected_bound(loss, num_samples):
    vae = one_latent_vae()
    truth = -gradient(expected_bound(vae, num_samples), vae.decoder)
    assert sampled_gradient(loss, vae, vae.decoder).agrees_with(truth)


def test_sticking_the_landing_is_biased_for_more_than_one_sample():
    """As Tucker et al. say; a test that cannot see this would not see a wrong DReG either."""
    vae = one_latent_vae()
    truth = -gradient(expected_bound(vae, 2), vae.encoder)
    assert not sampled_gradient(STL(2), vae, vae.encoder).agrees_with(truth)


def test_piwae_trains_the_decoder_on_all_draws_and_the_encoder_on_each_bound():
    """Decoder: the very gradient of IWAE on the six draws. Encoder: the very gradient of MIWAE."""
    vae = one_latent_vae()
    batch = IMAGE.expand(5, *SHAPE)
    found = PIWAE(3, 2)(vae, Batch(batch), noise()).loss.sum()
    torch.testing.assert_close(
        gradient_of(found, vae.decoder), gradient(IWAE(6)(vae, Batch(batch), noise()).loss.sum(), vae.decoder)
    )
    torch.testing.assert_close(
        gradient_of(found, vae.encoder), gradient(MIWAE(3, 2)(vae, Batch(batch), noise()).loss.sum(), vae.encoder)
    )
    assert all(each.requires_grad for each in vae.parameters())


def gradient_of(value: torch.Tensor, module: torch.nn.Module) -> torch.Tensor:
    found = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
    return torch.cat([each.flatten() for each in found])


def test_the_doubly_reparameterised_gradient_is_the_papers_formula():
    """Equation 8 written out with autograd for single draws: Σₖ w̃ₖ² (∂ log wₖ/∂zₖ) (∂zₖ/∂φ)."""
    vae = one_latent_vae()
    loss = DReG(3)(vae, Batch(IMAGE), noise()).loss.sum()
    found = gradient(loss, vae.encoder)
    drawn = torch.randn(3, 1, 1, generator=noise(), dtype=torch.float64).flatten()
    mean, scale = vae.encoder.mean.detach(), vae.encoder.log_scale.exp().detach()
    latents = (mean + scale * drawn).requires_grad_()
    logits = latents.unsqueeze(-1) * vae.decoder.weight + vae.decoder.bias
    log_weight = (
        (IMAGE.flatten() * logits - torch.nn.functional.softplus(logits)).sum(-1)
        + torch.distributions.Normal(0.0, 1.0).log_prob(latents)
        - torch.distributions.Normal(mean, scale).log_prob(latents)
    )
    shares = log_weight.detach().softmax(0)
    by_latents = torch.autograd.grad(log_weight.sum(), latents)[0]
    by_mean = -(shares**2 * by_latents).sum()
    by_log_scale = -(shares**2 * by_latents * scale * drawn).sum()
    torch.testing.assert_close(found, torch.stack([by_mean, by_log_scale]))


@pytest.mark.parametrize("loss", [STL(1), STL(4), DReG(4)])
def test_at_the_exact_posterior_the_encoders_gradient_is_zero_for_every_draw(loss, generator):
    vae = linear_gaussian_vae(1, generator, widening=1.0)
    batch = torch.randn(5, *SHAPE, generator=generator)
    exact = vae.encode(batch)
    vae.encoder = torch.nn.Module()
    vae.encoder.mean = torch.nn.Parameter(exact.mean.detach())
    vae.encoder.scale = torch.nn.Parameter(exact.stddev.detach())
    vae.encoder.forward = lambda images: torch.distributions.Independent(
        torch.distributions.Normal(vae.encoder.mean, vae.encoder.scale), 1
    )
    assert gradient(loss(vae, Batch(batch), noise()).loss.sum(), vae.encoder).abs().max() < 1e-3
    assert gradient(IWAE(4)(vae, Batch(batch), noise()).loss.sum(), vae.encoder).abs().max() > 0.1


@pytest.mark.parametrize(
    "make", [IWAE, DReG, STL, lambda k: MIWAE(2, k), lambda k: MIWAE(k, 2), lambda k: PIWAE(k, 2)]
)
@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_no_number_of_draws_is_refused(make, count):
    with pytest.raises(ValueError, match=r"loss\.num_\w+=.* must be a whole number of at least 1"):
        make(count)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_a_beta_outside_its_range_is_refused(beta):
    with pytest.raises(ValueError, match=r"loss\.beta="):
        CIWAE(3, beta)


def test_piwae_of_one_bound_is_iwae_for_a_prior_that_shares_the_encoder_too():
    """The VampPrior's part of the encoder belongs to the prior, and has the gradient of all draws."""
    torch.manual_seed(0)
    vae = VAE(MLPEncoder(SHAPE, 2, [5], "tanh"), MLPDecoder(SHAPE, 2, [5], "tanh"), VampPrior(list(SHAPE), 3))
    batch = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1)).round()
    names = [name for name, _ in vae.named_parameters()]
    gradients = []
    for loss in (PIWAE(1, 7), IWAE(7)):
        total = loss(vae, Batch(batch), torch.Generator().manual_seed(2)).loss.sum()
        gradients.append(torch.autograd.grad(total, list(vae.parameters())))
    for name, one, other in zip(names, *gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
