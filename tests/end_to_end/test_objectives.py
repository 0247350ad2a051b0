"""Every objective through the real command."""

from pathlib import Path

import pytest

from tests.readers import read_metrics, without_times

RUN = (
    "data=digits",
    "trainer.epochs=3",
    "tracker=none",
    "evaluator=[]",
    "model.latent_dim=3",
    "trainer.device=cpu",
)
OBJECTIVES = {
    "beta_vae": [],
    "capacity": [],
    "free_bits": [],
    "iwae": [],
    "miwae": ["loss.num_bounds=3", "loss.num_samples=2"],
    "ciwae": ["loss.num_samples=5"],
    "piwae": ["loss.num_bounds=3", "loss.num_samples=2"],
    "stl": [],
    "dreg": ["loss.num_samples=5"],
    "beta_tcvae": [],
    "info_vae": [],
    "dip_vae": [],
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_it_trains_and_can_be_evaluated(command, tmp_path: Path, loss: str):
    trained = command("train", *RUN, f"loss={loss}", *OBJECTIVES[loss], "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    found = read_metrics(tmp_path / "run")
    assert found[-1]["train/distortion"] < found[0]["train/distortion"]
    for line in found:
        assert line["val/elbo"] == pytest.approx(-(line["val/distortion"] + line["val/rate"]))
    if loss == "dreg":  # evaluation does not depend on the loss
        evaluated = command("evaluate", "run=run", "evaluator=[elbo]")
        assert evaluated.code == 0, evaluated.err


def test_a_schedule_from_the_command_line_is_followed_and_logged(command, tmp_path: Path):
    scheduled = ["loss=beta_vae", "+loss/schedule@loss.beta=linear", "loss.beta.duration=2", "loss.beta.end=3"]
    assert command("train", *RUN, *scheduled, "hydra.run.dir=run").code == 0
    found = read_metrics(tmp_path / "run")
    assert [line["loss/beta"] for line in found] == [0.0, 1.5, 3.0]
    for line in found:
        now = line["train/distortion"] + line["loss/beta"] * line["train/rate"]
        assert line["train/loss"] == pytest.approx(now, rel=1e-4)
        assert line["val/loss"] == pytest.approx(line["val/distortion"] + 3 * line["val/rate"], rel=1e-5)


@pytest.mark.slow
def test_a_schedule_by_steps_goes_on_to_the_bit_on_resume(command, tmp_path: Path):
    scheduled = [
        "loss=beta_vae",
        "+loss/schedule@loss.beta=cosine",
        "loss.beta.duration=30",
        "loss.beta.unit=step",
    ]
    assert command("train", *RUN, *scheduled, "hydra.run.dir=whole").code == 0
    assert command("train", *RUN, *scheduled, "hydra.run.dir=run", "trainer.epochs=1").code == 0
    assert command("train", "resume=run", "trainer.epochs=3").code == 0
    whole, resumed = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "run")
    assert 0 < whole[0]["loss/beta"] < whole[1]["loss/beta"] <= 1
    for one, other in zip(whole, resumed, strict=True):
        assert without_times(one) == without_times(other)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["loss=beta_vae", "loss.beta=-1"], "loss.beta=-1 must be a finite number of at least 0"),
        (["loss=iwae", "loss.num_samples=0"], "loss.num_samples=0 must be a whole number of at least 1"),
        (["loss=beta_vae", "+loss/schedule@loss.beta=linear", "loss.beta.unit=week"], "unit=week must be one of"),
        (["loss=beta_tcvae", "loss.dataset_size=1"], "loss.dataset_size=1"),
    ],
)
def test_what_makes_no_objective_is_refused_before_anything_starts(command, tmp_path: Path, overrides, reason):
    refused = command("train", *RUN, *overrides, "hydra.run.dir=run")
    assert refused.code == 1
    assert reason in refused.err
    assert not (tmp_path / "run").exists()
