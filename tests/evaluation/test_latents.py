"""Evaluators of the codes: units, aggregate posterior, probes."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.active_units import UnitsEvaluator
from vae_exp.evaluation.aggregate_posterior import AggregateEvaluator
from vae_exp.evaluation.linear_probe import ProbeEvaluator
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE


class GivenPosterior(nn.Module):
    """q(z|x) = N(means[i], scales²) for the image whose only pixel is i."""

    def __init__(self, means: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        self.means, self.scales = means, scales

    def forward(self, images: torch.Tensor) -> Independent:
        mean = self.means[(images.flatten() * 255).round().long()]
        return Independent(Normal(mean, self.scales.expand_as(mean)), 1)


def given(means: torch.Tensor, scales: torch.Tensor) -> VAE:
    units = means.shape[1]
    return VAE(GivenPosterior(means, scales), MLPDecoder((1, 1, 1), units, [], "tanh"), StandardNormalPrior(units))


def numbered(count: int, labels: torch.Tensor | None = None) -> ImageSet:
    return ImageSet(torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1), labels, 255)


def values(evaluator, vae: VAE, images: ImageSet) -> dict:
    return dict(evaluator.run(vae, images, torch.Generator().manual_seed(0)))


def test_a_unit_is_active_if_its_mean_moves_more_than_the_threshold():
    """Three units whose means have variances of 1, 0.0099 and 0 over 50 images; two carry a rate all the same."""
    base = torch.linspace(-1, 1, 50)
    base = base / base.std(correction=0)
    means = torch.stack([base, 0.0995 * base, torch.full((50,), 3.0)], dim=1)
    scales = torch.tensor([0.5, 1.0, 1.0])
    result = values(UnitsEvaluator(0.01, batch_size=7, every_n_epochs=None), given(means, scales), numbered(50))
    assert result["active_units"] == 1
    first = (0.5 * (base**2 + 0.25 - 1) - math.log(0.5)).mean().item()
    assert result["active_rate"] == pytest.approx(first, rel=1e-5)
    assert len(result["unit_rates"]) == 3
    assert result["unit_rates"][0] == pytest.approx(first, rel=1e-5)
    assert result["unit_rates"][2] == pytest.approx(4.5, rel=1e-5)  # N(3, 1) against N(0, 1)
    lower = values(UnitsEvaluator(0.0098, 7, None), given(means, scales), numbered(50))
    assert lower["active_units"] == 2


def test_the_figure_shows_every_unit_by_its_number():
    means = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    figure = values(UnitsEvaluator(0.01, 10, None), given(means, torch.ones(6)), numbered(20))["units"]
    above, below = figure.axes
    assert len(above.patches) == 6
    assert sorted(label.get_text() for label in below.get_xticklabels()) == ["z1", "z2", "z3", "z4", "z5", "z6"]
    heights = [bar.get_height() for bar in above.patches]
    assert heights == sorted(heights, reverse=True)
    [points] = below.collections
    for label, (_, variance) in zip(below.get_xticklabels(), points.get_offsets(), strict=True):
        assert variance == pytest.approx(means[:, int(label.get_text()[1:]) - 1].double().numpy().var())


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_the_two_parts_of_the_rate_are_those_of_quadrature(batch_size: int, monkeypatch: pytest.MonkeyPatch):
    """q(z) of forty Gaussians on a line, integrated over a grid."""
    monkeypatch.setattr("vae_exp.evaluation.aggregate_posterior._BATCH", batch_size)
    means = torch.linspace(-2, 2.5, 40).unsqueeze(1)
    result = values(AggregateEvaluator(None, 5000, None), given(means, torch.tensor([0.3])), numbered(40))
    axis = np.linspace(-6, 6, 4001)
    each = np.exp(-0.5 * ((axis[:, None] - means[:, 0].numpy()) / 0.3) ** 2) / 0.3 / math.sqrt(2 * math.pi)
    mixture = each.mean(1)
    prior = np.exp(-0.5 * axis**2) / math.sqrt(2 * math.pi)
    divergence = np.trapezoid(mixture * np.log(mixture / prior), axis)
    entropy = -np.trapezoid(mixture * np.log(mixture), axis)
    information = entropy - 0.5 * math.log(2 * math.pi * math.e * 0.09)
    assert result["aggregate_kl"] == pytest.approx(divergence, abs=0.02)
    assert result["mutual_information"] == pytest.approx(information, abs=0.01)


class MeanIsImage(nn.Module):
    """q(z|x) = N(x, scale² I) for an image of as many pixels as there are units; remembers the batches."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.batch_sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> Independent:
        self.batch_sizes.append(len(images))
        return Independent(Normal(images.flatten(1), self.scale), 1)


