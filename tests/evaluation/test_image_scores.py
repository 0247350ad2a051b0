"""Scores of single images, against the evaluators, closed forms and counting."""

import numpy as np
import pytest
import torch

from tests.builders import bernoulli_vae, linear_gaussian_vae, noise
from tests.model.test_vq import vq_vae
from vae_exp.data.images import ImageSet
from vae_exp.evaluation import image_scores
from vae_exp.evaluation.elbo import ELBOEvaluator
from vae_exp.evaluation.image_scores import detection, draw_extremes, encode_by_batch, nll_by_batch, quantiles
from vae_exp.evaluation.nll import NLLEvaluator

SHAPE = (1, 2, 3)


def images(count: int = 23) -> ImageSet:
    return ImageSet(torch.rand(count, *SHAPE, generator=noise(3)).round(), torch.arange(count) % 3, 1)


def joined(parts) -> dict[str, np.ndarray]:
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_scores_average_to_what_the_evaluators_yield():
    vae = bernoulli_vae(2).eval()
    scores = joined(encode_by_batch(vae, images(), 10, 5, noise()))
    expected = dict(ELBOEvaluator(10, 5, None).run(vae, images(), noise()))
    for name in ("elbo", "rate", "distortion"):
        assert scores[name].mean(dtype=float) == pytest.approx(expected[name], rel=1e-5)
    posterior = vae.encode(images().batch().images)
    np.testing.assert_allclose(scores["mean"], posterior.mean.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores["std"], posterior.stddev.detach(), rtol=1e-5, atol=1e-6)
    estimates = joined(nll_by_batch(vae, images(), 50, noise()))
    expected = dict(NLLEvaluator(50, None, None, None).run(vae, images(), noise()))
    assert estimates["nll"].mean() == pytest.approx(expected["nll"], rel=1e-6)


def test_the_nll_of_each_image_is_that_of_the_closed_form():
    vae = linear_gaussian_vae(2, noise())
    pixels = ImageSet(torch.rand(12, *SHAPE, generator=noise(4)))
    estimates = joined(nll_by_batch(vae, pixels, 2000, noise()))
    truth = -vae.decoder.log_evidence(pixels.batch().images).detach().double().numpy()
    assert (np.abs(estimates["nll"] - truth) < 5 * estimates["nll_se"] + 1e-4).all()


def test_codes_of_a_codebook_are_its_indices():
    vae = vq_vae().eval()
    pixels = ImageSet(torch.rand(6, 1, 6, 5, generator=noise(2)))
    scores = joined(encode_by_batch(vae, pixels, 1, 4, noise()))
    expected = vae.encode(pixels.batch().images).indices.flatten(1)
    np.testing.assert_array_equal(scores["code"], expected)
    assert "mean" not in scores


def test_a_quantile_is_the_share_that_scores_no_higher():
    reference = np.array([3.0, 1.0, 2.0, 2.0])
    assert quantiles(np.array([0.5, 2.0, 9.0]), reference).tolist() == [0.0, 0.75, 1.0]


def test_auroc_is_the_probability_that_an_odd_image_scores_higher():
    generator = np.random.default_rng(0)
    scores = generator.integers(20, size=60).astype(float)  # with ties, which count half
    is_odd = generator.random(60) < 0.3
    odd, other = scores[is_odd][:, None], scores[~is_odd]
    expected = ((odd > other) + 0.5 * (odd == other)).mean()
    assert detection(scores, is_odd).auroc == pytest.approx(expected, abs=1e-12)
    assert detection(is_odd.astype(float), is_odd).average_precision == 1


def test_the_figure_shows_both_ends(monkeypatch: pytest.MonkeyPatch):
    shown = []
    monkeypatch.setattr(
        image_scores, "plot_image_grid", lambda rows, *_, **__: shown.append(torch.from_numpy(rows))
    )
    vae, pixels = bernoulli_vae(2).eval(), images(5)
    draw_extremes(vae, pixels, np.array([3.0, 0.0, 4.0, 2.0, 1.0]), "nll")
    [rows] = map(torch.as_tensor, shown)
    batch = pixels.batch().images
    torch.testing.assert_close(rows[0], batch[[1, 4]])
    torch.testing.assert_close(rows[1], vae.reconstruct(batch[[1, 4]]))
    torch.testing.assert_close(rows[2], batch[[2, 0]])
