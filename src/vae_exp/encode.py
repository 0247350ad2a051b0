"""`python -m vae_exp.encode run=DIR`: the code and the scores of every image, as `.npz`, Parquet or CSV."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_exp.cli.hydra_app import hydra_app, one_message_per_error

if TYPE_CHECKING:
    from vae_exp.configuration.schema import EncodeConfig
    from vae_exp.data.images import ImageSet
    from vae_exp.runs.trained_run import TrainedRun
    from vae_exp.storage.column_files import Array, ColumnFiles

_PRINTED_ROWS = 10


def main() -> None:
    """The command line."""
    with hydra_app("encode") as app:
        app(encode)()


@one_message_per_error()
def encode(config: DictConfig) -> None:
    """Encode and score images with a trained run."""
    from vae_exp.configuration.parsing import parse_config
    from vae_exp.configuration.schema import EncodeConfig

    settings = parse_config(config, EncodeConfig)
    _check_settings(settings)
    _encode(settings)


def _check_settings(settings: "EncodeConfig") -> None:
    """Refuse what needs neither torch nor the run to be refused."""
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.configuration.overrides import override_key
    from vae_exp.configuration.validation import check_data_path
    from vae_exp.errors import UserError
    from vae_exp.storage.atomic_io import absolute_path

    keys = {override: override_key(override) for override in HydraConfig.get().overrides.task}
    idle = [
        text for text, key in keys.items() if key.startswith("data.") and key not in ("data.path", "data.root")
    ]
    if idle and not settings.data.source:
        raise UserError(
            f"{idle[0]} has no effect here: images of data.path alone are read as the run's own. Say how they are "
            f"read, such as data=folder or data=arrays, beside data.path."
        )
    if settings.sort == "nll" and settings.num_importance_samples is None:
        raise UserError("sort=nll needs the nll of each image: num_importance_samples=500, for instance.")
    if settings.data.path is not None:
        check_data_path(settings.data.path)
    if settings.output is not None:
        _check_output(absolute_path("output", settings.output), settings)


def _encode(settings: "EncodeConfig") -> None:
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.cli.console import naming_command
    from vae_exp.configuration.schema import NewDataConfig
    from vae_exp.configuration.shape_checks import check_labels
    from vae_exp.errors import quantity
    from vae_exp.evaluation.requirements import require_density
    from vae_exp.runs.encoding import ImageScorer
    from vae_exp.runs.trained_run import load_run_from_settings
    from vae_exp.storage.column_files import ColumnFiles

    own_data = settings.data
    if settings.names_new_images:  # the root of a group of data is that of the new images
        own_data = NewDataConfig(None if settings.data.source else settings.data.root)
    run = load_run_from_settings(replace(settings, data=own_data))
    run = naming_command(run, "encode", HydraConfig.get().overrides.task, has_new_images=settings.names_new_images)
    images, label = _open_images(settings, run)
    check_labels(run.vae, images, label)
    if settings.num_importance_samples:
        require_density("nll", run.vae, images)
    is_odd = _odd_images(images, settings)
    output = _output_path(settings, run, label)
    scorer = ImageScorer(
        run, settings.num_samples, settings.num_importance_samples, settings.batch_size, settings.seed
    )
    with ColumnFiles("output", output) as columns:
        scorer.write(images, columns)
        order = scorer.rank(settings.sort, columns, _validation_images(run)) if settings.sort else None
        columns.save(order)
        print(f"{quantity(len(images), 'image')} of {label}: {output}")
        if settings.sort and order is not None:
            _print_least_likely(columns, order, settings.sort)
        if is_odd is not None:
            _print_detection(columns, is_odd)
        if settings.figure:
            _draw_extremes(run, images, label, columns, settings, output.with_suffix(".png"))


def _open_images(settings: "EncodeConfig", run: "TrainedRun") -> "tuple[ImageSet, str]":
    """The images and what they are called: a split of the run's data, or new images."""
    from hydra.core.hydra_config import HydraConfig

    from vae_exp.runs.new_images import open_new_images

    if settings.names_new_images:
        name = Path(settings.data.path).stem if settings.data.path else HydraConfig.get().runtime.choices["data"]
        return open_new_images(settings.data, run), name
    split = settings.split or "test"
    return run.images(split), split


