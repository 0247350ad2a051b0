import logging

import numpy as np
import pytest
import torch

from tests.builders import SHAPE, linear_gaussian_vae, noise
from vae_exp.data.images import ImageSet
from vae_exp.evaluation.nll import NLLEvaluator, decode_chunk_size
from vae_exp.objective.importance_weighted import log_evidence


def evaluator(**options) -> NLLEvaluator:
    return NLLEvaluator(
        **{"num_importance_samples": 2000, "num_images": None, "chunk_size": 10_000, "every_n_epochs": None}
        | options
    )


@pytest.fixture
def images(generator):
    return ImageSet(torch.rand(40, *SHAPE, generator=generator), None, 1)


def test_it_is_minus_the_mean_log_evidence(images, generator):
    vae = linear_gaussian_vae(2, generator)
    metrics = dict(evaluator().run(vae, images, generator))
    truth = -vae.decoder.log_evidence(images.batch().images)
    assert metrics["nll"] == pytest.approx(truth.mean().item(), abs=4 * metrics["nll_monte_carlo_se"])
    assert metrics["nll_se"] == pytest.approx(truth.std().item() / 40**0.5, rel=0.05)
    assert metrics["nll_images"] == 40


def test_the_monte_carlo_error_is_that_of_many_seeds(images):
    """The jackknife is at least the truth in expectation, and close to it for 200 samples."""
    vae = linear_gaussian_vae(2, noise(), 1.3)
    results = [dict(evaluator(num_importance_samples=200).run(vae, images, noise(seed))) for seed in range(150)]
    spread = np.std([result["nll"] for result in results], ddof=1)
    claimed = np.sqrt(np.mean([result["nll_monte_carlo_se"] ** 2 for result in results]))
    assert claimed == pytest.approx(spread, rel=0.2)  # the spread of 150 values is known to 6 %


def test_effective_samples_are_those_of_kong(images):
    """(Σw)² / Σw² of the weights p(x, z) / q(z|x) of each image, averaged over images."""
    vae = linear_gaussian_vae(2, noise(), 1.3)
    result = dict(evaluator(num_importance_samples=50, chunk_size=2000).run(vae, images, noise(3)))
    batch = images.batch().images
    posterior = vae.encode(batch)
    latents = posterior.mean + posterior.stddev * torch.randn(50, *posterior.mean.shape, generator=noise(3))
    log_weights = vae.decode(latents).log_prob(batch) + vae.prior().log_prob(latents) - posterior.log_prob(latents)
    weights = np.exp((log_weights - log_weights.amax(0)).double().detach().numpy())
    effective = weights.sum(0) ** 2 / (weights**2).sum(0)
    assert result["nll_effective_samples"] == pytest.approx(effective.mean(), rel=1e-3)


@pytest.mark.parametrize(("widening", "few_count"), [(1.0, False), (0.3, True)])
def test_it_reports_and_warns_where_few_draws_count(images, generator, caplog, widening: float, few_count: bool):
    vae = linear_gaussian_vae(3, generator, widening)
    with caplog.at_level(logging.WARNING):
        result = dict(evaluator(num_importance_samples=100, chunk_size=4000).run(vae, images, noise(3)))
    estimate = log_evidence(vae, images.batch(), 100, noise(3), 4000)
    assert result["nll_low_ess_share"] == (estimate.effective_samples < 10).double().mean().item()
    assert result["nll_largest_weight"] == pytest.approx(estimate.largest_weight.mean().item())
    assert (result["nll_low_ess_share"] > 0.05) is few_count
    assert (result["nll_largest_weight"] > 0.2) is few_count
    assert ("fewer than 10 effective samples" in caplog.text) is few_count
    assert ("raise evaluator.nll.num_importance_samples (now 100)" in caplog.text) is few_count


def test_a_part_of_the_split_is_a_random_subset(images, generator):
    vae = linear_gaussian_vae(2, generator)
    part = dict(evaluator(num_images=7).run(vae, images, generator))
    truth = -vae.decoder.log_evidence(images.random_subset(7).batch().images).mean().item()
    assert part["nll_images"] == 7
    assert part["nll"] == pytest.approx(truth, abs=4 * part["nll_monte_carlo_se"])


def test_memory_is_bounded_by_the_chunk(images, generator):
    vae = linear_gaussian_vae(2, generator)
    sizes = []
    decode = vae.decode
    vae.decode = lambda latents, labels: (sizes.append(latents.shape[:-1].numel()), decode(latents))[1]
    dict(evaluator(num_importance_samples=130, chunk_size=50).run(vae, images, generator))
    assert max(sizes) <= 50
    assert sum(sizes) == 40 * 130 + 1  # and one, to see what the likelihood is a distribution of


@pytest.mark.parametrize("name", ["num_importance_samples", "num_images", "chunk_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        evaluator(**{name: 0})


def test_by_default_the_outputs_of_a_chunk_stay_in_the_cache_of_a_cpu():
    cpu = torch.device("cpu")
    assert decode_chunk_size(784, cpu) * 784 * 4 <= 3 * 2**20
    assert decode_chunk_size(784, cpu) > 900
    assert decode_chunk_size(10**7, cpu) == 32


def test_the_size_of_chunks_changes_the_estimate_of_an_image_by_rounding_alone(images, generator):
    """The noise of an image is drawn in the same order, however its samples are cut."""
    vae = linear_gaussian_vae(2, generator)
    result = [
        dict(evaluator(num_images=1, chunk_size=size).run(vae, images, torch.Generator().manual_seed(3)))["nll"]
        for size in (None, 2000, 64)
    ]
    assert result[1] == pytest.approx(result[0], rel=1e-5)
    assert result[2] == pytest.approx(result[0], rel=1e-5)
