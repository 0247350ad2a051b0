"""Published recipes, a few steps of each on the embedded data."""

import pytest
import torch

from tests.readers import read_metrics

SHORT = ("data=digits", "data.validation_size=0", "tracker=none", "evaluator=[]", "trainer.epochs=5")


@pytest.mark.parametrize("experiment", ["burda_vae", "burda_iwae"])
@pytest.mark.slow
def test_the_recipe_of_burda_and_others_starts_at_the_mean_and_lowers_its_rate_by_stages(
    command, tmp_path, experiment
):
    ended = command("train", *SHORT, f"experiment={experiment}", "loss.num_samples=3", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    lines = read_metrics(tmp_path / "run")
    rates = [line["train/learning_rate"] for line in lines]
    expected = [1e-3 * 10 ** (-stage / 7) for stage in (0, 1, 1, 1, 2)]  # stages of 1, 3 and 9 epochs
    assert rates == pytest.approx(expected)
    weights = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["vae"]
    shapes = {name: list(weight.shape) for name, weight in weights.items() if name.endswith("weight")}
    assert list(shapes.values()) == [[200, 64], [200, 200], [100, 200], [200, 50], [200, 200], [64, 200]]
    always_black = weights["decoder.output.bias"][0].item()  # the first pixel of every digit
    assert always_black < -5
