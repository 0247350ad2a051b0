"""`python -m vae_exp.evaluate run=DIR`: score a trained run on a split."""

from omegaconf import DictConfig

from vae_exp.entry_point import run_command


def main() -> None:
    """The command line."""
    run_command(_task, "evaluate")


def _task(config: DictConfig) -> None:
    from vae_exp.build import build_evaluators
    from vae_exp.engine.determinism import generator
    from vae_exp.report import print_metrics
    from vae_exp.run_directory import write_json
    from vae_exp.settings import EvaluateSettings, checked
    from vae_exp.stored_run import open_for

    settings = checked(config, EvaluateSettings)
    evaluators = build_evaluators(settings.evaluator)
    run = open_for(settings)
    images = run.data.split(settings.split).to(run.device)
    metrics: dict[str, float] = {}
    for key, evaluator in evaluators.items():
        print(f"Evaluating {key} on the {settings.split} images …", flush=True)
        noise = generator(settings.seed, "evaluation", run.device)
        for name, value in evaluator.run(run.vae, images, noise):
            if not hasattr(value, "savefig"):
                metrics[f"{settings.split}/{name}"] = float(value)
    path = run.directory.evaluation(settings.split)
    content = {"checkpoint": run.checkpoint, "epoch": run.epoch, "images": len(images), "seed": settings.seed}
    write_json(path, content | {"evaluator": settings.evaluator, "metrics": metrics})
    print_metrics(
        metrics, f"{settings.split}: {len(images)} images, checkpoint {run.checkpoint} (epoch {run.epoch})"
    )
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
