"""What `linear_vae` is compared with is the maximum likelihood of probabilistic PCA."""

import math
from pathlib import Path

import pytest
import torch

from vae_exp.configuration.config_dir import config_dir
from vae_exp.data.torchvision_datasets import MNISTSource
from vae_exp.reproduce.targets import read_targets


@pytest.mark.slow
def test_the_expectation_is_the_maximum_likelihood_of_probabilistic_pca(mnist_root: Path):
    """Tipping & Bishop 1999, equations 8 and 15."""
    images = MNISTSource("MNIST", str(mnist_root)).train().batch(slice(None)).images.flatten(1).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(images.T, correction=0)).flip(0)
    units, pixels = 20, 784
    variance = eigenvalues[units:].mean()
    log_determinant = eigenvalues[:units].log().sum() + (pixels - units) * variance.log()
    nll = 0.5 * (pixels * math.log(2 * math.pi) + log_determinant + pixels)
    target = read_targets(config_dir() / "reproduce" / "targets.yaml")["linear_vae"]
    assert f"{nll:.2f}" == f"{target.expected:.2f}"
    assert target.tolerance is not None
    assert target.tolerance <= 0.005 * abs(nll)
