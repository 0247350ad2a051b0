"""`python -m vae_exp.evaluate run=DIR`: score trained runs on a split."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vae_exp.configuration.schema import EvaluateConfig
    from vae_exp.data.images import ImageSet
    from vae_exp.engine.protocols import Evaluator
    from vae_exp.runs.trained_run import TrainedRun

_SHOWN_METRICS = 4  # of each of several runs, `elbo` and `nll` of these evaluators first; the tables have all


def main() -> None:
    """The command line."""
    with hydra_app("evaluate") as app:
        app(evaluate)()


@one_message_per_error()
def evaluate(config: DictConfig) -> None:
    """Score a run, several, or the jobs of a sweep; one that fails does not keep the others from it."""
    from vae_exp.cli.console import print_sweep_commands
    from vae_exp.configuration.parsing import parse_config
    from vae_exp.configuration.schema import EvaluateConfig
    from vae_exp.errors import UserError, describe_error
    from vae_exp.runs.scores import find_runs

    settings = parse_config(config, EvaluateConfig)
    if not settings.evaluator:
        raise UserError("evaluator=[] computes nothing; name evaluators, such as evaluator=[elbo].")
    runs = find_runs(settings.run)
    if len(runs) == 1:
        _score(replace(settings, run=str(runs[0])))
        return
    failed = []
    for number, path in enumerate(runs, 1):
        try:
            with redirect_stdout(StringIO()):  # a line for each is enough
                metrics = _score(replace(settings, run=str(path)))
        except (UserError, OSError) as error:
            failed.append(path.name)
            print(f"Error: {path.name}: {describe_error(error)}", file=sys.stderr)
        else:
            names = sorted(metrics, key=lambda name: name.rpartition("/")[2] not in settings.evaluator)
            text = ", ".join(f"{name} {metrics[name]:.6g}" for name in names[:_SHOWN_METRICS])
            print(f"[{number}/{len(runs)}] {path.name}: {text}", flush=True)
    print_sweep_commands(runs)
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs could not be scored: {', '.join(failed)}.")


def _score(settings: "EvaluateConfig") -> "Mapping[str, float]":
    """Score one run, unless its scores are stored, and print them."""
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.cli.console import naming_command, print_metrics_table
    from vae_exp.configuration.instantiate import build_evaluators
    from vae_exp.configuration.overrides import override_key
    from vae_exp.configuration.shape_checks import check_evaluators, check_labels
    from vae_exp.errors import UserError, describe_error, quantity
    from vae_exp.evaluation.requirements import is_bernoulli
    from vae_exp.runs.scores import (
        identify_scores,
        identify_weights,
        store_scores,
        stored_scores,
        with_file_hashes,
    )
    from vae_exp.runs.trained_run import load_run_from_settings
    from vae_exp.storage.atomic_io import check_within

    overrides = HydraConfig.get().overrides.task
    run = naming_command(load_run_from_settings(settings), "evaluate", overrides)
    if "evaluator" not in map(override_key, overrides):
        settings = _without_unusable_nll(settings, run)
    evaluators = build_evaluators(settings.evaluator)
    path = run.directory.evaluation(settings.split, run.checkpoint)
    check_within(path, run.directory.path)
    title = f"checkpoint {run.checkpoint} (epoch {run.epoch})"
    data_error: UserError | OSError | None = None
    try:
        identity = identify_scores(run, settings.split, settings.seed)
    except (UserError, OSError) as error:
        if settings.data.path or settings.data.root:
            raise
        identity, data_error = identify_weights(run, settings.seed), error
    named = with_file_hashes(settings.evaluator)
    stored = None if settings.force else stored_scores(path, identity, named)
    if stored is not None:
        print_metrics_table(stored, f"{settings.split}: {title}", settings.evaluator)
        print(f"Scored before, in {path}; force=true scores again.")
        if data_error:
            print(f"Whether the data are the same was not checked: {describe_error(data_error)}")
        return stored
    if data_error:
        raise data_error
    images = run.images(settings.split)
    check_labels(run.vae, images, settings.split)
    check_evaluators(evaluators, run.vae, images)
    scores = _run_evaluators(evaluators, run, images, settings, path.with_suffix(""))
    metrics = {name: value for values in scores.values() for name, value in values.items()}
    identity |= {"images": len(images), "targets": images.kind}
    replaced = store_scores(path, identity, named, scores)
    title = f"{quantity(len(images), 'image')}, {title}"
    print_metrics_table(metrics, f"{settings.split}: {title}", settings.evaluator)
    if images.kind != "binary" and is_bernoulli(run.vae, images):
        print(f"Targets are {images.kind}: under a Bernoulli likelihood these are scores, not likelihoods.")
    print(f"Written to {path}" + (f" in place of the scores of {replaced}" if replaced else ""))
    if run.checkpoint == run.directory.checkpoints()[0]:  # the one that tables show
        _add_to_wandb(run, settings.split, metrics)
    return metrics


def _without_unusable_nll(settings: "EvaluateConfig", run: "TrainedRun") -> "EvaluateConfig":
    """The settings without the NLL, which is there by default, where the latents have no density."""
    import torch

    from vae_exp.data.images import ImageSet
    from vae_exp.errors import UserError
    from vae_exp.evaluation.requirements import require_density

    pixels = torch.zeros(1, *run.config["data"]["image_shape"], dtype=torch.uint8)
    try:
        require_density("nll", run.vae, ImageSet(pixels, torch.zeros(1, dtype=torch.int64)).to(run.device))
    except UserError as error:
        print(f"Left out: {error}")
        return replace(settings, evaluator={key: node for key, node in settings.evaluator.items() if key != "nll"})
    return settings


def _add_to_wandb(run: "TrainedRun", split: str, metrics: "Mapping[str, float]") -> None:
    """Add scores to the summary of the run's W&B run, without names that training has logged."""
    from vae_exp.tracking.run_summary import add_to_summary

    try:
        logged = {name for row in run.metrics for name in row}
        scores = {name: value for name, value in metrics.items() if name not in logged}
        message = add_to_summary(run.directory, {**scores, f"{split}/epoch": run.epoch}) if scores else None
    except Exception as error:  # whatever W&B raises, the scores are stored
        print(f"The W&B run of {run.directory.path.name} does not have the scores: {error}.", file=sys.stderr)
    else:
        if message:
            print(message)


def _run_evaluators(
    evaluators: "dict[str, Evaluator]",
    run: "TrainedRun",
    images: "ImageSet",
    settings: "EvaluateConfig",
    figures: Path,
) -> dict[str, dict[str, float]]:
    """The metrics by evaluator."""
    from vae_exp.engine.evaluator_loop import (
        describe_source,
        run_evaluator,
        save_figures,
        warn_non_finite_metrics,
    )
    from vae_exp.engine.progress import evaluator_progress

    metrics: dict[str, dict[str, float]] = {}
    for key, evaluator in evaluators.items():
        print(f"Evaluating {key} on the {settings.split} images …", flush=True)
        with evaluator_progress(key) as progress:
            watched = replace(images, on_progress=progress)
            numbers, drawn, _ = run_evaluator(key, evaluator, run.vae, watched, settings.seed)
        warn_non_finite_metrics(key, numbers, set())
        metrics[key] = {f"{settings.split}/{name}": value for name, value in numbers.items()}
        save_figures(drawn, figures, describe_source(settings.split, run.epoch, run.checkpoint))
    return metrics


if __name__ == "__main__":
    main()
