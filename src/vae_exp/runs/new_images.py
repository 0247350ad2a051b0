"""Images that a run was not trained on, opened as its model takes them."""

import logging
from collections.abc import Sequence
from typing import Any

from vae_exp.configuration.allowlist import data_root
from vae_exp.configuration.instantiate import build_source
from vae_exp.configuration.schema import DataConfig
from vae_exp.data.batch_loader import move_to_device
from vae_exp.data.folder import FolderSource
from vae_exp.data.image_files import split_folders
from vae_exp.data.images import ImageSet
from vae_exp.data.npz import NPZSource
from vae_exp.data.splits import DataSplits, Source
from vae_exp.errors import UserError
from vae_exp.runs.trained_run import TrainedRun
from vae_exp.storage.atomic_io import absolute_path

_log = logging.getLogger(__name__)


def open_new_images(data: DataConfig, run: TrainedRun) -> ImageSet:
    """All images that a training run on these data would train on; none are held out.

    Pixels are binarised where the run's are when it scores them. Classes with names have the labels of the run.

    Args:
        data: A group of `data`, or `path` alone: an array file, or a folder of images, which get the model's size;
            read with the options of the run's own data where these are of the same kind.
        run: The run whose model is to take them.

    Raises:
        UserError: if they cannot be read, or are of another shape than the model's images, or of a class that a
            conditional model does not know.
    """
    source = build_source(data) if data.source else _source_of_path(data, run)
    binarization, seed = run.settings.data.binarization, run.settings.data.binarization_seed
    splits = DataSplits(source, None, 0, 0, binarization, seed)
    shape = run.config["data"]["image_shape"]
    if splits.image_shape != shape:
        name = f"data.path={data.path}" if data.path else "the data"
        raise UserError(
            f"{name} has images of {splits.image_shape}, and the model takes {shape} ([channels, height, width])."
        )
    return move_to_device(run.with_own_labels(splits.get_split("train")), run.device, "auto")


def _source_of_path(data: DataConfig, run: TrainedRun) -> Source:
    """The folder of image files, or else the array file, that a path names."""
    path = absolute_path("data.path", str(data.path))
    if not path.is_dir() or (path / "images.npy").exists():
        options = _own_options(run, NPZSource, ("layout", "names", "max_value", "rescale"))
        if options.get("rescale") == "minmax":
            options["rescale"] = _training_range(run, data)
        return NPZSource(data.path, **options)
    options = _own_options(run, FolderSource, ("fit", "labels", "skip_corrupt"))
    if options.get("labels", "auto") != "auto":  # a CSV file names the files of the run
        options["labels"] = "none"
    folders = [name for names in split_folders(path).values() for name in names]
    if folders:
        _log.warning(
            "data.path=%s has the folders %s: only images to train on are taken; for others name the folder, such "
            "as data.path=%s.",
            path,
            ", ".join(folders),
            path / folders[-1],
        )
    channels, height, width = run.config["data"]["image_shape"]
    source = FolderSource(data.path, data.root or str(data_root()), [height, width], channels=channels, **options)
    _log.info(
        "The image files of %s are read as the model takes them, %s of %d×%d pixels; those of another aspect "
        "ratio are %s.",
        path,
        "grey" if channels == 1 else "RGB",
        height,
        width,
        "squeezed to it" if options.get("fit") == "resize" else "cut to it in the middle",
    )
    return source


def _own_options(run: TrainedRun, source: type, names: Sequence[str]) -> dict[str, Any]:
    """The options that the run's own data were read with, if they came from such a source."""
    node = run.config["data"]["source"]
    if node.get("_target_") != f"{source.__module__}.{source.__name__}":
        return {}
    return {name: node[name] for name in names if name in node}


def _training_range(run: TrainedRun, data: DataConfig) -> list[float]:
    values = run.fingerprints.get("train", {}).get("value_range")
    if values is None:
        raise UserError(
            f"data.path={data.path}: the run's own images were rescaled by data.rescale=minmax, and its "
            f"checkpoint, of an earlier version, does not say from which values; give them: data=arrays "
            f"data.path={data.path} data.rescale=[black,white]."
        )
    return list(values)
