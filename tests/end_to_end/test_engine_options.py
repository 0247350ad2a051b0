"""The options of the engine through the real command."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.readers import read_result
from tests.test_conf import set_up_refusal
from vae_exp import load_run

RUN = ("data=digits", "trainer.epochs=2", "tracker=none", "evaluator=[]", "trainer.device=cpu")


def trained(command, tmp_path: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The result of a run, its weights beside it."""
    finished = command("train", *RUN, f"hydra.run.dir={name}", *overrides)
    assert finished.code == 0, finished.err
    result = read_result(tmp_path / name)
    result["weights"] = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
    return result


@pytest.mark.slow
def test_streamed_images_give_the_same_weights_and_an_average_is_what_is_scored_and_loaded(command, tmp_path):
    resident = trained(command, tmp_path, "resident", "data.binarization=dynamic", "data.preload_to_device=true")
    streamed = trained(command, tmp_path, "streamed", "data.binarization=dynamic", "data.preload_to_device=false")
    averaged = trained(command, tmp_path, "averaged", "data.binarization=dynamic", "trainer.ema_decay=0.9")
    for name, weight in resident["weights"]["vae"].items():
        assert torch.equal(weight, streamed["weights"]["vae"][name])
    log = (tmp_path / "streamed" / "train.log").read_text()
    assert ", eager steps: " in log
    assert "streamed from host memory" in log
    assert averaged["metrics"]["train/loss"] == resident["metrics"]["train/loss"]
    assert averaged["metrics"]["val/loss"] != resident["metrics"]["val/loss"]
    loaded = load_run(tmp_path / "averaged", checkpoint="last").vae.state_dict()
    for name, average in averaged["weights"]["average"].items():
        assert torch.equal(loaded[name], average)
        assert not torch.equal(loaded[name], averaged["weights"]["vae"][name])


@pytest.mark.slow
def test_the_debug_trainer_takes_two_epochs_on_the_first_training_images(command, tmp_path):
    run = ("trainer=debug", "trainer.max_train_images=300", "hydra.run.dir=run")
    finished = command("train", *RUN[:1], *RUN[2:], *run)
    assert finished.code == 0, finished.err
    assert (read_result(tmp_path / "run")["epochs"], read_result(tmp_path / "run")["steps"]) == (2, 6)
    assert ": 300 training and" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
def test_a_clipped_gradient_trains_otherwise(command, tmp_path):
    clipped = trained(command, tmp_path, "clipped", "trainer.max_grad_norm=0.001", "optimizer=sgd")
    free = trained(command, tmp_path, "free", "optimizer=sgd")
    assert clipped["metrics"]["train/loss"] > free["metrics"]["train/loss"]


@pytest.mark.slow
def test_moments_of_weights_without_a_gradient_decay_to_zero_instead_of_denormals(command, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (700, 4, 4), dtype=np.uint8)
    images[1:, 0, 0] = 0  # a pixel that one image alone lights, once per epoch
    np.savez(tmp_path / "images.npz", images=images)
    overrides = ("model.hidden_dims=[8]", "+optimizer.betas=[0.7,0.999]", "optimizer.weight_decay=0")
    small = ("trainer.batch_size=1", "data.validation_size=2")
    finished = command(
        "train", "data=arrays", "data.path=images.npz", *RUN[1:], *overrides, *small, "hydra.run.dir=run"
    )
    assert finished.code == 0, finished.err
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["optimizer"]["state"]
    moments = torch.cat([parameter["exp_avg"].flatten() for parameter in state.values()]).abs()
    assert moments[moments > 0].min() >= torch.finfo(torch.float32).tiny


@pytest.mark.slow
def test_a_small_net_takes_one_thread_and_a_resumed_run_those_of_its_checkpoint(command, tmp_path, monkeypatch):
    used: list[int] = []
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    assert trained(command, tmp_path, "auto")["threads"] == 1
    assert trained(command, tmp_path, "own", "trainer.threads=null")["threads"] == 4
    assert used == [1, 4, 4, 4]  # each puts back what it found

    last = tmp_path / "auto" / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    for stored, expected in ((3, 3), (None, 4)):  # older versions stored none, and trained with torch's own number
        state.pop("threads", None)
        torch.save(state if stored is None else {**state, "threads": stored}, last)
        used.clear()
        resumed = command("train", "resume=auto", f"trainer.epochs={2 + (stored is None)}")
        assert resumed.code == 0, resumed.err
        assert used[0] == expected