def aggregate_of_prior(count: int, units: int, information: float) -> tuple[dict[str, float], float, list[int]]:
    """x ~ N(0, 1 − s²) and q(z|x) = N(x, s²), so that q(z) over all x is the prior and I(x; z) = −D log s.

    Returns:
        What is yielded for `count` images, their mean KL(q(z|x) ‖ p(z)) and the sizes of the encoder's batches.
    """
    scale = math.exp(-information / units)
    noise = torch.Generator().manual_seed(5)  # not the evaluator's
    means = math.sqrt(1 - scale**2) * torch.randn(count, units, generator=noise)
    encoder = MeanIsImage(scale)
    vae = VAE(encoder, MLPDecoder((1, 1, units), units, [], "tanh"), StandardNormalPrior(units))
    result = values(AggregateEvaluator(None, 1, None), vae, ImageSet(means[:, None, None, :], None, 1))
    rate = 0.5 * (means.square().sum(dim=1).mean().item() + units * (scale**2 - 1 - 2 * math.log(scale)))
    return result, rate, encoder.batch_sizes


def test_an_aggregate_that_is_the_prior_has_no_divergence(caplog: pytest.LogCaptureFixture):
    """The decomposition of Hoffman & Johnson 2016, equation 6, where the images suffice."""
    result, rate, batch_sizes = aggregate_of_prior(2500, units=2, information=3.0)
    assert result["mutual_information"] == pytest.approx(3.0, abs=0.1)
    assert result["aggregate_kl"] == pytest.approx(0, abs=0.1)
    assert sum(result.values()) == pytest.approx(rate, abs=0.1)
    assert not caplog.text
    assert max(batch_sizes) <= 1000


@pytest.mark.parametrize(("units", "information"), [(5, 15.0), (10, 23.0)])
def test_a_divergence_that_the_number_of_images_decides_is_an_upper_bound(
    units: int, information: float, caplog: pytest.LogCaptureFixture
):
    """Too few images for this information: the true divergence is 0, and the estimate far above it."""
    result, rate, _ = aggregate_of_prior(1000, units, information)
    assert set(result) == {"mutual_information", "aggregate_kl_upper_bound"}
    assert result["mutual_information"] == pytest.approx(math.log(1000), abs=0.05)
    assert result["aggregate_kl_upper_bound"] > 5
    assert sum(result.values()) == pytest.approx(rate, abs=0.4)
    assert "close to its ceiling, log N = 6.91 for N = 1000 images" in caplog.text
    assert "Raise evaluator.aggregate.num_images" in caplog.text


def test_codes_that_are_far_apart_carry_which_image_it_was():
    means = 100.0 * torch.arange(30).unsqueeze(1)
    result = values(AggregateEvaluator(None, 3, None), given(means, torch.ones(1)), numbered(30))
    assert result["mutual_information"] == pytest.approx(math.log(30), abs=1e-5)


def test_collapsed_codes_carry_nothing_and_are_the_prior():
    result = values(AggregateEvaluator(20, 3, None), given(torch.zeros(30, 2), torch.ones(2)), numbered(30))
    assert result["mutual_information"] == pytest.approx(0, abs=1e-5)
    assert result["aggregate_kl"] == pytest.approx(0, abs=1e-5)


def test_of_a_single_image_nothing_is_reported(caplog: pytest.LogCaptureFixture):
    assert values(AggregateEvaluator(1, 3, None), given(torch.zeros(30, 2), torch.ones(2)), numbered(30)) == {}
    assert "raise evaluator.aggregate.num_images" in caplog.text


def test_a_part_of_the_rate_that_cannot_be_is_not_told(caplog: pytest.LogCaptureFixture):
    """Codes whose aggregate is close to the prior: with one draw of each, the estimate may fall below zero."""
    means = torch.linspace(-1.5, 1.5, 3).unsqueeze(1)
    reported, left_out = 0, 0
    for seed in range(40):
        evaluator, model = AggregateEvaluator(None, 1, None), given(means, torch.tensor([0.6]))
        result = dict(evaluator.run(model, numbered(3), torch.Generator().manual_seed(seed)))
        assert all(value >= 0 for value in result.values())
        reported += "aggregate_kl" in result or "aggregate_kl_upper_bound" in result
        left_out += "aggregate_kl" not in result and "aggregate_kl_upper_bound" not in result
    assert reported > 0
    assert left_out > 0
    assert caplog.text.count("Raise evaluator.aggregate.num_samples") >= left_out


