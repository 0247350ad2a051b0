"""The mixture that is fitted to the codes, against scikit-learn's and the moments of the codes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.distributions import Independent, Normal

from tests.builders import grey_images, noise, small_vae
from tests.model.test_vq import vq_vae
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.errors import UserError
from vae_exp.evaluation import fitted_prior
from vae_exp.evaluation.fitted_prior import FittedPrior, load_or_fit_prior
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE


class TwoClusters(nn.Module):
    """Posteriors N(±3, 0.5²) by the first pixel, in two units; the second is not used: N(0, 1)."""

    def forward(self, images: torch.Tensor) -> Independent:
        sign = torch.where(images[:, 0, 0, 0] > 0.5, 3.0, -3.0)
        means = torch.stack([sign, torch.zeros_like(sign)], dim=1)
        return Independent(Normal(means, torch.tensor([0.5, 1.0])), 1)


def clusters() -> VAE:
    return VAE(TwoClusters(), small_vae().decoder, StandardNormalPrior(2)).eval()


def images(count: int = 3000) -> ImageSet:
    pixels = (torch.arange(count) % 3 == 0).float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3)
    return ImageSet(pixels, None, 1)


def fitted(path: Path, vae: VAE, data: ImageSet, components: int = 2, seed: int = 0, **about) -> FittedPrior:
    return load_or_fit_prior(path / "prior.npz", vae, data, components, seed, about)


def test_it_is_the_aggregate_posterior_with_the_width_of_unused_units(tmp_path: Path):
    prior = fitted(tmp_path, clusters(), images())
    order = prior.means[:, 0].argsort()
    torch.testing.assert_close(prior.weights[order], torch.tensor([2 / 3, 1 / 3]), atol=1e-3, rtol=0)
    torch.testing.assert_close(prior.means[order, 0], torch.tensor([-3.0, 3.0]), atol=0.05, rtol=0)
    covariances = prior.scale_tril @ prior.scale_tril.mT
    expected = torch.tensor([[0.25, 0.0], [0.0, 1.0]]).expand(2, 2, 2)
    torch.testing.assert_close(covariances, expected, atol=0.08, rtol=0)


def test_its_density_and_draws_are_those_of_scikit_learn(tmp_path: Path):
    prior = fitted(tmp_path, clusters(), images())
    with np.load(tmp_path / "prior.npz") as file:
        mixture = GaussianMixture(2)
        mixture.weights_, mixture.means_, mixture.covariances_ = (
            file[name] for name in ("weights", "means", "covariances")
        )
    mixture.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(mixture.covariances_))
    points = torch.randn(50, 2, generator=noise()) * 3
    log_density = torch.from_numpy(mixture.score_samples(points.double().numpy())).float()
    torch.testing.assert_close(prior().log_prob(points), log_density, rtol=1e-4, atol=1e-4)
    drawn = sample(prior(), noise(), (20_000,))
    mean = (prior.weights.unsqueeze(1) * prior.means).sum(dim=0)
    torch.testing.assert_close(drawn.mean(dim=0), mean, atol=0.1, rtol=0)


def test_it_is_kept_and_read_again_for_the_same_weights_alone(tmp_path: Path, caplog, monkeypatch):
    vae, data, fits = small_vae(), grey_images(60), []
    fit = fitted_prior._fit
    monkeypatch.setattr(fitted_prior, "_fit", lambda *arguments: fits.append(1) or fit(*arguments))
    with caplog.at_level(logging.INFO):
        first = fitted(tmp_path, vae, data, checkpoint="best")
        again = fitted(tmp_path, vae, data, checkpoint="best")
    assert len(fits) == 1
    assert "fitted to 60 codes" in caplog.messages[0]
    assert "that of" in caplog.messages[1]
    assert all(torch.equal(one, other) for one, other in zip(first.buffers(), again.buffers(), strict=True))
    fitted(tmp_path, vae, data, checkpoint="last")
    fitted(tmp_path, vae, data, checkpoint="last", components=3)
    fitted(tmp_path, vae, data, checkpoint="last", components=3, seed=1)
    with torch.no_grad():
        vae.encoder.hidden[0].bias.add_(1.0)
    fitted(tmp_path, vae, data, checkpoint="last", components=3, seed=1)
    assert len(fits) == 5
    (tmp_path / "prior.npz").write_bytes(b"damaged")
    fitted(tmp_path, vae, data)
    assert len(fits) == 6


def test_codes_and_too_few_images_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="the codes of a VQ-VAE have none; use prior=model"):
        fitted(tmp_path, vq_vae(), images())
    with pytest.raises(UserError, match="components=9 needs as many training images; the run has 8"):
        fitted(tmp_path, small_vae(), grey_images(8), components=9)
    assert not list(tmp_path.iterdir())
