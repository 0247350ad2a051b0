"""Every prior and posterior through the real commands."""

import math

import pytest

from tests.readers import read_metrics, read_result, without_times
from tests.test_conf import set_up_refusal

RUN = ("data=digits", "trainer.epochs=3", "tracker=none", "evaluator=[]", "model.latent_dim=3")


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "overrides",
    [
        "model/prior=gaussian_mixture model.prior.components=4",
        "model.posterior=full_covariance",
        "model.posterior=full_covariance model/prior=vamp model.prior.components=7 loss=dreg",
        "model=conv model.posterior=full_covariance loss=stl",
        "model.posterior=flow model/prior=flow loss=iwae loss.num_samples=2",
        "model=resnet model.hidden_dims=[8,8] model.activation=gated model.encoder.residual_blocks=1",
    ],
)
def test_it_trains_resumes_and_can_be_evaluated(command, tmp_path, overrides: str):
    """Runs of the other models are resumed and evaluated in `test_stored_runs`."""
    trained = command("train", *RUN, *overrides.split(), "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    assert command("train", "resume=run", "trainer.epochs=4").code == 0
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    evaluators = "evaluator=[elbo,nll,units,aggregate,probe]"
    evaluated = command("evaluate", "run=run", evaluators, "evaluator.nll.num_importance_samples=20")
    assert evaluated.code == 0, evaluated.err
    assert command("generate", "run=run", "columns=2", "manifold_size=2").code == 0


@pytest.mark.slow
def test_a_vq_vae_trains_resumes_and_can_be_evaluated(command, tmp_path):
    vq = ["model=vq", "model.latent_dim=null", "model.num_codes=16", "model.code_dim=4", "loss=vq"]
    trained = command("train", *RUN, *vq, "model.hidden_dims=[16]", "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    assert command("train", "resume=run", "trainer.epochs=4").code == 0
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["train/distortion"] < lines[0]["train/distortion"]
    assert lines[-1]["train/rate"] == pytest.approx(16 * math.log(16))
    result = read_result(tmp_path / "run")
    best = min(lines, key=lambda line: line["val/distortion"])
    assert (result["monitor"], result["best"]["epoch"]) == ("val/distortion", best["epoch"])
    evaluated = command("evaluate", "run=run", "evaluator=[elbo,units,codes,probe]")
    assert evaluated.code == 0, evaluated.err
    assert "test/code_perplexity" in evaluated.out
    plain = command("evaluate", "run=run")
    assert plain.code == 0, plain.err
    assert (
        "Left out: evaluator=nll cannot be used with this model: codes of a codebook have no density" in plain.out
    )
    assert "test/elbo" in plain.out
    assert command("generate", "run=run", "columns=2").code == 0


@pytest.mark.parametrize(
    "overrides",
    [
        [
            *("model=vq", "loss=vq", "model.num_codes=16", "model.code_dim=4", "model.encoder.codebook_init=data"),
            *("model.encoder.codebook_decay=0.9", "model.encoder.restart_below=0.1"),
        ],
        ["model=fsq", "model.encoder.levels=[4,3,3]"],
    ],
)
@pytest.mark.slow
def test_codes_of_other_kinds_train_resume_to_the_bit_and_can_be_evaluated(command, tmp_path, overrides):
    own = ("model.latent_dim=null", "model.hidden_dims=[16]", *overrides)
    for name, epochs in (("whole", 3), ("run", 1)):
        trained = command("train", *RUN, *own, f"trainer.epochs={epochs}", f"hydra.run.dir={name}")
        assert trained.code == 0, trained.err
    assert command("train", "resume=run", "trainer.epochs=3").code == 0
    whole, resumed = ([without_times(row) for row in read_metrics(tmp_path / name)] for name in ("whole", "run"))
    assert whole == resumed
    assert whole[-1]["val/distortion"] < whole[0]["val/distortion"]
    evaluated = command("evaluate", "run=run", "evaluator=[elbo,codes,reconstruction]")
    assert evaluated.code == 0, evaluated.err
    assert "test/codebook_used" in evaluated.out
    assert "test/ssim" in evaluated.out
    assert command("generate", "run=run", "columns=2").code == 0


@pytest.mark.quick(6)
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ("model=fsq model.latent_dim=null loss=vq", "model=fsq has none to train; use loss=elbo"),
        (
            "model.posterior=full_covariance loss=beta_tcvae",
            "a MultivariateNormal over latents has no density for",
        ),
        ("model.posterior=full_covariance loss=free_bits", "a MultivariateNormal over latents has no density"),
        ("model=vq model.latent_dim=null loss=beta_tcvae", "has no density for each unit"),
        ("model=vq model.latent_dim=null loss=iwae", "codes of a codebook have no density over latents"),
        ("loss=vq", "loss=vq needs the codes of model=vq, not a posterior of type DiagonalGaussian"),
        ("model.posterior=flow loss=stl", "the parameters of a GaussianFlow cannot be held fixed"),
        ("model.posterior=flow model.latent_dim=1", "model.posterior=flow needs at least 2 latent units, not 1"),
        ("model=hierarchical model.latent_dim=null model.latent_dims=[3]", "must be two numbers of units"),
        ("model=conditional model.classes=7", "model.classes=7 is for labels from 0 to 6"),
        ("model=conditional model/prior=vamp", "pseudo-inputs have no class; choose another prior for this model"),
        ("model=vq model.latent_dim=3 loss=vq", "returns a posterior over"),
        ("evaluator=[quadrature]", "integrates over at most 2 latent units; the model has 3"),
        ("model=vq model.latent_dim=null loss=vq evaluator=[nll]", "evaluator=nll cannot be used with this"),
        ("evaluator=[elbo] evaluator.elbo.bits=true", "(LogitBernoulli) has no probability for grey values"),
        (
            "evaluator=[nll] evaluator.nll.bits=true model/likelihood=gaussian",
            "evaluator.nll.bits=true is not possible: the likelihood (Normal) is a density of real values",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_written(overrides: str, reason: str):
    assert reason in set_up_refusal(*RUN, *overrides.split())
