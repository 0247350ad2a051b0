import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import vae_exp
from vae_exp.model.vae import VAE


def test_evaluate_writes_what_it_prints(command, copied_run):
    finished = command("evaluate", f"run={copied_run}", "evaluator.nll.num_importance_samples=50")
    assert finished.code == 0, finished.err
    stored = json.loads((copied_run / "evaluation" / "test-best.json").read_text())
    metrics = stored["metrics"]
    assert set(metrics) >= {
        "test/elbo", "test/negative_elbo", "test/rate", "test/distortion", "test/reconstruction_from_mean",
        "test/nll", "test/nll_se", "test/nll_monte_carlo_se",
    }  # fmt: skip
    assert metrics["test/nll"] < metrics["test/negative_elbo"]
    assert (stored["images"], stored["checkpoint"]) == (360, "best")
    assert f"{metrics['test/nll']:.3f}" in finished.out
    assert stored["targets"] == "greyscale"
    assert "scores, not likelihoods" in finished.out
    command("evaluate", f"run={copied_run}", "evaluator.nll.num_importance_samples=50")
    assert json.loads((copied_run / "evaluation" / "test-best.json").read_text()) == stored


@pytest.mark.slow
def test_evaluate_scores_the_images_of_the_split(command, copied_run):
    command("evaluate", f"run={copied_run}", "split=val", "evaluator=[elbo]", "checkpoint=last")
    metrics = json.loads((copied_run / "evaluation" / "val-last.json").read_text())["metrics"]
    run = vae_exp.load_run(copied_run, checkpoint="last")
    images = run.data.val.batch().images
    at_mean = run.vae.decode(run.vae.encode(images).mean).log_prob(images).mean().item()
    assert metrics["val/reconstruction_from_mean"] == pytest.approx(-at_mean, rel=1e-5)
    assert metrics["val/rate"] == pytest.approx(run.result["metrics"]["val/rate"], rel=1e-4)


def test_an_evaluation_of_nothing_is_refused(command, copied_run):
    finished = command("evaluate", f"run={copied_run}", "evaluator=[]")
    assert finished.code == 1
    assert "evaluator=[] computes nothing" in finished.err
    assert not (copied_run / "evaluation").exists()


@pytest.mark.slow
def test_evaluators_that_run_one_after_another_share_a_file(command, copied_run):
    path = copied_run / "evaluation" / "test-best.json"
    command("evaluate", f"run={copied_run}", "evaluator=[elbo]")
    command("evaluate", f"run={copied_run}", "evaluator=[nll]", "evaluator.nll.num_importance_samples=20")
    assert {"test/elbo", "test/nll"} <= set(json.loads(path.read_text())["metrics"])
    finished = command("evaluate", f"run={copied_run}", "evaluator=[elbo]", "seed=1")
    assert f"{path} in place of the scores of elbo, nll, which had seed=0" in finished.out
    assert "test/nll" not in json.loads(path.read_text())["metrics"]


@pytest.mark.slow
def test_evaluate_draws_what_it_is_asked_to_draw(command, copied_run):
    finished = command("evaluate", f"run={copied_run}", "evaluator=[figures]", "evaluator.figures.manifold_size=3")
    assert finished.code == 0, finished.err
    assert (copied_run / "evaluation" / "test-best" / "manifold.png").exists()


def test_generate_draws_test_images_and_keeps_the_arrays(command, copied_run, monkeypatch):
    """In single precision, as the evaluator does: torch's default lets CUDA round the factors of convolutions."""
    flags, decode, before = [], VAE.decode, set(copied_run.parent.iterdir())
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(
        VAE, "decode", lambda *arguments: flags.append(torch.backends.cudnn.allow_tf32) or decode(*arguments)
    )
    finished = command("generate", f"run={copied_run}", "columns=5", "manifold_size=4")
    assert finished.code == 0, finished.err
    assert flags[-1] is False
    generated = copied_run / "generated" / "test-best"
    assert set(copied_run.parent.iterdir()) == before
    names = {"reconstructions", "samples", "manifold", "interpolations", "latent_scatter"}
    assert {path.stem for path in generated.glob("*.png")} == names
    run = vae_exp.load_run(copied_run)
    with np.load(generated / "reconstructions.npz") as arrays:
        originals = torch.from_numpy(arrays["originals"])
        torch.testing.assert_close(originals, run.data.test.random_subset(20).batch().images)
        torch.testing.assert_close(torch.from_numpy(arrays["reconstructions"]), run.vae.reconstruct(originals))
    with np.load(generated / "manifold.npz") as arrays:
        assert arrays["manifold"].shape == (4, 4, 1, 8, 8)
    with np.load(generated / "latent_scatter.npz") as arrays:
        assert arrays["means"].shape == (360, 2)
        assert (arrays["labels"] == run.data.test.labels.numpy()).all()
    for path in generated.glob("*.png"):
        assert imread(path).std() > 0.01


