"""Images that a run was not trained on, opened as its model takes them."""

from vae_exp.configuration.allowlist import data_root
from vae_exp.configuration.instantiate import build_source
from vae_exp.configuration.schema import DataConfig
from vae_exp.data.batch_loader import move_to_device
from vae_exp.data.folder import FolderSource
from vae_exp.data.images import ImageSet
from vae_exp.data.npz import NPZSource
from vae_exp.data.splits import DataSplits, Source
from vae_exp.errors import UserError
from vae_exp.runs.trained_run import TrainedRun
from vae_exp.storage.atomic_io import absolute_path


def open_new_images(data: DataConfig, run: TrainedRun) -> ImageSet:
    """All images that a training run on these data would train on; none are held out.

    Pixels are binarised where the run's are when it scores them.

    Args:
        data: A group of `data`, or `path` alone: an array file, or a folder of images, which get the model's size.
        run: The run whose model is to take them.

    Raises:
        UserError: if they cannot be read, or are of another shape than the model's images.
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
    return move_to_device(splits.get_split("train"), run.device, "auto")


def _source_of_path(data: DataConfig, run: TrainedRun) -> Source:
    """The folder of image files, or else the array file, that a path names."""
    path = absolute_path("data.path", str(data.path))
    if not path.is_dir() or (path / "images.npy").exists():
        return NPZSource(data.path)
    channels, height, width = run.config["data"]["image_shape"]
    return FolderSource(data.path, data.root or str(data_root()), [height, width], channels=channels)
