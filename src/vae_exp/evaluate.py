"""`python -m vae_exp.evaluate run=DIR`: score a trained run on a split."""

from dataclasses import replace

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error


def main() -> None:
    """The command line."""
    with hydra_app("evaluate") as app:
        app(evaluate)()


@one_message_per_error()
def evaluate(config: DictConfig) -> None:
    """Score a trained run on a split."""
    from vae_exp.cli.console import print_metrics_table
    from vae_exp.configuration.instantiate import build_evaluators
    from vae_exp.configuration.schema import EvaluateConfig, parse_config
    from vae_exp.configuration.shape_checks import check_evaluators, check_labels
    from vae_exp.engine.evaluator_loop import run_evaluator, save_figures, warn_non_finite_metrics
    from vae_exp.engine.progress import evaluator_progress
    from vae_exp.errors import UserError
    from vae_exp.evaluation.requirements import is_bernoulli
    from vae_exp.runs.trained_run import load_run_from_settings
    from vae_exp.storage.atomic_io import check_within, update_json

    settings = parse_config(config, EvaluateConfig)
    evaluators = build_evaluators(settings.evaluator)
    if not evaluators:
        raise UserError("evaluator=[] computes nothing; name evaluators, such as evaluator=[elbo].")
    run = load_run_from_settings(settings)
    images = run.data.get_split(settings.split).to(run.device)
    check_labels(run.vae, images, settings.split)
    check_evaluators(evaluators, run.vae, images)
    metrics: dict[str, float] = {}
    path = run.directory.evaluation(settings.split, run.checkpoint)
    check_within(path, run.directory.path)
    for key, evaluator in evaluators.items():
        print(f"Evaluating {key} on the {settings.split} images …", flush=True)
        with evaluator_progress(key) as progress:
            watched = replace(images, on_progress=progress)
            numbers, figures, _ = run_evaluator(key, evaluator, run.vae, watched, settings.seed)
        warn_non_finite_metrics(key, numbers, set())
        metrics |= {f"{settings.split}/{name}": value for name, value in numbers.items()}
        save_figures(figures, path.with_suffix(""))
    targets = images.kind
    what = {"checkpoint": run.checkpoint, "epoch": run.epoch, "images": len(images), "seed": settings.seed}
    update_json(path, {**what, "targets": targets}, {"evaluator": settings.evaluator, "metrics": metrics})
    title = f"{settings.split}: {len(images)} images, checkpoint {run.checkpoint} (epoch {run.epoch})"
    print_metrics_table(metrics, title)
    if targets != "binary" and is_bernoulli(run.vae, images):
        print(f"Targets are {targets}: under a Bernoulli likelihood these are scores, not likelihoods.")
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
