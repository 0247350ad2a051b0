"""Every likelihood through the real commands; bits per dimension only where they mean something."""

import json
from math import log

import pytest

from tests.readers import read_metrics

RUN = (
    "data=digits",
    "trainer.epochs=3",
    "tracker=none",
    "evaluator=[]",
    "model.latent_dim=3",
    "trainer.device=cpu",
)
OF_LEVELS = ["discretized_logistic", "discretized_logistic_mixture"]
DENSITIES = ["continuous_bernoulli", "gaussian", "gaussian_shared", "gaussian_optimal", "gaussian_per_pixel"]


def run(command, tmp_path, *overrides: str) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The lines of a training and what its evaluation wrote."""
    trained = command("train", *RUN, "hydra.run.dir=run", *overrides)
    assert trained.code == 0, trained.err
    lines = read_metrics(tmp_path / "run")
    evaluated = command("evaluate", "run=run", "evaluator=[elbo,nll]", "evaluator.nll.num_importance_samples=20")
    assert evaluated.code == 0, evaluated.err
    [written] = (tmp_path / "run" / "evaluation").glob("*.json")
    return lines, json.loads(written.read_text())["metrics"]


@pytest.mark.quick(1)
@pytest.mark.parametrize("likelihood", OF_LEVELS)
def test_a_probability_of_grey_levels_has_bits(command, tmp_path, likelihood):
    lines, scores = run(command, tmp_path, f"model/likelihood={likelihood}", "model.likelihood.levels=17")
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    assert scores["test/bits_per_dim"] == pytest.approx(scores["test/nll"] / 64 / log(2))
    assert scores["test/bits_per_dim"] <= scores["test/negative_elbo_bits_per_dim"]
    assert scores["test/bits_per_dim"] < log(17) / log(2)  # better than equal odds


@pytest.mark.parametrize("likelihood", DENSITIES)
@pytest.mark.slow
def test_a_density_has_no_bits(command, tmp_path, likelihood):
    lines, scores = run(command, tmp_path, f"model/likelihood={likelihood}")
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    assert not [name for name in scores if "bits" in name]


@pytest.mark.slow
def test_a_bernoulli_has_bits_on_black_and_white_alone(command, tmp_path):
    _, grey = run(command, tmp_path)
    assert not [name for name in grey if "bits" in name]
    (tmp_path / "run").rename(tmp_path / "grey")
    _, scores = run(command, tmp_path, "data.binarization=fixed")
    assert 0 < scores["test/bits_per_dim"] < 1


@pytest.mark.slow
def test_levels_that_are_not_the_images_have_no_bits(command, tmp_path):
    """The 17 levels of the digits are not among 256: k/16 is no j/255."""
    _, scores = run(command, tmp_path, "model/likelihood=discretized_logistic", "model.likelihood.levels=256")
    assert not [name for name in scores if "bits" in name]


@pytest.mark.slow
def test_a_categorical_trains_and_draws(command, tmp_path):
    lines, scores = run(
        command, tmp_path, "model/likelihood=categorical", "model.likelihood.levels=17", "evaluator=[figures]"
    )
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    assert 0 < scores["test/bits_per_dim"] < log(17) / log(2)
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
