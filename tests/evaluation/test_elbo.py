from math import log, pi, prod, sqrt

import pytest
import torch

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae, noise
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.elbo import ELBOEvaluator


@pytest.fixture
def images(generator):
    return ImageSet(torch.randint(0, 256, (23, *SHAPE), generator=generator, dtype=torch.uint8), None, 255)


def evaluate(vae, images, **options):
    options = {"num_samples": 5, "batch_size": 10, "every_n_epochs": None} | options
    return dict(ELBOEvaluator(**options).run(vae, images, torch.Generator().manual_seed(0)))


def test_a_short_last_batch_counts_by_its_images(images):
    vae = bernoulli_vae(2)
    metrics = evaluate(vae, images, num_samples=1)
    posterior = vae.encode(images.batch().images)
    prior = torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(posterior.base_dist, prior).sum(1).mean().item()
    assert metrics["rate"] == pytest.approx(kl, rel=1e-5)
    from_mean = -vae.decode(posterior.mean).log_prob(images.batch().images).mean().item()
    assert metrics["reconstruction_from_mean"] == pytest.approx(from_mean, rel=1e-5)


def test_rate_and_distortion_are_the_closed_forms_of_a_linear_gaussian_model(images):
    """E_q[‖x − Wz − b‖²] = ‖x − Wμ − b‖² + Σⱼ sⱼ² ‖Wⱼ‖²."""
    vae = linear_gaussian_vae(2, noise())
    metrics = evaluate(vae, images, num_samples=2000)
    batch, decoder = images.batch().images, vae.decoder
    posterior, size = vae.encode(batch), decoder.bias.numel()
    errors = (batch.flatten(1) - posterior.mean @ decoder.weight.T - decoder.bias).square().sum(1)
    errors = errors + posterior.variance @ decoder.weight.square().sum(0)
    truth = errors / (2 * decoder.sigma**2) + size * log(decoder.sigma * sqrt(2 * pi))
    assert metrics["distortion"] == pytest.approx(truth.mean().item(), rel=2e-3)
    rate = 0.5 * (posterior.mean.square() + posterior.variance - posterior.variance.log() - 1).sum(1)
    assert metrics["rate"] == pytest.approx(rate.mean().item(), rel=1e-5)
    assert metrics["negative_elbo"] == pytest.approx((truth + rate).mean().item(), rel=2e-3)
    assert metrics["elbo"] == -metrics["negative_elbo"]


def test_the_batch_size_changes_nothing_but_the_draws(images):
    vae = bernoulli_vae(2)
    small, large = evaluate(vae, images, batch_size=4), evaluate(vae, images, batch_size=23)
    assert small["rate"] == pytest.approx(large["rate"], rel=1e-6)
    assert small["distortion"] == pytest.approx(large["distortion"], rel=0.05)


def test_bits_need_a_probability_of_every_image():
    pixels = torch.zeros(600, *SHAPE, dtype=torch.uint8)
    binary = ImageSet(pixels, None, 255)
    nats = evaluate(bernoulli_vae(2), binary, bits="auto")
    assert nats["negative_elbo_bits_per_dim"] == pytest.approx(nats["negative_elbo"] / log(2) / prod(SHAPE))
    grey = ImageSet(torch.where(torch.arange(600).view(-1, 1, 1, 1) < 599, pixels, 100), None, 255)
    assert "negative_elbo_bits_per_dim" not in evaluate(bernoulli_vae(2), grey, bits="auto")
    with pytest.raises(UserError, match=r"evaluator.elbo.bits=true is not possible.*grey values"):
        ELBOEvaluator(1, 10, None, True).check(bernoulli_vae(2), grey)


def test_bits_are_checked_of_an_encoder_that_normalises_batches():
    vae = bernoulli_vae(2)
    vae.encoder.hidden.append(torch.nn.BatchNorm1d(5))
    binary = ImageSet(torch.zeros(9, *SHAPE, dtype=torch.uint8), None, 255)
    ELBOEvaluator(1, 10, None, True).check(vae.train(), binary)
    assert vae.training
