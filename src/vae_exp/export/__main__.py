"""`python -m vae_exp.export run=DIR`: encoder and decoder of a trained run for programs without vae_exp."""

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error


def main() -> None:
    """The command line."""
    with hydra_app("export") as app:
        app(export)()


@one_message_per_error()
def export(config: DictConfig) -> None:
    """Export a trained run."""
    from vae_exp.configuration.parsing import parse_config
    from vae_exp.configuration.schema import ExportConfig
    from vae_exp.export.formats import choose_formats, write_model
    from vae_exp.export.model_json import describe
    from vae_exp.export.output_folder import DESCRIPTION, check_output, new_folder
    from vae_exp.export.parts import split_model
    from vae_exp.export.reloading import largest_differences
    from vae_exp.runs.trained_run import load_run
    from vae_exp.storage.atomic_io import absolute_path, check_within, write_json

    settings = parse_config(config, ExportConfig)
    formats = choose_formats(settings.onnx, settings.weights)
    run = load_run(  # on the CPU, which every program that opens the files has
        settings.run,
        trusted_packages=settings.trusted_packages,
        checkpoint=settings.checkpoint,
    )
    output = run.directory.exported if settings.output is None else absolute_path("output", settings.output)
    if settings.output is None:
        check_within(output, run.directory.path)
    check_output(output, overwrite=settings.overwrite)
    parts = split_model(run.vae, run.config["data"]["image_shape"], settings.part)
    with new_folder(output) as folder:
        write_model(run.vae, parts, formats, folder)
        print("Loading the files in a process without vae_exp …", flush=True)
        differences = largest_differences(run.vae, parts, folder)
        write_json(folder / DESCRIPTION, describe(run, parts, folder, differences))
    for name, difference in differences.items():
        print(f"{name:20} differs from the model by {difference:.1e} at most")
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
