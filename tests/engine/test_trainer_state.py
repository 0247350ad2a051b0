"""Going on from a checkpoint: the trainer's whole state, to the bit."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau, SequentialLR, StepLR

from tests.builders import CPU, RecordingTracker, SignalAtStep, fit, grey_images, make_trainer, small_vae, weights
from vae_exp.data.images import ImageSet
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted
from vae_exp.model.vae import VAE

EPOCHS, STEPS = 3, 3  # eleven images in batches of four
TRAIN, VAL = grey_images(11), grey_images(5, seed=1)


class NoisyEvaluator:
    """An evaluator that draws from the generators of the process, as code of a user's may."""

    every_n_epochs = 1

    def run(self, vae: VAE, images: ImageSet, noise: torch.Generator):
        yield "draw", torch.rand(()).item()


def _plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


def _halving(optimizer: torch.optim.Optimizer) -> StepLR:
    return StepLR(optimizer, step_size=1, gamma=0.5)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"ema_decay": 0.9, "max_grad_norm": 1.0, "scheduler": _halving, "patience": 5},
    "streamed": {"train": TRAIN.stream_to(CPU), "scheduler": _plateau, "precision": "bf16"},
}


def _trainer(path: Path, tracker: RecordingTracker, settings: dict[str, Any]) -> tuple[Trainer, VAE]:
    torch.manual_seed(0)
    vae = small_vae()
    every = {"noisy": NoisyEvaluator()}
    given = {"train": TRAIN, "val": VAL, "epochs": EPOCHS, "evaluators": every, "trackers": [tracker]} | settings
    return make_trainer(path, vae=vae, **given), vae


def _whole(path: Path, settings: dict[str, Any]) -> tuple[Tensor, list[dict[str, float]], dict[str, Any]]:
    tracker = RecordingTracker()
    trainer, vae = _trainer(path, tracker, settings)
    fit(trainer)
    return weights(vae), tracker.rows(), load_checkpoint(path / "checkpoints" / "last.pt", CPU)


def _continued(
    path: Path, settings: dict[str, Any], first: Trainer, before: RecordingTracker, progress: NullProgress
) -> tuple[Tensor, list[dict[str, float]], dict[str, Any]]:
    """Interrupt a run, and continue with another trainer."""
    with pytest.raises(Interrupted):
        fit(first, progress)
    state = load_checkpoint(path / "checkpoints" / "last.pt", CPU)
    assert state["lines"] == len(before.lines)
    assert state["seconds"] > 0
    torch.manual_seed(99)
    tracker = RecordingTracker()
    trainer, vae = _trainer(path, tracker, settings)
    trainer.load_state_dict(state)
    fit(trainer)
    return weights(vae), before.rows() + tracker.rows(), load_checkpoint(path / "checkpoints" / "last.pt", CPU)


def _assert_same(resumed: Any, expected: Any) -> None:
    assert resumed[1] == expected[1]
    assert torch.equal(resumed[0], expected[0])
    for name in ("epoch", "step", "batches", "best", "lines"):
        assert resumed[2][name] == expected[2][name]
    for name in ("vae", "average", "optimizer"):
        torch.testing.assert_close(resumed[2][name], expected[2][name], rtol=0, atol=0)
    for one, other in zip(_random_states(resumed[2]), _random_states(expected[2]), strict=True):
        assert torch.equal(one, other)


def _random_states(state: dict[str, Any]) -> list[Tensor]:
    process = state["generators"]["process"]
    return [state["generators"]["shuffle"], state["generators"]["noise"], process["torch"]]


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of runs that are not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: _whole(folder / name, settings) for name, settings in SETTINGS.items()}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("at", range(1, EPOCHS * STEPS))
def test_a_run_interrupted_at_any_step_continues_to_the_bit(tmp_path: Path, whole_runs, name: str, at: int):
    before = RecordingTracker()
    first, _ = _trainer(tmp_path, before, SETTINGS[name])
    _assert_same(_continued(tmp_path, SETTINGS[name], first, before, SignalAtStep(at)), whole_runs[name])


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_interrupted_between_two_epochs_continues_to_the_bit(tmp_path: Path, whole_runs, after: int):
    before = RecordingTracker(
        on_row=lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == after else None
    )
    first, _ = _trainer(tmp_path, before, {})
    _assert_same(_continued(tmp_path, {}, first, before, NullProgress()), whole_runs["plain"])


def test_a_run_interrupted_in_its_first_validation_continues_without_warnings(tmp_path: Path):
    before, chosen = RecordingTracker(), {"scheduler": _halving, "epochs": 1}
    first, _ = _trainer(tmp_path / "run", before, chosen)
    _continued(tmp_path / "run", chosen, first, before, SignalAtStep(STEPS))


def test_a_finished_run_continues_to_more_epochs(tmp_path: Path):
    expected = _whole(tmp_path / "whole", {"epochs": 5})
    _, before, state = _whole(tmp_path / "run", {})
    tracker = RecordingTracker()
    trainer, vae = _trainer(tmp_path / "run", tracker, {"epochs": 5})
    trainer.load_state_dict(state)
    fit(trainer)
    assert before + tracker.rows() == expected[1]
    assert torch.equal(weights(vae), expected[0])


def _cosine(optimizer: torch.optim.Optimizer, epochs: int) -> SequentialLR:
    """A warm-up of one epoch, then down to the end."""
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=1)
    return SequentialLR(optimizer, [warm_up, CosineAnnealingLR(optimizer, epochs - 1)], milestones=[1])


def test_a_replanned_schedule_continues_where_it_would_be_by_now(tmp_path: Path):
    shorter, longer = ({"scheduler": partial(_cosine, epochs=epochs), "epochs": epochs} for epochs in (EPOCHS, 6))
    _, expected, _ = _whole(tmp_path / "whole", longer)
    *_, state = _whole(tmp_path / "run", shorter)
    tracker = RecordingTracker()
    trainer, _ = _trainer(tmp_path / "run", tracker, longer)
    trainer.load_state_dict(state, replan=True)
    fit(trainer)
    rates = [[line["train/learning_rate"] for line in each] for each in (tracker.rows(), expected)]
    assert rates[0] == rates[1][EPOCHS:]
    assert len(set(rates[1])) == 6


def test_a_run_of_a_cuda_device_continues_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    *_, state = _whole(tmp_path / "run", {})
    state["generators"] |= {
        "device": "cuda",
        "shuffle": torch.zeros(16, dtype=torch.uint8),
        "noise": torch.zeros(16, dtype=torch.uint8),
    }
    state["optimizer"]["param_groups"][0]["capturable"] = True
    trainer, _ = _trainer(tmp_path / "run", RecordingTracker(), {"epochs": 4})
    trainer.load_state_dict(state)
    assert fit(trainer).state.epoch == 4
    assert "order and noise come from new generators on cpu" in caplog.text
