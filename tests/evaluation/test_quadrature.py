"""Exact evidence and posterior, against a model with both in closed form."""

import logging

import pytest
import torch
from matplotlib.figure import Figure

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae, noise
from tests.model.test_conditional import conditional_vae, labelled
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.quadrature import QuadratureEvaluator
from vae_exp.objective.elbo import ELBO


@pytest.fixture
def images() -> ImageSet:
    return ImageSet(torch.rand(9, *SHAPE, generator=noise(3)), None, 1)


@pytest.mark.parametrize("units", [1, 2])
def test_the_evidence_is_the_closed_form(units: int):
    images = ImageSet(torch.rand(130, *SHAPE, generator=noise(3)), None, 1)  # more than are integrated at once
    vae = linear_gaussian_vae(units, noise())
    result = dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, images, noise()))
    truth = -vae.decoder.log_evidence(images.batch().images).mean().item()
    assert result["quadrature_nll"] == pytest.approx(truth, abs=1e-4)
    assert isinstance(result["posteriors"], Figure)


@pytest.mark.parametrize("units", [1, 2])
def test_the_bound_is_that_of_many_draws_and_are_above_by_the_divergence(images: ImageSet, units: int):
    vae = bernoulli_vae(units)
    result = dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, images, noise()))
    with torch.no_grad():
        drawn = torch.stack([ELBO(2000)(vae, images.batch(), noise(seed)).loss.mean() for seed in range(10)])
    assert result["quadrature_negative_elbo"] == pytest.approx(
        drawn.mean().item(), abs=5 * drawn.std().item() / 10**0.5
    )
    assert result["posterior_kl"] > 0
    assert result["posterior_kl"] == pytest.approx(result["quadrature_negative_elbo"] - result["quadrature_nll"])


def test_a_part_of_the_split_is_a_random_subset(images: ImageSet):
    vae = linear_gaussian_vae(1, noise())
    result = dict(QuadratureEvaluator(401, 8.0, 4, None).run(vae, images, noise()))
    truth = -vae.decoder.log_evidence(images.random_subset(4).batch().images).mean().item()
    assert result["quadrature_nll"] == pytest.approx(truth, abs=1e-4)


def test_a_grid_that_misses_something_is_reported(images: ImageSet, caplog):
    with caplog.at_level(logging.WARNING):
        list(QuadratureEvaluator(401, 1.0, None, None).run(linear_gaussian_vae(1, noise()), images, noise()))
    assert "the grid misses" in caplog.text


def test_a_negative_estimate_of_the_divergence_is_skipped_with_the_remedy(images: ImageSet, caplog):
    with caplog.at_level(logging.WARNING):
        result = dict(
            QuadratureEvaluator(401, 0.01, None, None).run(linear_gaussian_vae(1, noise()), images, noise())
        )
    assert set(result) == {"quadrature_nll", "quadrature_negative_elbo", "quadrature_images", "posteriors"}
    assert "the estimate of posterior_kl is negative (-" in caplog.text
    assert "Raise evaluator.quadrature.extent" in caplog.text


def test_it_says_how_many_images_it_used(images: ImageSet):
    vae = linear_gaussian_vae(1, noise())
    for requested, used in ((None, 9), (4, 4)):
        result = dict(QuadratureEvaluator(11, 8.0, requested, None).run(vae, images, noise()))
        assert result["quadrature_images"] == used


def test_more_units_than_can_be_integrated_over_are_refused(images: ImageSet):
    with pytest.raises(UserError, match="at most 2 latent units; the model has 3"):
        QuadratureEvaluator(11, 6.0, None, None).check(bernoulli_vae(3), images)


@pytest.mark.parametrize(
    ("points", "extent", "message"),
    [(2, 6.0, "points_per_axis=2"), (5, 0.0, "extent=0.0"), (5, float("inf"), "extent=inf")],
)
def test_a_grid_without_extent_is_refused(points: int, extent: float, message: str):
    with pytest.raises(ValueError, match=message):
        QuadratureEvaluator(points, extent, None, None)


def test_a_class_conditional_model_is_integrated_for_the_class_of_each_image():
    vae = conditional_vae(1).eval()
    images = labelled(5)
    result = dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, images, noise()))
    alone = []
    for index in range(5):
        one = images.subset(torch.tensor([index]))
        alone.append(dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, one, noise()))["quadrature_nll"])
    assert result["quadrature_nll"] == pytest.approx(sum(alone) / 5, rel=1e-5)
    other = ImageSet(images.pixels, (images.labels + 1) % 4, 255)
    assert dict(QuadratureEvaluator(401, 8.0, None, None).run(vae, other, noise())) != result


def test_a_grid_too_coarse_for_a_true_posterior_is_reported(images: ImageSet, caplog):
    vae = linear_gaussian_vae(1, noise())
    vae.decoder.sigma = 0.004
    with caplog.at_level(logging.WARNING):
        list(QuadratureEvaluator(201, 8.0, None, None).run(vae, images, noise()))
    assert "of a true posterior lie in a single cell of the grid" in caplog.text
