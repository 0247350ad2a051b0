"""Every prior and posterior through the real commands."""

import json

import pytest

RUN = ("data=digits", "trainer.epochs=3", "tracker=none", "evaluator=[figures]", "model.latent_dim=3")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model/prior=gaussian_mixture", "model.prior.components=4"],
        ["model/prior=vamp", "model.prior.components=7"],
        ["model.posterior=full_covariance"],
        ["model.posterior=full_covariance", "model/prior=vamp", "model.prior.components=7", "loss=dreg"],
        ["model=conv", "model.posterior=full_covariance", "loss=stl"],
    ],
)
def test_it_trains_resumes_and_can_be_evaluated(command, tmp_path, overrides):
    trained = command("train", *RUN, *overrides, "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    assert command("train", "resume=run", "trainer.epochs=4").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    chosen = "evaluator=[elbo,nll,units,aggregate,probe]"
    evaluated = command("evaluate", "run=run", chosen, "evaluator.nll.num_importance_samples=20")
    assert evaluated.code == 0, evaluated.err
    assert command("generate", "run=run").code == 0


@pytest.mark.parametrize("loss", ["beta_tcvae", "free_bits"])
def test_an_objective_that_needs_independent_units_is_refused_without_them(command, tmp_path, loss):
    refused = command("train", *RUN, f"loss={loss}", "model.posterior=full_covariance", "hydra.run.dir=run")
    assert refused.code == 1
    assert "a MultivariateNormal over latents has no density for each unit" in refused.err
    assert not (tmp_path / "run").exists()
