"""`python -m vae_exp.generate run=DIR`: pictures of a trained run, as PNG and as `.npz`, or many samples."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vae_exp.configuration.schema import GenerateConfig
    from vae_exp.runs.trained_run import TrainedRun

_BATCH = 500  # samples


def main() -> None:
    """The command line."""
    with hydra_app("generate") as app:
        app(generate)()


@one_message_per_error()
def generate(config: DictConfig) -> None:
    """Draw pictures of a trained run."""
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.cli.console import naming_command
    from vae_exp.configuration.parsing import parse_config
    from vae_exp.configuration.schema import GenerateConfig
    from vae_exp.engine.device import matmul_precision
    from vae_exp.engine.seeding import make_generator
    from vae_exp.evaluation.fitted_prior import load_or_fit_prior
    from vae_exp.runs.trained_run import load_run_from_settings
    from vae_exp.storage.atomic_io import check_within

    settings = parse_config(config, GenerateConfig)
    output = _output_path(settings)
    run = naming_command(load_run_from_settings(settings), "generate", HydraConfig.get().overrides.task)
    noise = make_generator(settings.seed, "evaluation", run.device)
    with matmul_precision(run.vae, "fp32"):  # as the evaluator `figures` has it
        if settings.prior == "fitted":
            train = run.data.train.take(run.settings.trainer.max_train_images).stream_to(run.device)
            about = {"checkpoint": run.checkpoint, "epoch": run.epoch}
            path = run.directory.generated / "fitted_prior.npz"
            check_within(path, run.directory.path)
            run.vae.prior = load_or_fit_prior(path, run.vae, train, settings.components, settings.seed, about)
        if output is None:
            _draw_figures(run, settings, noise)
        else:
            _write_samples(run, settings, noise, output)


def _output_path(settings: "GenerateConfig") -> "Path | None":
    """The file of samples; None where pictures are drawn.

    Raises:
        UserError: if one of `samples` and `output` is missing, the suffix is another, or the file exists.
    """
    from vae_exp.errors import UserError
    from vae_exp.storage.atomic_io import absolute_path
    from vae_exp.storage.output_files import check_output_file

    if settings.output is None:
        if settings.samples is not None:
            raise UserError(f"samples={settings.samples} needs a file: add output=samples.npz")
        return None
    if settings.samples is None:
        raise UserError(f"output={settings.output} needs the number of samples: add samples=10000")
    path = absolute_path("output", settings.output)
    if path.suffix != ".npz":
        raise UserError(f"output={settings.output} must end in .npz.")
    check_output_file(path, overwrite=settings.overwrite)
    return path


def _draw_figures(run: "TrainedRun", settings: "GenerateConfig", noise: "torch.Generator") -> None:
    from vae_exp.configuration.shape_checks import check_labels
    from vae_exp.engine.evaluator_loop import describe_source, save_figures
    from vae_exp.evaluation.figures import draw_figures
    from vae_exp.storage.atomic_io import check_within, write_atomically

    images = run.images(settings.split)
    check_labels(run.vae, images, settings.split)
    folder = run.directory.pictures(settings.split, run.checkpoint, settings.prior)
    for picture in draw_figures(run.vae, images, noise, settings.columns, settings.manifold_size):
        png = folder / f"{picture.name}.png"
        check_within(png, run.directory.path)
        save_figures(
            {picture.name: picture.figure}, folder, describe_source(settings.split, run.epoch, run.checkpoint)
        )
        write_atomically(png.with_suffix(".npz"), picture.write_npz)
        print(f"{png} and {picture.name}.npz")


def _write_samples(run: "TrainedRun", settings: "GenerateConfig", noise: "torch.Generator", path: "Path") -> None:
    """Write mean images of draws as `images`, and for a class-conditional model their `labels`, in batches."""
    import sys

    import torch
    from rich.progress import track

    from vae_exp.evaluation.fitted_prior import prior_name
    from vae_exp.model.conditional import ConditionalVAE
    from vae_exp.storage.npz_stream import Rows, write_npz
    from vae_exp.storage.output_files import output_errors, write_to_user_path

    assert settings.samples is not None
    count = settings.samples
    classes = run.vae.classes if isinstance(run.vae, ConditionalVAE) else 1

    def labels_from(start: int) -> "torch.Tensor":
        return torch.arange(start, min(start + _BATCH, count)) % classes

    arrays: dict[str, Rows] = {}
    if isinstance(run.vae, ConditionalVAE):
        arrays["labels"] = ([count], "int64", (labels_from(start).numpy() for start in range(0, count, _BATCH)))
    starts = track(range(0, count, _BATCH), "samples", transient=True, disable=not sys.stdout.isatty())
    images = (
        run.vae.sample(len(labels), noise, labels.to(run.device)).cpu().numpy()
        for labels in map(labels_from, starts)
    )
    arrays["images"] = ([count, *run.config["data"]["image_shape"]], "float32", images)
    with output_errors("output", path):
        write_to_user_path(path, lambda file: write_npz(file, arrays))
    print(f"{path}: {settings.samples} samples, E[x|z] for z from {prior_name(run.vae)}, as images")


if __name__ == "__main__":
    main()
