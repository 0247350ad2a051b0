import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

import vae_exp
from vae_exp.configuration.resolvers import config_hash, config_hashes, stored_config_hash
from vae_exp.errors import UserError
from vae_exp.runs.resume import warn_of_another_config
from vae_exp.storage.run_directory import RunDirectory


def test_a_moved_run_gives_model_config_and_data(copied_run, generator):
    run = vae_exp.load_run(copied_run)
    assert run.config["model"]["latent_dim"] == 2
    assert len(run.data.test) == 360
    images = run.data.test.take(5).batch().images
    assert run.vae.reconstruct(images).shape == (5, 1, 8, 8)
    assert run.vae.sample(3, generator).shape == (3, 1, 8, 8)
    first, second = run.vae.sample(3), run.vae.sample(3)
    assert first.shape == (3, 1, 8, 8)
    assert not torch.equal(first, second)
    posterior = run.vae.encode(images)
    assert posterior.mean.numpy().shape == (5, 2)  # numpy refuses what carries a graph
    assert run.vae.decode(posterior.mean).mean.numpy().shape == (5, 1, 8, 8)
    assert not run.vae.training
    assert run.result["status"] == "completed"


def test_the_latest_run_is_opened_as_by_the_commands(copied_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run=latest: no run in outputs has a checkpoint"):
        vae_exp.load_run("latest")
    shutil.copytree(copied_run, "outputs/today/noon")
    assert vae_exp.load_run("latest").directory.path == tmp_path / "outputs/today/noon"


def test_packages_are_a_list_and_a_directory_has_a_name(copied_run):
    with pytest.raises(TypeError, match="must be a list of names"):
        vae_exp.load_run(copied_run, trusted_packages="abc")
    with pytest.raises(UserError, match="run= is empty"):
        vae_exp.load_run("")


def test_the_weights_are_those_of_the_checkpoint(copied_run):
    for name in ("best", "last"):
        run = vae_exp.load_run(copied_run, checkpoint=name)
        stored = torch.load(copied_run / "checkpoints" / f"{name}.pt", weights_only=True)["vae"]
        assert run.epoch >= 1
        for key, value in run.vae.state_dict().items():
            assert torch.equal(value, stored[key])


def test_loading_leaves_cuda_and_the_random_state_of_the_process_alone(copied_run, monkeypatch):
    """Forking the random state of all devices starts CUDA, and warns where there are several."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("CUDA is asked for its devices"))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    vae_exp.load_run(copied_run)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_a_best_checkpoint_the_last_is_taken_and_damaged_or_missing_ones_are_refused(copied_run):
    best, last = (copied_run / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
    os.truncate(best, best.stat().st_size // 2)
    with pytest.raises(UserError, match=r"best\.pt is not a whole checkpoint"):
        vae_exp.load_run(copied_run)
    best.unlink()
    assert vae_exp.load_run(copied_run).checkpoint == "last"
    with pytest.raises(UserError, match="checkpoint=best"):
        vae_exp.load_run(copied_run, checkpoint="best")
    last.unlink()
    with pytest.raises(UserError, match=r"has no checkpoint; .* resume=.* starts it again"):
        vae_exp.load_run(copied_run)


def test_a_checkpoint_of_another_architecture_is_refused(copied_run):
    path = copied_run / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("- 500", "- 400"))
    with pytest.raises(UserError, match="does not fit the model"):
        vae_exp.load_run(copied_run)


def test_a_model_far_larger_than_its_checkpoint_takes_no_memory(copied_run, monkeypatch):
    path = copied_run / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("- 500", "- 20000\n  - 20000"))
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: pytest.fail("weights were set"))
    with pytest.raises(UserError, match="does not fit the model of its config: it holds"):
        vae_exp.load_run(copied_run)


def test_layers_whose_size_follows_from_the_checkpoint_are_loaded(copied_run, monkeypatch):
    lazy = torch.nn.LazyLinear
    monkeypatch.setattr(torch.nn, "Linear", lambda inputs, outputs, **options: lazy(outputs, **options))
    images = vae_exp.load_run(copied_run).images("val").take(2).batch().images
    assert vae_exp.load_run(copied_run).vae.reconstruct(images).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(copied_run, value: float):
    path = copied_run / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    name = list(state["vae"])[1]
    state["vae"][name].flatten()[0] = value
    torch.save(state, path)
    with pytest.raises(UserError, match=rf"best\.pt holds 1 NaN or infinite values in {name}; choose another"):
        vae_exp.load_run(copied_run)
    assert vae_exp.load_run(copied_run, checkpoint="last").checkpoint == "last"


@pytest.mark.slow
def test_arrays_that_moved_are_found_where_the_caller_says(command, tmp_path, generator):
    images = torch.rand(60, 4, 6, generator=generator).numpy()
    np.savez(tmp_path / "mine.npz", images=images, test_images=images[:20])
    trained = command(
        "train", "data=arrays", "data.path=mine.npz", "trainer.epochs=1", "trainer.batch_size=20",
        "tracker=none", "hydra.run.dir=run", "evaluator.figures.columns=4",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert yaml.safe_load((tmp_path / "run" / ".hydra" / "config.yaml").read_text())["data"]["image_shape"] is None
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    shutil.move(tmp_path / "mine.npz", tmp_path / "theirs.npz")
    run = vae_exp.load_run(moved)
    assert run.vae.sample(2, generator).shape == (2, 1, 4, 6)
    with pytest.raises(UserError, match=r"data\.path=.*mine\.npz does not exist"):
        _ = run.data.test
    named = vae_exp.load_run(moved, data={"path": str(tmp_path / "theirs.npz")})
    assert len(named.data.test) == 20
    evaluated = command("evaluate", f"run={moved}", f"data.path={tmp_path / 'theirs.npz'}")
    assert evaluated.code == 0, evaluated.err


def test_a_config_that_was_changed_under_its_checkpoint_is_told(copied_run, caplog):
    vae_exp.load_run(copied_run)
    assert "edited or damaged" not in caplog.text
    config = copied_run / ".hydra" / "config.yaml"
    changed = config.read_text().replace("activation: relu", "activation: gelu")
    assert changed != config.read_text()
    config.write_text(changed)
    vae_exp.load_run(copied_run)
    assert f"{config} differs from the config that the checkpoint was written with" in caplog.text


def test_variables_of_the_environment_do_not_change_a_config(tmp_path, caplog, monkeypatch):
    data = {"root": "${oc.env:VAE_EXP_DATA,data}", "source": {"root": "${data.root}"}}
    stored = OmegaConf.create({"data": data})
    state = config_hashes(stored)
    monkeypatch.setenv("VAE_EXP_DATA", "/elsewhere")
    assert config_hash(stored) != state["config_hash"]
    warn_of_another_config(stored, state, RunDirectory(tmp_path))
    assert caplog.text == ""


@pytest.mark.parametrize("version", ["of today", "of the version before", "older"])
def test_only_what_no_resume_may_change_counts_as_another_config(version: str, tmp_path, caplog):
    stored = OmegaConf.create({"data": {"path": "a"}, "model": {"latent_dim": 2}, "trainer": {"epochs": 1}})
    former = {"config_hash": config_hash(stored)}
    if version == "of the version before":
        former["stored_config_hash"] = stored_config_hash(stored)
    state = config_hashes(stored) if version == "of today" else former
    warn_of_another_config(stored, state, RunDirectory(tmp_path))
    assert caplog.text == ""
    if version == "of today":
        resumed = OmegaConf.merge(stored, {"data": {"path": "b"}, "trainer": {"epochs": 9}})
        warn_of_another_config(resumed, state, RunDirectory(tmp_path))
        assert caplog.text == ""
    edited = OmegaConf.merge(stored, {"model": {"latent_dim": 3}})
    warn_of_another_config(edited, state, RunDirectory(tmp_path))
    assert "edited or damaged since" in caplog.text


def test_the_first_name_of_the_class_still_works():
    assert vae_exp.StoredRun is vae_exp.TrainedRun
