"""MIG, SAP and DCI, on codes whose scores are known."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.disentanglement import (
    DisentanglementEvaluator,
    completeness,
    disentanglement,
    mutual_information_gap,
    separated_attribute_predictability,
)

COUNT = 2000


def factors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, size=(COUNT, 2))


def halves() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(COUNT // 2), np.arange(COUNT // 2, COUNT)


def test_units_that_are_the_factors_score_one():
    v = factors()
    assert mutual_information_gap(v.astype(float), v) == pytest.approx(1, abs=0.02)
    shuffled = v[:, ::-1].astype(float)
    assert mutual_information_gap(shuffled, v) == pytest.approx(1, abs=0.02)


def test_a_factor_known_to_two_units_alike_has_no_gap():
    v = factors()
    codes = np.concatenate([v, v], axis=1).astype(float)
    assert mutual_information_gap(codes, v) == pytest.approx(0, abs=1e-9)
    assert separated_attribute_predictability(codes, v, *halves()) == pytest.approx(0, abs=1e-9)


def test_the_gap_is_the_difference_of_informations_over_the_entropy():
    """A unit that tells a factor from its parity alone: I = log 2 of H = log 4 nats; the other tells all."""
    v = np.stack([np.arange(COUNT) % 4], axis=1)
    codes = np.stack([v[:, 0] % 2, v[:, 0]], axis=1).astype(float)
    assert mutual_information_gap(codes, v) == pytest.approx(0.5, abs=1e-6)
    assert mutual_information_gap(codes[:, :1], v) == pytest.approx(0.5, abs=1e-6)


def test_noise_carries_nothing():
    v = factors()
    codes = np.random.default_rng(1).normal(size=(COUNT, 3))
    assert mutual_information_gap(codes, v) < 0.02
    assert separated_attribute_predictability(codes, v, *halves()) < 0.05


def test_predictability_is_the_gap_between_the_two_best_units():
    """Of a binary factor one unit tells all, another is right for three quarters of the images."""
    v = (np.arange(COUNT) % 2)[:, None]
    wrong = np.random.default_rng(1).permutation(COUNT) < COUNT // 4
    codes = np.stack([v[:, 0], np.where(wrong, 1 - v[:, 0], v[:, 0])], axis=1).astype(float)
    train, test = halves()
    share = 1 - wrong[test].mean()
    assert separated_attribute_predictability(codes, v, train, test) == pytest.approx(1 - share, abs=1e-9)


def test_a_collapsed_unit_that_follows_the_factor_does_not_predict_it():
    """Codes are taken as they are: a unit whose means move by a thousandth says as good as nothing."""
    v = (np.arange(COUNT) % 3)[:, None]
    rng = np.random.default_rng(0)
    noise = rng.normal(size=COUNT)
    codes = np.stack([v[:, 0] + 0.01 * noise, 1e-3 * v[:, 0], noise], axis=1)
    assert separated_attribute_predictability(codes, v, *halves()) > 0.5


def test_a_unit_that_does_not_move_predicts_the_most_frequent_value():
    v = (np.arange(COUNT) % 3)[:, None]
    codes = np.stack([10.0 * v[:, 0], np.zeros(COUNT)], axis=1)
    best = separated_attribute_predictability(codes[:, :1], v, *halves())
    assert separated_attribute_predictability(codes, v, *halves()) == pytest.approx(best - 1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("importance", "by_unit", "by_factor"),
    [
        (np.eye(3), 1, 1),
        (np.ones((3, 3)), 0, 0),
        (np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]), 1, 0.5),
        (np.array([[1, 1.0], [0, 0]]), 0, 1),
        (np.zeros((2, 2)), 0, 0),
    ],
)
def test_importances_are_scored_as_by_hand(importance: np.ndarray, by_unit: float, by_factor: float):
    assert disentanglement(importance) == pytest.approx(by_unit, abs=1e-9)
    assert completeness(importance) == pytest.approx(by_factor, abs=1e-9)


@pytest.mark.quick(2)
@pytest.mark.parametrize("noise_units", [0, 5])
@pytest.mark.parametrize("sizes", [[2, 3, 4], [10, 10, 10], [3, 6, 40, 32, 32]], ids=str)
def test_dci_of_a_code_that_is_the_factors_is_one(sizes: list[int], noise_units: int):
    """By Eastwood & Williams 2018, section 2: a permutation as importances, so that every entropy is 0."""
    rng = np.random.default_rng(0)
    v = torch.from_numpy(np.stack([rng.integers(0, size, COUNT) for size in sizes], axis=1))
    noise = torch.from_numpy(rng.normal(size=(COUNT, noise_units)))
    model = Model()
    model.encode = lambda images, labels: Independent(Normal(images.flatten(1).double(), 0.1), 1)
    pixels = torch.cat([v.double(), noise], dim=1)[:, None, None, :]
    images = ImageSet(pixels, None, 1, factors=v)
    result = dict(DisentanglementEvaluator(None, COUNT, None).run(model, images, torch.Generator().manual_seed(0)))
    assert result["dci_disentanglement"] == pytest.approx(1, abs=1e-3)
    assert result["dci_completeness"] == pytest.approx(1, abs=1e-3)
    assert result["dci_informativeness"] == pytest.approx(1, abs=2e-3)


def reading_all(images: torch.Tensor, labels: None) -> Independent:
    """A unit for each pixel."""
    return Independent(Normal(images.flatten(1).double(), 0.1), 1)


def test_factors_known_to_two_units_each_are_disentangled_and_not_complete():
    """Units 0 and 1 have one bit each of the first factor, units 2 and 3 of the second."""
    v = torch.from_numpy(factors())
    bits = torch.stack([v[:, 0] % 2, v[:, 0] // 2, v[:, 1] % 2, v[:, 1] // 2], dim=1)
    model = Model()
    model.encode = reading_all
    images = ImageSet(bits.double().reshape(COUNT, 1, 2, 2), None, 1, factors=v)
    result = dict(DisentanglementEvaluator(None, COUNT, None).run(model, images, torch.Generator().manual_seed(0)))
    assert result["dci_disentanglement"] == pytest.approx(1, abs=0.02)
    assert result["dci_completeness"] == pytest.approx(0.5, abs=0.02)  # two of four units alike: 1 − log 2 / log 4


def test_codes_of_noise_inform_of_nothing():
    """The accuracy is that of images which no forest has seen."""
    v = torch.from_numpy(factors())
    model = Model()
    model.encode = reading_all
    images = ImageSet(torch.rand(COUNT, 1, 2, 2, generator=torch.Generator().manual_seed(0)), None, 1, factors=v)
    result = dict(DisentanglementEvaluator(None, COUNT, None).run(model, images, torch.Generator().manual_seed(0)))
    assert result["dci_informativeness"] == pytest.approx(0.25, abs=0.06)


def test_units_count_by_their_share_of_importance():
    """A unit of weight 3 for one factor alone, one of weight 1 for two alike: ¾ · 1 + ¼ · 0."""
    assert disentanglement(np.array([[3.0, 0.0], [0.5, 0.5]])) == pytest.approx(0.75)


class Reads(nn.Module):
    """An encoder that reads two factors off the first two pixels."""

    def forward(self, images: torch.Tensor) -> Independent:
        return Independent(Normal(images.flatten(1)[:, :2], 0.1), 1)


class Model(nn.Module):
    def encode(self, images: torch.Tensor, labels: None) -> Independent:
        return Reads()(images)


def image_set(with_factors: bool = True, constant: bool = False) -> ImageSet:
    v = torch.from_numpy(factors())
    if constant:
        v = torch.zeros_like(v)
    pixels = torch.cat([v / 4, torch.rand(COUNT, 2)], dim=1).float().reshape(COUNT, 1, 2, 2)
    return ImageSet(pixels, None, 1, factors=v if with_factors else None)


def test_a_model_that_reads_the_factors_scores_high_on_all():
    result = dict(
        DisentanglementEvaluator(1000, 300, None).run(Model(), image_set(), torch.Generator().manual_seed(0))
    )
    assert set(result) == {"mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"}
    assert result["mig"] > 0.95
    assert result["sap"] > 0.15
    assert min(result["dci_disentanglement"], result["dci_completeness"], result["dci_informativeness"]) > 0.9


def test_of_constant_factors_nothing_is_measured(caplog):
    images = image_set(constant=True)
    with caplog.at_level(logging.WARNING):
        assert not list(DisentanglementEvaluator(None, 300, None).run(Model(), images, torch.Generator()))
    assert "every factor has a single value" in caplog.text


def test_images_in_file_order_are_scored_on_all_of_their_factors(caplog: pytest.LogCaptureFixture):
    """Like dSprites: the first third of the images has one shape, which no unit of this code knows."""
    v = torch.cartesian_prod(torch.arange(3), torch.arange(10), torch.arange(9))
    pixels = (v / v.amax(dim=0)).reshape(-1, 1, 1, 3)
    model = Model()
    model.encode = lambda images, labels: Independent(Normal(images.flatten(1)[:, 1:], 0.1), 1)
    evaluator = DisentanglementEvaluator(90, 300, None)
    images = ImageSet(pixels, None, 1, factors=v)
    result = dict(evaluator.run(model, images, torch.Generator().manual_seed(0)))
    assert result["mig"] < 0.75  # the mean of about 0, 1 and 1
    assert not caplog.text
    constant = torch.cat([torch.zeros(len(v), 1, dtype=torch.int64), v], dim=1)
    list(evaluator.run(model, ImageSet(pixels, None, 1, factors=constant), torch.Generator().manual_seed(0)))
    assert "factors 0 have a single value in the 90 images scored and are left out" in caplog.text


def test_data_without_factors_are_refused_before_training():
    evaluator = DisentanglementEvaluator(None, 300, None)
    evaluator.check(Model(), image_set())
    with pytest.raises(UserError, match=r"evaluator=disentanglement needs factors, and the data have none"):
        evaluator.check(Model(), image_set(with_factors=False))
    with pytest.raises(UserError, match=r"evaluator=disentanglement needs at least 4 images and would have 3"):
        evaluator.check(Model(), image_set().take(3))