@pytest.mark.slow
def test_splits_checkpoints_and_priors_have_pictures_of_their_own(command, copied_run, tmp_path):
    """Several of them in one command leave nothing elsewhere."""
    before = set(tmp_path.iterdir())
    options = ("columns=2", "manifold_size=2", "components=2")
    finished = command("generate", "-m", f"run={copied_run}", "split=val,test", "prior=model,fitted", *options)
    assert finished.code == 0, finished.err
    folders = {path.name for path in (copied_run / "generated").iterdir() if path.is_dir()}
    assert folders == {"val-best", "test-best", "val-best-fitted", "test-best-fitted"}
    with (
        np.load(copied_run / "generated" / "val-best" / "reconstructions.npz") as val,
        np.load(copied_run / "generated" / "test-best" / "reconstructions.npz") as test,
    ):
        assert not np.array_equal(val["originals"], test["originals"])
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_samples_are_written_in_batches_from_the_prior_or_the_fitted_mixture(command, copied_run, tmp_path):
    many = ("samples=1203", "output=samples.npz")
    finished = command("generate", f"run={copied_run}", *many)
    assert finished.code == 0, finished.err
    again = command("generate", f"run={copied_run}", *many)
    assert again.code == 1
    assert (
        f"output={tmp_path / 'samples.npz'} exists; overwrite=true replaces it, output=PATH writes elsewhere"
        in again.err
    )
    with np.load(tmp_path / "samples.npz") as arrays:
        assert set(arrays) == {"images"}
        first = arrays["images"]
    assert (first.shape, first.dtype) == ((1203, 1, 8, 8), np.float32)
    assert len(np.unique(first, axis=0)) == 1203
    for name in ("fitted to 1200 codes", "that of"):
        fitted = command("generate", f"run={copied_run}", *many, "overwrite=true", "prior=fitted", "components=3")
        assert fitted.code == 0, fitted.err
        assert name in fitted.out + fitted.err
    with np.load(tmp_path / "samples.npz") as arrays:
        means = torch.from_numpy(arrays["images"].mean(axis=0)), vae_exp.load_run(copied_run).data.test.mean()
        torch.testing.assert_close(*means, atol=0.1, rtol=0)
        assert not np.array_equal(arrays["images"], first)
    assert not list((copied_run / "generated").rglob("*.png"))
    assert command("train", "data=arrays", "data.path=samples.npz", "--cfg", "job").code == 0
    config = copied_run / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("max_train_images: null", "max_train_images: 300"))
    (copied_run / "generated" / "fitted_prior.npz").unlink()
    fewer = command("generate", f"run={copied_run}", *many, "overwrite=true", "prior=fitted", "components=3")
    assert "fitted to 300 codes" in fewer.out + fewer.err


def test_no_list_of_all_samples_is_in_memory(command, copied_run, monkeypatch):
    count, written = 10**15, {}
    monkeypatch.setattr("vae_exp.storage.npz_stream.write_npz", lambda _, arrays: written.update(arrays))
    finished = command("generate", f"run={copied_run}", f"samples={count}", "output=samples.npz")
    assert finished.code == 0, finished.err
    shape, _, images = written["images"]
    assert shape == [count, 1, 8, 8]
    assert next(iter(images)).shape == (500, 1, 8, 8)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["samples=10"], "samples=10 needs a file: add output=samples.npz"),
        (["output=a.npz"], "output=a.npz needs the number of samples: add samples=10000"),
        (["samples=10", "output=a.csv"], "output=a.csv must end in .npz"),
        (["samples=0", "output=a.npz"], "samples=0 must be at least 1"),
        (["prior=mixture"], "prior=mixture must be one of model, fitted"),
        (["prior=fitted", "components=2000"], "components=2000 needs as many training images; the run has 1200"),
    ],
)
def test_samples_that_cannot_be_written_are_refused(command, copied_run, tmp_path, overrides, message):
    before = set(tmp_path.iterdir())
    finished = command("generate", f"run={copied_run}", *overrides)
    assert finished.code == 1
    assert message in finished.err
    assert set(tmp_path.iterdir()) == before
    assert not (copied_run / "generated").exists()


def test_a_bare_path_or_latest_names_the_run(command, digits_run, tmp_path):
    first, second = (shutil.copytree(digits_run, tmp_path / "outputs" / name) for name in ("day/a(1)", "b"))
    os.utime(first / "checkpoints" / "last.pt", (1, 1))
    finished = command("generate", "run=latest", "columns=2", "manifold_size=2")
    assert finished.code == 0, finished.err
    assert f"The latest run is {Path('outputs', 'b')}" in finished.out
    assert (second / "generated" / "test-best" / "samples.png").exists()
    assert not (first / "generated").exists()
    finished = command("evaluate", "evaluator=[elbo]", "outputs/day/a(1)")
    assert finished.code == 0, finished.err
    assert (first / "evaluation" / "test-best.json").exists()
    shutil.rmtree(tmp_path / "outputs")
    assert "run=latest: no run in outputs has a checkpoint" in command("evaluate", "run=latest").err


@pytest.mark.slow
def test_labels_of_test_images_that_a_conditional_model_does_not_know_are_refused(command, tmp_path):
    images, labels = np.full((20, 4, 4), 0.5), np.arange(20) % 3
    np.savez(tmp_path / "mine.npz", images=images, labels=labels, test_images=images, test_labels=labels + 1)
    own = ("data=arrays", "data.path=mine.npz", "model=conditional", "model.classes=3", "trainer.batch_size=10")
    trained = command("train", *own, "trainer.epochs=1", "tracker=none", "evaluator=[elbo]", "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    assert command("generate", "run=run", "samples=501", "output=s.npz", "prior=fitted", "components=2").code == 0
    with np.load(tmp_path / "s.npz") as arrays:
        assert (arrays["labels"] == np.arange(501) % 3).all()
        assert arrays["images"].shape == (501, 1, 4, 4)
    for name in ("evaluate", "generate"):
        refused = command(name, "run=run")
        assert refused.code == 1
        assert "model.classes=3 is for labels from 0 to 2; those of the test images go from 1 to 3" in refused.err