def test_parts_of_the_pairs_add_up(monkeypatch: pytest.MonkeyPatch):
    means = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    whole = values(AggregateEvaluator(None, 3, None), given(means, torch.ones(2)), numbered(30))
    monkeypatch.setattr("vae_exp.evaluation.aggregate_posterior._VALUES_AT_ONCE", 140)
    parts = values(AggregateEvaluator(None, 3, None), given(means, torch.ones(2)), numbered(30))
    assert parts == pytest.approx(whole)


def test_a_full_covariance_has_an_aggregate_too():
    vae = given(torch.randn(30, 2), torch.ones(2))
    vae.encoder.forward = lambda images: MultivariateNormal(torch.zeros(len(images), 2), torch.eye(2))
    result = values(AggregateEvaluator(None, 50, None), vae, numbered(30))
    assert result["mutual_information"] == pytest.approx(0, abs=1e-5)


def test_labels_that_the_codes_hold_are_read_and_others_are_not():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    corners = torch.tensor([[0.0, 0.0], [0.0, 5.0], [5.0, 0.0], [5.0, 5.0]])
    means = corners[labels] + 0.1 * torch.randn(200, 2, generator=generator)
    images, evaluator = numbered(200, labels), ProbeEvaluator(3, None, 64, None)
    assert values(evaluator, given(means, torch.ones(2)), images) == {"probe_accuracy": 1.0, "knn_accuracy": 1.0}
    noise = torch.randn(200, 2, generator=generator)
    for accuracy in values(evaluator, given(noise, torch.ones(2)), images).values():
        assert 0.05 < accuracy < 0.5  # of four labels, by chance 0.25


def test_a_ring_is_read_by_its_neighbours_and_not_by_a_line():
    angles = torch.linspace(0, 2 * math.pi, 200)
    labels = torch.arange(200) % 2
    means = torch.stack([angles.cos(), angles.sin()], 1) * (1 + 2 * labels).unsqueeze(1)
    result = values(ProbeEvaluator(3, None, 64, None), given(means, torch.ones(2)), numbered(200, labels))
    assert result["knn_accuracy"] > 0.95
    assert result["probe_accuracy"] < 0.7


@pytest.mark.parametrize("labels", [None, torch.zeros(40, dtype=torch.int64)])
def test_without_labels_nothing_is_probed(labels, caplog: pytest.LogCaptureFixture):
    assert (
        values(ProbeEvaluator(3, None, 64, None), given(torch.randn(40, 2), torch.ones(2)), numbered(40, labels))
        == {}
    )
    assert "nothing is probed" in caplog.text


def test_a_split_too_small_to_be_probed_is_refused():
    evaluator, model = ProbeEvaluator(2, None, 64, None), given(torch.zeros(9, 2), torch.ones(2))
    with pytest.raises(UserError, match=r"evaluator=probe needs at least 4 images and would have 3: "):
        evaluator.check(model, numbered(3, torch.arange(3)))
    evaluator.check(model, numbered(4, torch.arange(4)))
    evaluator.check(model, numbered(3))  # without labels nothing is probed


@pytest.mark.parametrize(("num_images", "most"), [(None, 10), (9, 4), (50, 10)])
def test_more_neighbours_than_images_to_fit_on_are_refused(num_images: int | None, most: int):
    model, images = given(torch.zeros(20, 2), torch.ones(2)), numbered(20, torch.arange(20) % 2)
    ProbeEvaluator(most, num_images, 64, None).check(model, images)
    with pytest.raises(UserError, match=rf"evaluator\.probe\.num_neighbors={most + 1} must be at most {most}: "):
        ProbeEvaluator(most + 1, num_images, 64, None).check(model, images)


def test_classes_that_the_subset_lacks_are_named(caplog: pytest.LogCaptureFixture):
    """Two classes in file order: the first images have one of them alone."""
    means = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    images, model = numbered(40, torch.arange(40) // 20), given(means, torch.ones(2))
    assert set(values(ProbeEvaluator(1, 20, 64, None), model, images)) == {"probe_accuracy", "knn_accuracy"}
    assert "classes" not in caplog.text
    left_out = set(range(40)) - set(images.random_subset(20).pixels.flatten().tolist())
    labels = torch.arange(40) % 2
    labels[min(left_out)] = 7
    values(ProbeEvaluator(1, 20, 64, None), model, numbered(40, labels))
    assert "the 20 images scored have none of 1 classes of the split (7); raise" in caplog.text
    assert "evaluator.probe.num_images" in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        lambda: UnitsEvaluator(-0.1, 10, None),
        lambda: UnitsEvaluator(0.01, 0, None),
        lambda: AggregateEvaluator(0, 1, None),
        lambda: AggregateEvaluator(None, 0, None),
        lambda: ProbeEvaluator(0, None, 10, None),
        lambda: ProbeEvaluator(1, 3, 10, None),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
