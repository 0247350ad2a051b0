from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vae_exp.cli.console import print_metrics_table, print_run_summary
from vae_exp.data.images import ImageSet
from vae_exp.engine.validation import loss_term_metrics
from vae_exp.evaluation.elbo import ELBOEvaluator
from vae_exp.evaluation.nll import NLLEvaluator
from vae_exp.metrics import METRICS, unit
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.storage.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def _rows(out: str) -> dict[str, tuple[str, str]]:
    """Value and unit of each metric in a printed table."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[:1] == "│"]
    return {name: (value, unit) for name, value, unit in cells}


def _shown(metrics: dict[str, float], capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    print_metrics_table(metrics, "a title")
    return _rows(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (101.23456, "101.235"),
        (-101.23456, "-101.235"),
        (9999.5, "9,999.500"),
        (0.0012345, "0.001234"),
        (1e-9, "1e-09"),
        (5.0, "5"),
        (0.0, "0"),
        (10_000.0, "10,000"),
        (1_234_567.0, "1,234,567"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_shown_with_as_many_digits_as_one_reads(
    value: float, shown: str, capsys: pytest.CaptureFixture[str]
):
    assert _shown({"test/nll": value}, capsys) == {"test/nll": (shown, "nats/image")}


@pytest.mark.parametrize(("value", "shown"), [(25_432.7, "25,433"), (12_345.678, "12,346")])
def test_large_numbers_are_not_shown_as_powers_of_ten(
    value: float, shown: str, capsys: pytest.CaptureFixture[str]
):
    assert _shown({"time/images_per_second": value}, capsys) == {"time/images_per_second": (shown, "images/s")}


def test_the_table_has_a_title(capsys: pytest.CaptureFixture[str]):
    print_metrics_table({"test/nll": 1.0}, "test: 30 images")
    assert capsys.readouterr().out.startswith("test: 30 images")


def test_the_unit_follows_from_the_name_whatever_the_split(capsys: pytest.CaptureFixture[str]):
    rows = _shown({"nll": 1.5, "test/nll": 1.5, "a/b/nll": 1.5, "test/of_mine": 1.5}, capsys)
    assert [unit for _, unit in rows.values()] == ["nats/image", "nats/image", "nats/image", ""]


def test_every_metric_of_our_evaluators_has_a_unit():
    torch.manual_seed(0)
    vae = VAE(MLPEncoder([1, 2, 2], 2, [3], "tanh"), MLPDecoder([1, 2, 2], 2, [3], "tanh"), StandardNormalPrior(2))
    images = ImageSet(torch.rand(3, 1, 2, 2), None, 1)
    evaluators = [
        ELBOEvaluator(num_samples=1, batch_size=3, every_n_epochs=None),
        NLLEvaluator(num_importance_samples=2, num_images=None, chunk_size=6, every_n_epochs=None),
    ]
    names = [name for each in evaluators for name, _ in each.run(vae, images, torch.Generator().manual_seed(0))]
    assert len(names) == 12
    assert [name for name in names if not unit(name)] == []


def test_every_metric_of_training_has_a_place_in_the_table_of_units():
    names = [*loss_term_metrics("train", torch.zeros(3)), "learning_rate", "epoch_seconds", "images_per_second"]
    assert len(names) == 7
    assert [name for name in names if name.rpartition("/")[2] not in METRICS] == []


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "metrics": {"train/loss": 101.5, "val/loss": 102.5},
        "epochs": 3,
        "monitor": "val/loss",
        "best": {"epoch": 2, "value": 102.25},
        "seconds": {"training": 1.25, "total": 2.5},
        "wandb": None,
    }


def _told(
    result: dict[str, Any],
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any] | None = None,
) -> str:
    print_run_summary(result, RunDirectory(directory), config or {})
    return capsys.readouterr().out


def test_a_result_is_told_with_its_best_epoch_its_time_and_its_directory(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = _told(result, tmp_path, capsys)
    assert _rows(out) == {"train/loss": ("101.500", "nats/image"), "val/loss": ("102.500", "nats/image")}
    assert "After 3 epochs" in out
    assert "Best val/loss: 102.250 in epoch 2\n" in out
    assert "Training took 1.2 s, the whole run 2.5 s.\n" in out
    assert f"Run directory: {tmp_path}\n" in out


def test_the_next_commands_can_be_pasted_from_one_line_each(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    directory = tmp_path / ("long" * 40)
    out = _told(result, directory, capsys)
    for command in ("evaluate", "generate"):
        assert f"python -m vae_exp.{command} run={directory}\n" in out


def test_paths_below_the_current_folder_are_short(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    out = _told(result, tmp_path / "outputs" / "run", capsys)
    assert "Run directory: outputs/run\n" in out
    assert "-m vae_exp.evaluate run=outputs/run\n" in out


def test_two_elbos_of_the_training_images_are_explained(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert "while the weights move" not in _told(result, tmp_path, capsys)
    result["metrics"] |= {"train/elbo": -152.755, "train/negative_elbo": 152.459}
    assert "train/elbo averages over the epoch while the weights move" in _told(result, tmp_path, capsys)


def test_figures_are_told_by_name(result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "Figures" not in _told(result, tmp_path, capsys)
    (tmp_path / "figures").mkdir()
    for name in ("samples.png", "latents.png", "notes.txt"):
        (tmp_path / "figures" / name).touch()
    assert f"Figures: {tmp_path / 'figures'} (latents.png, samples.png)\n" in _told(result, tmp_path, capsys)


def test_an_offline_run_is_told_how_to_upload_it(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result["wandb"] = {"mode": "offline", "run_id": "x", "directory": "/w/offline-run-x", "error": None}
    assert f"-m vae_exp.sync {tmp_path} uploads it\n" in _told(result, tmp_path, capsys)


def test_a_tracker_that_was_lost_is_not_uploaded(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result["wandb"] = {"mode": "offline", "run_id": "x", "directory": "/w", "error": "could not log: [/red] gone"}
    out = _told(result, tmp_path, capsys)
    assert "vae_exp.sync" not in out


def test_warnings_come_before_the_numbers_that_follow_the_table(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result["warnings"] = [{"name": "posterior_collapse", "epoch": 2, "message": "the rate is 0.01 [/red]"}]
    out = _told(result, tmp_path, capsys)
    assert "\nWarning, posterior collapse in epoch 2: the rate is 0.01 [/red]\nBest val/loss" in out


def test_without_weights_and_biases_nothing_is_told_of_it(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert "Weights & Biases" not in _told(result, tmp_path, capsys)


def test_the_next_commands_say_whose_classes_to_trust_and_which_split_there_is(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 4, 4)))
    config: dict[str, Any] = {
        "loss": {"_target_": "my_package.losses.Loss"},
        "model": {"_target_": "vae_exp.model.vae.VAE", "encoder": {"_target_": "torch.nn.Identity"}},
        "data": {"path": str(tmp_path / "mine.npz"), "validation_size": 0},
    }
    assert f"evaluate run={tmp_path} trusted_packages=[my_package] split=train\n" in _told(
        result, tmp_path, capsys, config
    )
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 4, 4)), test_images=np.zeros((2, 4, 4)))
    assert f"evaluate run={tmp_path} trusted_packages=[my_package]\n" in _told(result, tmp_path, capsys, config)
