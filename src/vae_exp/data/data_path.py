"""The path of the user's own images, `data.path`; torch is not needed for it."""

from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path


def absolute_data_path(path: str | None, *, is_folder: bool) -> Path:
    """The absolute path of the images.

    Args:
        path: `data.path`.
        is_folder: Whether it names a folder of image files, not an array file.

    Raises:
        UserError: if it is missing, or names a home folder that does not exist.
    """
    if not path:
        expected = "folder of your images, data.path=DIR" if is_folder else ".npz file, data.path=my_images.npz"
        raise UserError(f"data.path is missing; name the {expected}.")
    return absolute_path("data.path", path)
