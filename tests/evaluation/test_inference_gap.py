"""Approximation and amortisation gap, against models whose best posterior is known."""

import pytest
import torch

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae, noise
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.inference_gap import InferenceGapEvaluator
from vae_exp.evaluation.quadrature import QuadratureEvaluator
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE


def gaps_of(vae, images: ImageSet, **options) -> dict[str, float]:
    settings = {
        "num_images": None,
        "num_steps": 400,
        "learning_rate": 0.05,
        "num_importance_samples": 4000,
        "every_n_epochs": None,
    }
    with torch.no_grad():
        return dict(InferenceGapEvaluator(**settings | options).run(vae, images, noise()))


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(torch.rand(6, *SHAPE, generator=noise(3)), None, 1)


def test_where_the_family_holds_the_true_posterior_all_of_the_gap_is_the_encoders():
    """One unit of a linear-Gaussian model: the true posterior is Gaussian, the encoder's is twice as wide."""
    images = ImageSet(torch.rand(120, *SHAPE, generator=noise(3)), None, 1)  # more than are fitted at once
    vae = linear_gaussian_vae(1, noise(), widening=2.0)
    gaps = gaps_of(vae, images)
    exact = dict(QuadratureEvaluator(801, 8.0, None, None).run(vae, images, noise()))["posterior_kl"]
    assert gaps["inference_gap"] == pytest.approx(exact, abs=0.03)
    assert gaps["approximation_gap"] == pytest.approx(0, abs=0.01)
    assert gaps["amortization_gap"] == pytest.approx(exact, abs=0.03)


def test_the_gaps_add_up_to_the_divergence_of_quadrature(images: ImageSet):
    vae = bernoulli_vae(2)
    gaps = gaps_of(vae, images)
    exact = dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, images, noise()))["posterior_kl"]
    assert gaps["inference_gap"] == pytest.approx(exact, abs=0.05)
    assert gaps["inference_gap"] == pytest.approx(gaps["approximation_gap"] + gaps["amortization_gap"])
    assert gaps["approximation_gap"] > -0.02
    assert gaps["amortization_gap"] > 0.05


def test_where_the_encoder_has_the_true_posterior_there_is_no_gap(images: ImageSet):
    """No maximum of two estimates, which would be above the truth."""
    gaps = gaps_of(linear_gaussian_vae(1, noise(), widening=1.0), images, num_steps=200)
    assert gaps["inference_gap"] == pytest.approx(0, abs=2e-3)
    assert gaps["amortization_gap"] == pytest.approx(0, abs=5e-3)


@pytest.mark.parametrize("posterior", ["full_covariance", "flow"])
def test_posteriors_of_another_family_are_refused(images: ImageSet, posterior: str):
    torch.manual_seed(0)
    encoder = MLPEncoder(SHAPE, 2, [5], "tanh", posterior)
    vae = VAE(encoder, MLPDecoder(SHAPE, 2, [5], "tanh"), StandardNormalPrior(2))
    with pytest.raises(UserError, match="compares with the best diagonal Gaussian"):
        InferenceGapEvaluator(None, 1, 0.1, 1, None).check(vae, images)


def test_the_model_is_left_as_it_was(images: ImageSet):
    vae = bernoulli_vae(2)
    before = [each.clone() for each in vae.parameters()]
    gaps_of(vae, images, num_steps=3, num_importance_samples=5)
    assert all(torch.equal(one, other) for one, other in zip(before, vae.parameters(), strict=True))
    assert all(each.requires_grad and each.grad is None for each in vae.parameters())


@pytest.mark.parametrize(("requested", "used"), [(None, 6), (4, 4)])
def test_it_says_how_many_images_it_used(images: ImageSet, requested: int | None, used: int):
    vae = linear_gaussian_vae(1, noise(), widening=1.0)
    assert gaps_of(vae, images, num_images=requested, num_steps=2, num_importance_samples=5)["gaps_images"] == used


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="learning_rate=0"):
        InferenceGapEvaluator(None, 1, 0, 1, None)
