import math

import pytest
import torch
import torch.nn.functional as F

from tests.builders import SHAPE, bernoulli_vae
from vae_exp.data.images import Batch
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO


def test_terms_are_per_example_and_add_up(generator):
    terms = ELBO()(bernoulli_vae(3), Batch(torch.rand(5, *SHAPE, generator=generator)), generator)
    assert terms.loss.shape == terms.distortion.shape == terms.rate.shape == (5,)
    torch.testing.assert_close(terms.loss, terms.distortion + terms.rate)


def test_the_loss_is_the_papers_formula():
    """Kingma & Welling 2014, appendix B, written out: BCE summed over pixels, KL summed over units."""
    vae = bernoulli_vae(3)
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    terms = ELBO()(vae, Batch(images), torch.Generator().manual_seed(2))
    mean, log_variance = vae.encoder.posterior.mean_and_log_variance(vae.encoder.hidden(images.flatten(1))).chunk(
        2, dim=1
    )
    noise = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(2))[0]
    latents = mean + noise * torch.exp(0.5 * log_variance)
    probabilities = torch.sigmoid(vae.decoder.output(vae.decoder.hidden(latents)))
    cross_entropy = F.binary_cross_entropy(probabilities, images.flatten(1), reduction="none").sum(1)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    torch.testing.assert_close(terms.distortion, cross_entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.rate, kl, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 28, 28), (3, 16, 16)])
def test_the_kl_sums_over_units_whatever_the_image_size(shape, generator):
    vae = VAE(MLPEncoder(shape, 3, [5], "tanh"), MLPDecoder(shape, 3, [5], "tanh"), StandardNormalPrior(3))
    head = vae.encoder.posterior.mean_and_log_variance
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    terms = ELBO()(vae, Batch(torch.rand(4, *shape, generator=generator)), generator)
    torch.testing.assert_close(terms.rate, torch.full((4,), 1.5))
    per_pixel = terms.distortion / math.prod(shape)
    assert ((per_pixel > 0.3) & (per_pixel < 1.5)).all()  # about log 2 a pixel: a sum over pixels, not a mean


@pytest.mark.slow
def test_many_samples_lower_the_spread_and_keep_the_mean(generator):
    vae = bernoulli_vae(2)
    image = torch.rand(1, *SHAPE, generator=generator).round()
    single = torch.stack([ELBO(1)(vae, Batch(image), generator).loss for _ in range(2000)])
    many = torch.stack([ELBO(16)(vae, Batch(image), generator).loss for _ in range(500)])
    assert many.std() < single.std() / 3
    assert many.mean().item() == pytest.approx(single.mean().item(), abs=4 * single.std().item() / 2000**0.5)


def test_the_bound_is_below_the_true_likelihood(generator):
    from tests.builders import linear_gaussian_vae

    vae = linear_gaussian_vae(2, generator)
    images = torch.randn(8, *SHAPE, generator=generator)
    elbo = -ELBO(4000)(vae, Batch(images), generator).loss
    truth = vae.decoder.log_evidence(images)
    assert (elbo < truth).all()
    gap = torch.distributions.kl_divergence(  # log p(x) − ELBO = KL(q(z|x) ‖ p(z|x)), both Gaussian
        torch.distributions.MultivariateNormal(vae.encode(images).mean, vae.encode(images).variance.diag_embed()),
        exact_posterior(vae, images),
    )
    torch.testing.assert_close(truth - elbo, gap, rtol=0, atol=0.15)


def exact_posterior(vae: VAE, images: torch.Tensor) -> torch.distributions.MultivariateNormal:
    decoder = vae.decoder
    precision = torch.eye(decoder.weight.shape[1]) + decoder.weight.T @ decoder.weight / decoder.sigma**2
    mean = (images.flatten(1) - decoder.bias) @ decoder.weight / decoder.sigma**2 @ torch.linalg.inv(precision)
    return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)


def test_gradients_agree_with_finite_differences(generator):
    vae = bernoulli_vae(2).double()
    images = torch.rand(3, *SHAPE, generator=generator).double()
    parameter = vae.encoder.posterior.mean_and_log_variance.bias

    def loss() -> torch.Tensor:
        return ELBO()(vae, Batch(images), torch.Generator().manual_seed(8)).loss.sum()

    loss().backward()
    for index in range(len(parameter)):
        step = 1e-6
        with torch.no_grad():
            parameter[index] += step
            above = loss()
            parameter[index] -= 2 * step
            below = loss()
            parameter[index] += step
        assert parameter.grad[index].item() == pytest.approx(((above - below) / (2 * step)).item(), rel=1e-5)


def test_no_sample_is_no_estimate():
    with pytest.raises(ValueError, match=r"loss.num_samples=0"):
        ELBO(0)
