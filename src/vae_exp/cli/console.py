"""Tables that the commands print at their end."""

import shlex
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from vae_exp.configuration.allowlist import Caller, require_safe, untrusted_packages
from vae_exp.configuration.overrides import override_key, shell_word
from vae_exp.data.image_files import split_folders
from vae_exp.errors import UserError, quantity
from vae_exp.metrics import format_value, unit
from vae_exp.storage.atomic_io import absolute_path
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.manifest import FILE as MANIFEST

if TYPE_CHECKING:
    from vae_exp.runs.trained_run import TrainedRun


def print_metrics_table(metrics: Mapping[str, float], title: str, evaluators: Mapping[str, Any]) -> None:
    """A table of metrics with their units.

    Args:
        metrics: By name.
        title: Above the table.
        evaluators: The group `evaluator` that they are of.
    """
    draws = evaluators.get("nll", {}).get("num_importance_samples")
    table = Table()  # a title of its own would be wrapped to the width of the table
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for name, value in metrics.items():
        is_of_draws = draws is not None and name.endswith("/nll_effective_samples")
        table.add_row(name, format_value(name, value), f"of {draws} draws" if is_of_draws else unit(name))
    _console().print(title, table, markup=False, highlight=False)


def print_run_summary(result: Mapping[str, Any], directory: RunDirectory, config: Mapping[str, Any]) -> None:
    """What came of a run, where it lies, and what to do with it next.

    Args:
        result: What `result.json` holds.
        directory: The run's.
        config: The run's, as plain containers.
    """
    metrics = result["metrics"]
    repeated = {name for name in metrics if name.removeprefix("best/") in metrics and name.startswith("best/")}
    shown = {name: value for name, value in metrics.items() if name not in repeated | {"best/epoch"}}
    print_metrics_table(shown, f"After {quantity(result['epochs'], 'epoch')}", config.get("evaluator", {}))
    if {"train/elbo", "best/train/negative_elbo"} <= set(metrics):
        note = "train/elbo averages over the epoch while the weights move; best/train/negative_elbo draws again."
        _console().print(note, soft_wrap=True)
    best, path = result["best"], _relative(directory.path)
    figures = sorted(path.name for path in directory.figures.glob("*.png"))
    lines = [
        *(
            f"Warning, {warning['name'].replace('_', ' ')} in epoch {warning['epoch']}: {warning['message']}"
            for warning in result.get("warnings", ())
        ),
        *(["Stopped early: the monitor no longer improved."] if result.get("stopped_early") else []),
        f"Best {result['monitor']}: {format_value(result['monitor'], best['value'])} in epoch {best['epoch']}",
        f"Training took {result['seconds']['training']:.1f} s, the whole run {result['seconds']['total']:.1f} s.",
        f"Run directory: {path}",
    ]
    if figures:
        lines.append(f"Figures: {_relative(directory.figures)} ({', '.join(figures)})")
    wandb = result["wandb"]
    if wandb and wandb["mode"] == "offline" and not wandb["error"]:
        word = shlex.quote(str(path))
        lines.append(f"Weights & Biases, offline: {python_command()} -m vae_exp.sync {word} uploads it")
        lines.append(f"Dashboard: {python_command()} -m vae_exp.dashboard {word} shows it in a browser")
    words = " ".join([shell_word("run", path), *_needed(config, directory).values()])
    lines += [
        f"Next: {python_command()} -m vae_exp.evaluate {words}",
        f"      {python_command()} -m vae_exp.generate {words}",
    ]
    for line in lines:
        _console().print(line, markup=False, highlight=False, soft_wrap=True)


def naming_command(
    run: "TrainedRun", command: str, overrides: Sequence[str], *, has_new_images: bool = False
) -> "TrainedRun":
    """The run; where its data may be opened only if the caller names them, the message has the whole command.

    Args:
        run: The run.
        command: That opens it, such as `evaluate`.
        overrides: The command's own.
        has_new_images: Whether `data.path` names other images, so that a variable has to say where the run's are.
    """
    others = [text for text in overrides if override_key(text) not in ("run", "data.root", "data.path")]
    without_effect = ["split"] if command == "explore" else []
    names, path = {*map(override_key, others), *without_effect}, run.config["data"].get("path")
    words = [word for key, word in _needed(run.config, run.directory).items() if key not in names]
    start = ""
    if has_new_images and path:
        start = f"VAE_EXP_DATA={shlex.quote(str(absolute_path('data.path', path).parent))} "
        words = [shlex.quote(text) for text in overrides if override_key(text) in ("data.root", "data.path")]
    text = " ".join([shell_word("run", _relative(run.directory.path)), *map(shlex.quote, others), *words])
    remedy = f"if the files are yours, say `{start}{python_command()} -m vae_exp.{command} {text}`"
    return replace(run, caller=replace(run.caller, remedy=remedy))


def print_sweep_commands(runs: Sequence[Path]) -> None:
    """The commands that show the scores of runs as tables, where they are jobs of sweeps."""
    for sweep in sorted({path.parent for path in runs if (path.parent / MANIFEST).is_file()}):
        print(f"Table: {python_command()} -m vae_exp.sweep summary {shlex.quote(str(_relative(sweep)))}")


def _needed(config: Mapping[str, Any], directory: RunDirectory) -> dict[str, str]:
    """The words that the next commands need, by key: whose classes to trust, where the data are, which split."""
    packages = untrusted_packages(config)
    words = {"trusted_packages": shlex.quote(f"trusted_packages=[{','.join(packages)}]")} if packages else {}
    data = config.get("data", {})
    words |= _data_location(config, data, directory)
    if _has_test_images(data):
        return words
    path, source = Path(str(data.get("path"))).expanduser(), data.get("source", {})
    has_val = split_folders(path)["val"] or source.get("val_dataset")
    return words | {"split": f"split={'val' if has_val or data.get('validation_size') else 'train'}"}


def _data_location(config: Mapping[str, Any], data: Mapping[str, Any], directory: RunDirectory) -> dict[str, str]:
    """Where the data are, if a stored config alone may not say it."""
    words: dict[str, str] = {}
    for names in ((), ("path",), ("root",), ("root", "path")):
        words = {f"data.{name}": shell_word(f"data.{name}", data[name]) for name in names if data.get(name)}
        given = {f"data.{name}": data.get(name) for name in names}
        with suppress(UserError):
            require_safe({"data": data}, Caller(directory.path, untrusted_packages(config), given), ["data"])
            break
    return words


def _has_test_images(data: Mapping[str, Any]) -> bool:
    """Whether the user's own data have them; what cannot be read is left to the commands."""
    source = data.get("source", {})
    if isinstance(source.get("dataset"), Mapping):  # an object of the user's; others have a name there
        return bool(source.get("test_dataset"))
    if not data.get("path"):
        return True
    path = Path(str(data["path"])).expanduser()
    if path.is_dir():
        return bool(split_folders(path)["test"]) or (path / "test_images.npy").exists()
    if path.suffix == ".npy":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True
    return "images.npy" not in names or "test_images.npy" in names


def python_command() -> str:
    """What starts this interpreter here: `python` in an activated environment, else its path."""
    python = shutil.which("python")
    if python and Path(python).samefile(sys.executable) and Path(python).parent == Path(sys.executable).parent:
        return "python"
    path = Path(sys.executable)
    return str(_relative(path))


def _relative(path: Path) -> Path:
    """The path from the current folder, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _console() -> Console:
    return Console() if sys.stdout is not None and sys.stdout.isatty() else Console(width=120)