def test_the_environment_sets_the_threads_and_the_run_says_so(command, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    own = torch.get_num_threads()
    assert trained(command, tmp_path, "run", f"trainer.threads={own + 1}")["threads"] == own
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"{own} thread" in log
    assert "by OMP_NUM_THREADS, eager steps: " in log
    assert f"trainer.threads={own + 1} is not used: OMP_NUM_THREADS is set; {own} instead" in log


@pytest.mark.slow
def test_several_steps_in_a_graph_are_single_ones_without_a_graph_and_a_resume_may_ask_for_them(command, tmp_path):
    single = trained(command, tmp_path, "single")
    several = trained(command, tmp_path, "several", "trainer.epochs=1", "trainer.steps_per_graph=20")
    log = (tmp_path / "several" / "train.log").read_text()
    assert "trainer.steps_per_graph=20 is not used: steps are not captured as a CUDA graph." in log
    assert single["config_hash"] != several["config_hash"]  # by trainer.epochs alone
    resumed = command("train", "resume=several", "trainer.epochs=2", "trainer.steps_per_graph=10")
    assert resumed.code == 0, resumed.err
    assert read_result(tmp_path / "several")["config_hash"] == single["config_hash"]
    assert "trainer.steps_per_graph=10 is not used" in (tmp_path / "several" / "train.log").read_text()
    assert read_result(tmp_path / "several")["metrics"]["val/loss"] == single["metrics"]["val/loss"]


@pytest.mark.slow
def test_memory_is_counted_for_steps_in_float32_alone(command, tmp_path, monkeypatch):
    """Autocast keeps half of it, and a run that fits must not be refused."""
    monkeypatch.setattr("vae_exp.engine.device._total_memory", lambda device: 1000)
    refused = command("train", "data=digits", "tracker=none")
    assert refused.code == 1
    assert "GiB for its gradients" in refused.err
    assert trained(command, tmp_path, "half", "trainer.precision=bf16")["precision"] == "bf16"


@pytest.mark.slow
def test_black_and_white_images_are_scored_as_such(command, tmp_path):
    for binarization in ("dynamic", "fixed"):
        trained(command, tmp_path, binarization, f"data.binarization={binarization}")
        scores = []
        for _ in range(2):
            scored = command("evaluate", f"run={binarization}", "evaluator=[elbo]")
            assert scored.code == 0, scored.err
            scores.append(json.loads((tmp_path / binarization / "evaluation" / "test-best.json").read_text()))
        assert scores[0] == scores[1]
        assert scores[0]["targets"] == "binary"


@pytest.mark.slow
def test_a_conditional_model_trains_on_pixels_that_every_step_draws(command, tmp_path):
    options = ("model=conditional", "model.hidden_dims=[16]", "data.binarization=dynamic")
    whole = trained(command, tmp_path, "whole", *options)
    trained(command, tmp_path, "resumed", *options, "trainer.epochs=1")
    assert command("train", "resume=resumed", "trainer.epochs=2").code == 0
    resumed = torch.load(tmp_path / "resumed" / "checkpoints" / "last.pt", weights_only=True)
    for name, weight in whole["weights"]["vae"].items():
        assert torch.equal(weight, resumed["vae"][name])
    assert command("evaluate", "run=whole", "evaluator=[elbo]").code == 0
    scores = json.loads((tmp_path / "whole" / "evaluation" / "test-best.json").read_text())
    assert scores["targets"] == "binary"
    means = load_run(tmp_path / "whole").vae.decode(torch.zeros(10, 2), torch.arange(10)).mean
    assert len(means.unique(dim=0)) == 10  # a mean image of each class


def test_a_run_that_diverges_keeps_the_last_good_epoch(command, tmp_path):
    """From the second epoch on the learning rate is beyond all bounds."""
    schedule = ("+scheduler.step_size=1", "+scheduler.gamma=1e30")
    target = "scheduler._target_=torch.optim.lr_scheduler.StepLR"
    finished = command("train", *RUN, "hydra.run.dir=run", "trainer.epochs=5", f"+{target}", *schedule)
    assert finished.code == 1
    result = read_result(tmp_path / "run")
    assert result["status"] == "diverged"
    assert result["epochs"] == 1
    assert "in epoch 2 (step " in result["error"]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["epoch"] == 1
    assert all(weight.isfinite().all() for weight in state["vae"].values())


def test_what_the_device_cannot_do_is_refused():
    for override, reason in (
        ("execution=graph", "trainer.execution=graph needs a CUDA device, not cpu; use auto, eager or compile"),
        ("precision=tf32", "trainer.precision=tf32 needs a CUDA device"),
    ):
        assert reason in set_up_refusal(*RUN, f"trainer.{override}")


@pytest.mark.slow
@pytest.mark.filterwarnings("default:The .grad attribute")  # the compiler looks at one
def test_compiled_steps_train_the_same(command, tmp_path):
    eager = trained(command, tmp_path, "eager", "trainer.execution=eager")
    compiled = trained(command, tmp_path, "compiled", "trainer.execution=compile")
    assert compiled["execution"] == "compile"
    assert ", compiled steps: " in (tmp_path / "compiled" / "train.log").read_text()
    assert compiled["metrics"]["train/loss"] == pytest.approx(eager["metrics"]["train/loss"], rel=1e-4)
