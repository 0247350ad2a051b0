"""Distances between images and reconstructions, against loops in numpy and scipy."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from tests.builders import noise
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.reconstruction import ReconstructionEvaluator


class Blurs(nn.Module):
    """Stands for a model: its reconstruction is darker, and mixed with the mirrored image."""

    def reconstruct(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return 0.7 * images + 0.2 * images.flip(-1)


class Layers(nn.Module):
    """A map of three channels, and a vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.conv(images)
        return maps, maps.mean(dim=(2, 3))


def images(*shape: int, count: int = 7) -> ImageSet:
    return ImageSet(torch.rand(count, *shape, generator=noise(3)), None, 1)


def score(data: ImageSet, features: str | None = None) -> dict[str, float]:
    return dict(ReconstructionEvaluator(features, None, 3, None).run(Blurs(), data, noise()))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, averaged over positions; K₁ = 0.01, K₂ = 0.03, σ = 1.5."""

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=3.5, mode="mirror")

    c1, c2, a, b = 0.01**2, 0.03**2, smooth(one), smooth(other)
    covariance = smooth(one * other) - a * b
    variances = smooth(one**2) - a**2 + smooth(other**2) - b**2
    return float(((2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (variances + c2))).mean())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 20), (3, 13, 12)])
def test_scores_are_those_of_loops_over_images(shape: tuple[int, int, int]):
    data = images(*shape)
    pixels = data.batch().images.double().numpy()
    rebuilt = Blurs().reconstruct(data.batch().images, None).double().numpy()
    errors = [((one - other) ** 2).mean() for one, other in zip(pixels, rebuilt, strict=True)]
    similarities = [
        np.mean([ssim(*channels) for channels in zip(one, other, strict=True)])
        for one, other in zip(pixels, rebuilt, strict=True)
    ]
    assert score(data) == {
        "mse": pytest.approx(np.mean(errors), rel=1e-5),
        "psnr": pytest.approx(np.mean([10 * np.log10(1 / error) for error in errors]), rel=1e-5),
        "ssim": pytest.approx(np.mean(similarities), abs=1e-5),
    }


@pytest.fixture
def features(tmp_path: Path) -> str:
    torch.manual_seed(0)
    program = torch.export.export(
        Layers(3), (torch.rand(2, 3, 8, 8),), dynamic_shapes=[{0: torch.export.Dim("batch")}]
    )
    torch.export.save(program, tmp_path / "layers.pt2")
    return str(tmp_path / "layers.pt2")


def test_the_distance_of_features_is_that_of_unit_vectors(features: str):
    """Σ over layers, mean over positions, of the squared distance of unit vectors of channels."""
    data = images(3, 8, 8)
    torch.manual_seed(0)
    net, expected = Layers(3), []
    with torch.no_grad():
        for image in data.batch().images.unsqueeze(1):
            pairs = zip(net(image), net(Blurs().reconstruct(image, None)), strict=True)
            total = 0.0
            for one, other in pairs:
                vectors = (layer[0].flatten(1).T if layer.dim() > 2 else layer for layer in (one, other))
                units = [vector / vector.norm(dim=1, keepdim=True) for vector in vectors]
                total += (units[0] - units[1]).square().sum(dim=1).mean().item()
            expected.append(total)
    assert score(data, features)["feature_distance"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_features_that_are_no_layers_are_refused(tmp_path: Path):
    program = torch.export.export(
        nn.Flatten(0), (torch.rand(2, 1, 8, 8),), dynamic_shapes=[{0: torch.export.Dim("batch")}]
    )
    torch.export.save(program, tmp_path / "flat.pt2")
    with pytest.raises(UserError, match=r"features returns \[192\] for 3 images; expected \[3, channels, …\]"):
        score(images(1, 8, 8), str(tmp_path / "flat.pt2"))


def test_images_smaller_than_half_the_window_have_no_similarity(caplog):
    with caplog.at_level(logging.WARNING):
        assert set(score(images(1, 5, 9))) == {"mse", "psnr"}
    assert "no ssim, which needs images of at least 6 pixels" in caplog.text


def test_a_file_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"evaluator\.reconstruction\.features=.*nowhere\.pt2 does not exist"):
        ReconstructionEvaluator("nowhere.pt2", None, 3, None)
