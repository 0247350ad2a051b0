"""Going on from a checkpoint: the trainer's whole state, to the bit."""

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau, SequentialLR

from tests.builders import (
    CPU,
    RecordingTracker,
    SignalAtStep,
    fit,
    grey_images,
    halving,
    make_trainer,
    small_vae,
    weights,
)
from vae_exp.data.images import ImageSet
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.trainer import Trainer
from vae_exp.errors import Interrupted
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Linear

EPOCHS, STEPS = 3, 3  # eleven images in batches of four
TRAIN, VAL = grey_images(11), grey_images(5, seed=1)


class NoisyEvaluator:
    """An evaluator that draws from the generators of the process, as code of a user's may."""

    every_n_epochs = 1

    def run(self, vae: VAE, images: ImageSet, noise: torch.Generator):
        yield "draw", torch.rand(()).item()


def _plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"ema_decay": 0.9, "max_grad_norm": 1.0, "scheduler": halving, "patience": 5},
    "augmented": {"train": replace(TRAIN, augment=("flip", "shift", "crop"))},
    "streamed": {"train": TRAIN.stream_to(CPU), "scheduler": _plateau, "precision": "bf16"},
    "scheduled": {"loss": lambda: BetaVAE(Linear(0.0, 1.0, duration=20, unit="step"))},
}


def _trainer(path: Path, tracker: RecordingTracker, settings: dict[str, Any]) -> tuple[Trainer, VAE]:
    torch.manual_seed(0)
    vae = small_vae()
    every = {"noisy": NoisyEvaluator()}
    given = {"train": TRAIN, "val": VAL, "epochs": EPOCHS, "evaluators": every, "trackers": [tracker]} | settings
    loss = given.pop("loss", ELBO)()
    return make_trainer(path, vae=vae, loss=loss, **given), vae


Results = tuple[Tensor, list[dict[str, float]], dict[str, Any]]  # weights, rows, last checkpoint


def _whole(path: Path, settings: dict[str, Any], state: dict[str, Any] | None = None, **options: Any) -> Results:
    """Train to the end, from a state where there is one."""
    tracker = RecordingTracker()
    trainer, vae = _trainer(path, tracker, settings)
    if state is not None:
        trainer.load_state_dict(state, **options)
    fit(trainer)
    return weights(vae), tracker.rows(), load_checkpoint(path / "checkpoints" / "last.pt", CPU)


def _continued(
    path: Path,
    settings: dict[str, Any],
    progress: NullProgress,
    on_row: Callable[[int], None] = lambda count: None,
) -> Results:
    """Interrupt a run, and continue with another trainer."""
    before = RecordingTracker(on_row=on_row)
    first, _ = _trainer(path, before, settings)
    with pytest.raises(Interrupted):
        fit(first, progress)
    state = load_checkpoint(path / "checkpoints" / "last.pt", CPU)
    assert state["lines"] == len(before.lines)
    assert state["seconds"] > 0
    torch.manual_seed(99)
    resumed, rows, last = _whole(path, settings, state)
    return resumed, before.rows() + rows, last


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


@pytest.mark.quick(15)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("at", range(1, EPOCHS * STEPS))
def test_a_run_interrupted_at_any_step_continues_to_the_bit(tmp_path: Path, whole_runs, name: str, at: int):
    _assert_same(_continued(tmp_path, SETTINGS[name], SignalAtStep(at)), whole_runs[name])


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_interrupted_between_two_epochs_continues_to_the_bit(tmp_path: Path, whole_runs, after: int):
    on_row = lambda count: signal.raise_signal(signal.SIGTERM) if count == after else None  # noqa: E731
    _assert_same(_continued(tmp_path, {}, NullProgress(), on_row), whole_runs["plain"])


def test_a_run_interrupted_between_two_evaluators_continues_to_the_bit(tmp_path: Path):
    class Interrupting(NoisyEvaluator):
        def run(self, vae: VAE, images: ImageSet, noise: torch.Generator):
            yield from super().run(vae, images, noise)
            if not (tmp_path / "run" / "checkpoints" / "last.pt").exists() and self.interrupts:
                signal.raise_signal(signal.SIGTERM)

    evaluators = {"first": Interrupting(), "second": NoisyEvaluator()}
    evaluators["first"].interrupts = False
    whole = _whole(tmp_path / "whole", {"evaluators": evaluators})
    evaluators["first"].interrupts = True
    settings = {"evaluators": evaluators, "checkpoint_every_n_epochs": EPOCHS}
    _assert_same(_continued(tmp_path / "run", settings, NullProgress()), whole)


def test_the_seconds_of_an_interrupted_epoch_are_those_of_all_its_steps(tmp_path: Path):
    tracker = RecordingTracker()
    first, _ = _trainer(tmp_path, tracker, {})
    with pytest.raises(Interrupted):
        fit(first, SignalAtStep(STEPS))  # the last step of the first epoch
    resumed, _ = _trainer(tmp_path, tracker, {})
    resumed.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / "last.pt", CPU))
    fit(resumed)
    row = tracker.lines[0][1]
    assert row["time/epoch_seconds"] >= first.phase_seconds["training"] > 0
    assert row["time/images_per_second"] == pytest.approx(len(TRAIN) / row["time/epoch_seconds"])


def test_a_run_interrupted_in_its_first_validation_continues_without_warnings(tmp_path: Path):
    _continued(tmp_path, {"scheduler": halving, "epochs": 1}, SignalAtStep(STEPS))


def test_a_finished_run_continues_to_more_epochs(tmp_path: Path):
    expected = _whole(tmp_path / "whole", {"epochs": 5})
    _, before, state = _whole(tmp_path / "run", {})
    resumed, rows, _ = _whole(tmp_path / "run", {"epochs": 5}, state)
    assert before + rows == expected[1]
    assert torch.equal(resumed, expected[0])


def _cosine(optimizer: torch.optim.Optimizer, epochs: int) -> SequentialLR:
    """A warm-up of one epoch, then down to the end."""
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=1)
    return SequentialLR(optimizer, [warm_up, CosineAnnealingLR(optimizer, epochs - 1)], milestones=[1])


def test_a_replanned_schedule_continues_where_it_would_be_by_now(tmp_path: Path):
    shorter, longer = ({"scheduler": partial(_cosine, epochs=epochs), "epochs": epochs} for epochs in (EPOCHS, 6))
    _, expected, _ = _whole(tmp_path / "whole", longer)
    *_, state = _whole(tmp_path / "run", shorter)
    _, rows, _ = _whole(tmp_path / "run", longer, state, replan=True)
    rates, expected_rates = ([row["train/learning_rate"] for row in run] for run in (rows, expected))
    assert rates == expected_rates[EPOCHS:]
    assert len(set(expected_rates)) == 6


def test_a_run_of_a_cuda_device_continues_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    *_, state = _whole(tmp_path / "run", {})
    state["generators"] |= {
        "device": "cuda",
        "shuffle": torch.zeros(16, dtype=torch.uint8),
        "noise": torch.zeros(16, dtype=torch.uint8),
    }
    state["optimizer"]["param_groups"][0]["capturable"] = True
    _, _, last = _whole(tmp_path / "run", {"epochs": 4}, state)
    assert last["epoch"] == 4
    assert "order and noise come from new generators on cpu" in caplog.text
