"""The Fréchet distance, against its closed form for Gaussians."""

import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from tests.builders import noise
from vae_exp.data.digits import DigitsSource
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.fid import FIDEvaluator, SmallClassifier, trained_classifier

SHAPE = (1, 2, 2)


class Features(nn.Module):
    """Four pixels, two linear features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.5, 0.0, 2.0], [0.0, 1.0, -1.0, 0.3]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


class Sampler(nn.Module):
    """Stands for a model: its samples are drawn from a set of images."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images, self.drawn = images, []

    def encode(self, images: torch.Tensor, labels: torch.Tensor | None) -> Independent:
        return Independent(Normal(torch.zeros(len(images), 1), 1.0), 1)

    def decode(self, latents: torch.Tensor, labels: torch.Tensor | None) -> Independent:
        return Independent(Bernoulli(logits=torch.zeros(len(latents), *self.images.shape[1:])), 3)

    def sample(self, n: int, generator: torch.Generator, labels: torch.Tensor | None) -> torch.Tensor:
        chosen = self.images[torch.randint(len(self.images), (n,), generator=generator)]
        self.drawn.append(chosen)
        return chosen


@pytest.fixture
def features(tmp_path: Path) -> str:
    batch = torch.export.Dim("batch")
    program = torch.export.export(Features(), (torch.rand(2, *SHAPE),), dynamic_shapes=[{0: batch}])
    torch.export.save(program, tmp_path / "features.pt2")
    return str(tmp_path / "features.pt2")


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (Heusel et al. 2017, equation 6)."""
    means = one.mean(axis=0) - other.mean(axis=0)
    first, second = np.cov(one.T), np.cov(other.T)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(means @ means + np.trace(first + second - 2 * root))


@pytest.mark.slow
def test_it_is_the_closed_form_on_the_features(features: str):
    images = ImageSet(torch.rand(450, *SHAPE, generator=noise(3)), None, 1)
    model = Sampler(torch.rand(300, *SHAPE, generator=noise(4)) ** 2)
    result = dict(FIDEvaluator(features, None, 1, None).run(model, images, noise()))
    net = Features()
    with torch.no_grad():
        expected = distance(
            net(images.batch().images).double().numpy(), net(torch.cat(model.drawn)).double().numpy()
        )
    assert list(result) == ["fid", "fid_images"]
    assert result["fid"] == pytest.approx(expected, rel=1e-3)


def test_without_a_file_the_features_are_those_of_a_classifier_which_the_name_says():
    images = DigitsSource().train()
    model = Sampler(images.batch().images)
    same = dict(FIDEvaluator(None, 400, 2, None).run(model, images, noise()))
    black = dict(
        FIDEvaluator(None, 400, 2, None).run(Sampler(torch.zeros(5, *images.image_shape)), images, noise())
    )
    assert list(same) == ["classifier_frechet_distance", "fid_images"]
    assert same["fid_images"] == 400
    assert black["classifier_frechet_distance"] > 20 * same["classifier_frechet_distance"]


def test_the_classifier_learns_and_is_the_same_for_all_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a model's dropout would repeat"))
    images = DigitsSource().train()
    before = torch.get_rng_state()
    one, other = (trained_classifier(images, 6) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(images.batch().images), other(images.batch().images))
    right = one.output(one(images.batch().images)).argmax(dim=1) == images.labels
    assert right.float().mean() > 0.9


@pytest.mark.parametrize("labels", [None, torch.full((5,), 3)])
def test_without_labels_to_tell_apart_and_without_a_file_nothing_is_reported(labels, caplog):
    images = ImageSet(torch.rand(5, *SHAPE), labels, 1)
    with caplog.at_level(logging.WARNING):
        assert not list(FIDEvaluator(None, None, 1, None).run(Sampler(images.batch().images), images, noise()))
    assert "neither a file of features nor two labels" in caplog.text


def test_a_single_image_is_refused():
    images = ImageSet(torch.rand(2, *SHAPE), None, 1)
    model = Sampler(images.batch().images)
    FIDEvaluator(None, None, 1, None).check(model, images)
    with pytest.raises(UserError, match=r"evaluator=fid needs at least 2 images and would have 1"):
        FIDEvaluator(None, None, 1, None).check(model, images.take(1))


def test_a_file_that_is_missing_or_something_else_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere.pt2 does not exist"):
        FIDEvaluator(str(tmp_path / "nowhere.pt2"), None, 1, None)
    (tmp_path / "other.pt2").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"other.pt2 is not a program that torch.export.save has written"):
        FIDEvaluator(str(tmp_path / "other.pt2"), None, 1, None)


def test_samples_of_black_and_white_images_are_black_and_white(features: str):
    """A model that has the very probabilities of the pixels is as good as another draw of the images."""
    probabilities = torch.rand(1, *SHAPE, generator=noise(3)).expand(400, *SHAPE)
    images = ImageSet(torch.bernoulli(probabilities, generator=noise(4)), None, 1)
    result = dict(FIDEvaluator(features, None, 1, None).run(Sampler(probabilities), images, noise()))["fid"]
    grey = ImageSet(images.pixels.clamp(0.001, 0.999), None, 1)
    means = dict(FIDEvaluator(features, None, 1, None).run(Sampler(probabilities), grey, noise()))["fid"]
    assert result < 0.1 < means


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 31, 17)])
def test_the_classifier_pools_as_torch_does(shape: tuple[int, int, int]):
    hidden = SmallClassifier(shape, 10).hidden
    maps = hidden[:4](torch.rand(2, *shape, generator=noise()))
    torch.testing.assert_close(hidden[4](maps), nn.functional.adaptive_avg_pool2d(maps, 4))