def _validation_images(run: "TrainedRun") -> "ImageSet | None":
    """The reference of the quantiles; without validation images there are none."""
    from vae_exp.errors import UserError

    try:
        return run.images("val")
    except UserError as error:
        print(f"No quantiles among the validation images: {error}")
        return None


def _odd_images(images: "ImageSet", settings: "EncodeConfig") -> "Array | None":
    """Which images have one of the labels `odd`, `[N]`; None where no such labels are named."""
    import numpy as np

    from vae_exp.errors import UserError

    if not settings.odd:
        return None
    if images.labels is None:
        raise UserError(f"odd={settings.odd} needs labels, and the images have none.")
    is_odd = np.isin(images.labels.cpu().numpy(), settings.odd)
    if is_odd.all() or not is_odd.any():
        raise UserError(
            f"odd={settings.odd} are the labels of {is_odd.sum()} of {len(images)} images; some must be odd, and "
            f"some not."
        )
    return is_odd


def _output_path(settings: "EncodeConfig", run: "TrainedRun", label: str) -> Path:
    from vae_exp.errors import UserError
    from vae_exp.storage.atomic_io import absolute_path, check_within

    if settings.output is None:
        path = run.directory.path / "codes" / f"{label}-{run.checkpoint}.npz"
        check_within(path, run.directory.path)
    else:
        path = absolute_path("output", settings.output)
    for written in _check_output(path, settings):
        for source in (settings.data.path, run.config["data"].get("path")):
            if source and _is_source(written, absolute_path("data.path", source)):
                raise UserError(f"output={written} would replace images of data.path={source}; write elsewhere.")
    return path


def _check_output(path: Path, settings: "EncodeConfig") -> list[Path]:
    """The files that would be written: of a known format, and none of them in the way.

    Raises:
        UserError: if one cannot be written or may not be replaced.
    """
    from vae_exp.storage.column_files import check_suffix
    from vae_exp.storage.output_files import check_output_file

    check_suffix("output", path)
    files = [path, path.with_suffix(".png")] if settings.figure else [path]
    for file in files:
        check_output_file(file, overwrite=settings.overwrite)
    return files


def _is_source(output: Path, data: Path) -> bool:
    """Whether a file is the array file that images are in, or an image in their folder."""
    path, data = (Path(os.path.realpath(name)) for name in (output, data))  # of a loop of links too
    return path == data or (path.suffix == ".png" and path.exists() and path.is_relative_to(data))


def _print_least_likely(columns: "ColumnFiles", order: "Array", score: str) -> None:
    names = [name for name in ("index", "label", "class", score, f"{score}_quantile", "file") if name in columns]
    print("The least likely images:")
    print("  ".join(f"{name:>14}" for name in names))
    for row in order[:_PRINTED_ROWS]:
        values = [columns.read(name)[row] for name in names]
        print("  ".join(f"{value:>14.6g}" if value.dtype.kind == "f" else f"{value:>14}" for value in values))


def _print_detection(columns: "ColumnFiles", is_odd: "Array") -> None:
    from vae_exp.evaluation.image_scores import detection
    from vae_exp.runs.encoding import SCORES, surprise_of

    print(f"Odd images: {is_odd.sum()} of {len(is_odd)}")
    for score in SCORES:
        if score in columns:
            result = detection(surprise_of(score, columns.read(score)), is_odd)
            name = "nll" if score == "nll" else "-elbo"
            print(f"  by {name:>5}: AUROC {result.auroc:.4f}, average precision {result.average_precision:.4f}")


def _draw_extremes(
    run: "TrainedRun",
    images: "ImageSet",
    label: str,
    columns: "ColumnFiles",
    settings: "EncodeConfig",
    path: Path,
) -> None:
    from vae_exp.engine.evaluator_loop import describe_source, save_figures
    from vae_exp.evaluation.image_scores import draw_extremes
    from vae_exp.runs.encoding import surprise_of
    from vae_exp.storage.output_files import output_errors

    score = settings.sort or "elbo"
    figure = draw_extremes(run.vae, images, surprise_of(score, columns.read(score)), score)
    with output_errors("output", path):
        save_figures({path.stem: figure}, path.parent, describe_source(label, run.epoch, run.checkpoint))
    print(f"Most and least likely images: {path}")


if __name__ == "__main__":
    main()
