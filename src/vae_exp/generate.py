"""`python -m vae_exp.generate run=DIR`: pictures of a trained run, as PNG and as `.npz`."""

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error


def main() -> None:
    """The command line."""
    with hydra_app("generate") as app:
        app(generate)()


@one_message_per_error()
def generate(config: DictConfig) -> None:
    """Draw pictures of a trained run."""
    from vae_exp.configuration.schema import GenerateConfig, parse_config
    from vae_exp.configuration.shape_checks import check_labels
    from vae_exp.engine.device import matmul_precision
    from vae_exp.engine.seeding import make_generator
    from vae_exp.evaluation.figures import draw_figures
    from vae_exp.runs.trained_run import load_run_from_settings
    from vae_exp.storage.atomic_io import check_within, write_atomically

    settings = parse_config(config, GenerateConfig)
    run = load_run_from_settings(settings)
    images = run.data.get_split(settings.split).to(run.device)
    check_labels(run.vae, images, settings.split)
    noise = make_generator(settings.seed, "evaluation", run.device)
    with matmul_precision(run.vae, "fp32"):  # as the evaluator `figures` has it
        for picture in draw_figures(run.vae, images, noise, settings.columns, settings.manifold_size):
            png = run.directory.generated / f"{picture.name}.png"
            check_within(png, run.directory.path)
            write_atomically(png, picture.write_png)
            write_atomically(png.with_suffix(".npz"), picture.write_npz)
            print(f"{png} and {picture.name}.npz")


if __name__ == "__main__":
    main()
