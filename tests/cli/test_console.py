import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from vae_exp import load_run
from vae_exp.cli.console import naming_command, print_metrics_table, print_run_summary, python_command
from vae_exp.data.images import ImageSet
from vae_exp.engine.validation import loss_term_metrics
from vae_exp.errors import UserError
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


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-101.23456, "-101.235"),
        (9999.5, "9,999.500"),
        (0.0012345, "0.001"),
        (1e-9, "1.00e-9"),
        (5.0, "5.000"),
        (-0.0, "0.000"),
        (25_432.7, "25,432.700"),
        (1.5e12, "1.50e+12"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_shown_with_as_many_digits_as_one_reads(
    value: float, shown: str, capsys: pytest.CaptureFixture[str]
):
    print_metrics_table({"test/nll": value}, "test: 30 images", {})
    out = capsys.readouterr().out
    assert _rows(out) == {"test/nll": (shown, "nats/image")}
    assert out.startswith("test: 30 images")


@pytest.mark.parametrize(
    ("words", "is_new", "text"),
    [
        (["run=a", "evaluator=[elbo]"], False, "'evaluator=[elbo]' data.path=/there/mine.npy split=train`."),
        (["split=val", "data.path=/other.npy"], False, " split=val data.path=/there/mine.npy`."),
        (["data.path=new.npy", "sort=elbo"], True, " sort=elbo data.path=new.npy`."),
    ],
)
def test_data_elsewhere_are_refused_with_the_command_that_opens_them(copied_run, words, is_new: bool, text: str):
    run = load_run(copied_run)
    source = {"_target_": "vae_exp.data.npz.NPZSource", "path": "/there/mine.npy"}
    data = {**run.config["data"], "path": "/there/mine.npy", "validation_size": 0, "source": source}
    run = naming_command(replace(run, config={**run.config, "data": data}), "encode", words, has_new_images=is_new)
    with pytest.raises(UserError, match=re.escape(text)) as refused:
        _ = run.data
    start = "VAE_EXP_DATA=/there " if is_new else ""
    assert f"say `{start}{python_command()} -m vae_exp.encode run={copied_run} " in str(refused.value)


def test_the_unit_follows_from_the_name_whatever_the_split():
    assert [unit(name) for name in ("nll", "test/nll", "a/b/nll")] == ["nats/image"] * 3
    assert unit("test/of_mine") == ""


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
    names = [*loss_term_metrics("train", torch.zeros(3)), "learning_rate", "grad_norm", "epoch_seconds"]
    names.append("images_per_second")
    assert len(names) == 8
    assert [name for name in names if name.rpartition("/")[2] not in METRICS] == []


RESULT: dict[str, Any] = {
    "metrics": {"train/loss": 101.5, "val/loss": 102.5},
    "epochs": 3,
    "monitor": "val/loss",
    "best": {"epoch": 2, "value": 102.25},
    "seconds": {"training": 1.25, "total": 2.5},
    "wandb": None,
}


@pytest.fixture
def summary(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is printed at the end of a run in a directory, with another result or config."""

    def call(directory: Path, config: dict[str, Any] | None = None, **changes: Any) -> str:
        print_run_summary(RESULT | changes, RunDirectory(directory), config or {})
        return capsys.readouterr().out

    return call


def test_a_summary_has_the_best_epoch_the_time_the_directory_and_the_next_commands(
    summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory = tmp_path / ("long" * 40)
    out = summary(directory)
    assert _rows(out) == {"train/loss": ("101.500", "nats/image"), "val/loss": ("102.500", "nats/image")}
    assert "After 3 epochs" in out
    assert "Best val/loss: 102.250 in epoch 2\n" in out
    assert "Training took 1.2 s, the whole run 2.5 s.\n" in out
    assert f"Run directory: {directory}\n" in out
    for command in ("evaluate", "generate"):
        assert f"python -m vae_exp.{command} run={directory}\n" in out
    assert not re.search("Figures|Weights & Biases|while the weights move|Warning", out)
    monkeypatch.chdir(tmp_path)
    out = summary(tmp_path / "outputs" / "run")
    assert "Run directory: outputs/run\n" in out
    assert "-m vae_exp.evaluate run=outputs/run\n" in out


def test_a_summary_explains_two_elbos_names_figures_and_has_warnings_before_the_numbers(summary, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    for name in ("samples.png", "latents.png", "notes.txt"):
        (tmp_path / "figures" / name).touch()
    warning = {"name": "posterior_collapse", "epoch": 2, "message": "the rate is 0.01 [/red]"}
    metrics = RESULT["metrics"] | {"train/elbo": -152.755, "best/train/negative_elbo": 152.459}
    out = summary(tmp_path, metrics=metrics, warnings=[warning])
    assert "train/elbo averages over the epoch while the weights move" in out
    assert f"Figures: {tmp_path / 'figures'} (latents.png, samples.png)\n" in out
    assert "\nWarning, posterior collapse in epoch 2: the rate is 0.01 [/red]\nBest val/loss" in out


@pytest.mark.parametrize("error", [None, "could not log: [/red] gone"])
def test_an_offline_run_can_be_uploaded_unless_its_tracker_was_lost(summary, tmp_path: Path, error: str | None):
    wandb = {"mode": "offline", "run_id": "x", "directory": "/w/offline-run-x", "error": error}
    assert (f"-m vae_exp.sync {tmp_path} uploads it\n" in summary(tmp_path, wandb=wandb)) == (error is None)


def test_the_next_commands_say_whose_classes_to_trust_and_which_split_there_is(summary, tmp_path: Path):
    config: dict[str, Any] = {
        "loss": {"_target_": "my_package.losses.Loss"},
        "model": {"_target_": "vae_exp.model.vae.VAE", "encoder": {"_target_": "torch.nn.Identity"}},
        "data": {"path": str(tmp_path / "mine.npz"), "validation_size": 0},
    }
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 4, 4)))
    command = f"evaluate run={tmp_path} 'trusted_packages=[my_package]'"
    assert f"{command} split=train\n" in summary(tmp_path, config)
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 4, 4)), test_images=np.zeros((2, 4, 4)))
    assert f"{command}\n" in summary(tmp_path, config)


def test_the_next_commands_name_the_data_only_where_the_run_alone_may_not_open_them(
    summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, cwd = tmp_path / "images", tmp_path / "cwd"
    for folder in (images, cwd):
        folder.mkdir()
    monkeypatch.chdir(cwd)
    source = {"_target_": "vae_exp.data.folder.FolderSource", "labels": "auto"}

    def words(root: str | Path, path: str | Path) -> str:
        data = {"root": str(root), "path": str(path), "validation_size": 1}
        data["source"] = source | {"root": data["root"], "path": data["path"]}
        match = re.search(r"evaluate run=run(.*) split=val\n", summary(cwd / "run", {"data": data}))
        assert match
        return match[1]

    assert words("data", cwd) == ""
    assert words("data", images) == f" data.path={images}"
    assert words(tmp_path, cwd) == f" data.root={tmp_path}"
    assert words(tmp_path, images) == f" data.root={tmp_path} data.path={images}"


@pytest.mark.parametrize("name", ["a b", "a, b (1)", "it's", "ä", "a=b", "$HOME", "a{1}"])
def test_the_next_commands_can_be_typed_whatever_the_name_of_the_directory(summary, tmp_path: Path, name: str):
    wandb = {"mode": "offline", "run_id": "x", "directory": "/w/offline-run-x", "error": None}
    out = summary(tmp_path / name, {"data": {"path": str(tmp_path / name)}}, wandb=wandb)
    [evaluate] = re.findall("vae_exp.evaluate (.*)", out)
    parsed = OverridesParser.create().parse_overrides(shlex.split(evaluate))
    values = {override.key_or_group: override.value() for override in parsed}
    assert str(values["run"]) == str(tmp_path / name)
    [dashboard] = re.findall("vae_exp.dashboard (.*) shows", out)
    assert shlex.split(dashboard) == [str(tmp_path / name)]


@pytest.mark.parametrize(("dataset", "split"), [("MNIST", ""), ({"_target_": "my.Dataset"}, " split=train")])
def test_official_data_have_test_images_and_a_dataset_of_ones_own_has_none(summary, tmp_path, dataset, split: str):
    config = {"data": {"source": {"dataset": dataset}, "validation_size": 0 if split else 5000}}
    out = summary(tmp_path, config)
    for command in ("evaluate", "generate"):
        assert re.search(rf"{command} run={tmp_path}( 'trusted_packages=\[my\]')?{split}\n", out)


def test_one_epoch_is_named_in_the_singular(summary, tmp_path: Path):
    assert re.search(r"After 1 epoch\s", summary(tmp_path, epochs=1))


def test_effective_samples_are_shown_of_how_many(capsys: pytest.CaptureFixture[str]):
    evaluators = {"nll": {"num_importance_samples": 500}}
    print_metrics_table({"test/nll_effective_samples": 12.5}, "test", evaluators)
    assert _rows(capsys.readouterr().out) == {"test/nll_effective_samples": ("12.5", "of 500 draws")}
