"""Images of the user from an `.npz` file, or from another file of arrays."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from vae_exp.argument_checks import check_choice, check_int
from vae_exp.data.array_files import READERS, read_npy_folder
from vae_exp.data.array_pixels import EXPECTED, LAYOUTS, rescaling, to_pixels
from vae_exp.data.data_path import absolute_data_path
from vae_exp.data.images import ImageSet, check_int64
from vae_exp.data.splits import NoTestImagesError
from vae_exp.errors import UserError

_ROLES = [f"{split}{role}" for split in ("", "val_", "test_") for role in ("images", "labels", "factors")]


class NPZSource:
    """Images from a file of arrays; nothing pickled is ever loaded.

    Args:
        path: An `.npz`, HDF5 (`.h5`, `.hdf5`) or Parquet file, or a folder of `.npy` files. `images` holds the
            training images as uint8, or as float in [0, 1]; `labels` is optional, as are `val_images` and
            `val_labels`, `test_images` and `test_labels`. An `.npy` file holds the images alone. Images of `.npy`
            files stay there, and may be larger than memory.
        layout: The order of the axes; `auto` looks for one or three channels.
        names: Other names of these arrays in the file, such as `{"images": "imgs"}`. `factors`, `[N, factors]`
            integers, are the factors of variation of each image.
        max_value: The integer that stands for white in uint8 images.
        test_size: How many of `images` are held out for testing, in place of test images of the file; drawn by a
            fixed seed.
        rescale: The values of black and white of other numbers, such as `[0, 4095]`; what lies outside is clipped.
            `minmax` takes the least and the greatest of the training images. None: uint8, bool or float in [0, 1].
            What is rescaled is read into memory.

    Raises:
        UserError: when opened, if the file cannot be read or its images cannot be used; names the array.
    """

    def __init__(
        self,
        path: str | None,
        layout: str = "auto",
        names: Mapping[str, str] | None = None,
        max_value: int = 255,
        test_size: int = 0,
        rescale: str | Sequence[float] | None = None,
    ) -> None:
        self._path = absolute_data_path(path, is_folder=False)
        self._layout = check_choice("data.layout", layout, LAYOUTS)
        self._names = dict(names or {})
        if unknown := [name for name in self._names if name not in _ROLES]:
            raise UserError(f"data.source.names.{unknown[0]} is not known; use {', '.join(_ROLES)}.")
        self._max_value = check_int("data.source.max_value", max_value, 1, 255)
        self._test_size = check_int("data.source.test_size", test_size, 0)
        self._rescale = rescale

    def train(self) -> ImageSet:
        """The array `images` with `labels` and `factors`, less the images held out for testing."""
        images = self._read("images", "labels", "factors")
        if not self._test_size:
            return images
        return images.subset(self._training_rows(len(images)))

    def val(self) -> ImageSet | None:
        """The array `val_images` with `val_labels` and `val_factors`; None if there is no such array."""
        return self._find("val_images", "val_labels", "val_factors")

    def test(self) -> ImageSet:
        """The array `test_images` with `test_labels` and `test_factors`, or the images held out of `images`."""
        if not self._test_size:
            return self._read("test_images", "test_labels", "test_factors")
        images = self._read("images", "labels", "factors")
        return images.subset(self._shuffled(len(images))[: self._test_size].sort().values)

    def _training_rows(self, count: int) -> torch.Tensor:
        return self._shuffled(count)[self._test_size :].sort().values

    def _shuffled(self, count: int) -> torch.Tensor:
        if self._test_size >= count:
            raise UserError(
                f"data.source.test_size={self._test_size} leaves none of the {count} images to train on."
            )
        return torch.randperm(count, generator=torch.Generator().manual_seed(0))

    def _read(self, *keys: str) -> ImageSet:
        images = self._find(*keys)
        if images is None:
            images_key = self._names.get(keys[0], keys[0])
            message = f"data.path={self._path} holds no array '{images_key}'"
            if keys[0] == "test_images":
                raise NoTestImagesError(message)
            raise UserError(f"{message}; expected 'images' as {EXPECTED}.")
        return images

    def _find(self, *keys: str) -> ImageSet | None:
        """The arrays of these keys, images, labels and factors, as a set; None without the images."""
        images_key, labels_key, factors_key = (self._names.get(key, key) for key in keys)
        arrays = self._load(images_key, labels_key, factors_key)
        for key in keys:
            if key in self._names and self._names[key] not in arrays:
                raise UserError(
                    f"data.path={self._path} holds no array '{self._names[key]}', which is named in "
                    f"data.source.names.{key}."
                )
        if images_key not in arrays:
            return None
        name = f"'{images_key}' in data.path={self._path}"
        values = self._rescaling(arrays[images_key], images_key)
        pixels, pixel_max = to_pixels(arrays[images_key], self._layout, name, self._max_value, values)
        labels, factors = arrays.get(labels_key), arrays.get(factors_key)
        if labels is not None:
            _check_integers(labels, len(pixels), 1, f"'{labels_key}' in data.path={self._path}")
        if factors is not None:
            _check_integers(factors, len(pixels), 2, f"'{factors_key}' in data.path={self._path}")
        return ImageSet(
            pixels=pixels,
            labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
            pixel_max=pixel_max,
            factors=None if factors is None else torch.from_numpy(factors.astype(np.int64)),
            value_range=values,
        )

    def _rescaling(self, array: npt.NDArray[np.generic], key: str) -> tuple[float, float] | None:
        """The values that become black and white, by the training images."""
        images_key = self._names.get("images", "images")
        if self._rescale == "minmax" and key != images_key:
            array = self._load(images_key)[images_key]
        if self._rescale == "minmax" and self._test_size:
            array = array[self._training_rows(len(array)).numpy()]
        return rescaling(self._rescale, array, f"'{images_key}' in data.path={self._path}")

    def _load(self, *keys: str) -> dict[str, npt.NDArray[np.generic]]:
        arrays = None
        try:
            if self._path.exists() and not (self._path.is_dir() or self._path.is_file()):
                raise UserError(f"data.path={self._path} is not a regular file; name a file of arrays.")
            if self._path.is_dir() and self._path.suffix != ".npz":
                arrays = read_npy_folder(self._path, keys)
            elif self._path.suffix == ".npy":
                images_key = self._names.get("images", "images")
                arrays = {images_key: np.load(self._path, mmap_mode="r", allow_pickle=False)}
                arrays = {key: array for key, array in arrays.items() if key in keys}
            elif self._path.suffix in READERS:
                arrays = READERS[self._path.suffix](self._path, keys)
            else:
                with self._path.open("rb") as file:
                    archive = np.load(file, allow_pickle=False)
                    if isinstance(archive, np.lib.npyio.NpzFile):
                        arrays = {key: archive[key] for key in keys if key in archive}
        except FileNotFoundError:
            is_npz = self._path.suffix in ("", ".npz")
            expected = "; expected an .npz file with an array 'images'" if is_npz else ""
            raise UserError(f"data.path={self._path} does not exist{expected}.") from None
        except UserError:
            raise
        except Exception as error:  # damaged files raise errors of any kind
            kind = "an .npz file of plain arrays" if self._path.suffix == ".npz" else "plain arrays"
            reason = (
                "it is no such file, or holds pickled objects, which are never loaded"
                if re.search("pickle|Python objects", str(error))
                else str(error) or type(error).__name__
            )
            raise UserError(f"data.path={self._path} cannot be read as {kind}: {reason}.") from error
        if arrays is None:
            raise UserError(
                f"data.path={self._path} holds a single array; expected an .npz file with an array 'images' "
                f"(numpy.savez)."
            )
        for key, array in arrays.items():
            _check_numbers(array, f"'{key}' in data.path={self._path}")
        return arrays


def _check_numbers(array: npt.NDArray[np.generic], name: str) -> None:
    """Refuse what is no array, and values that only look like numbers: text, dates, complex numbers."""
    if not isinstance(array, np.ndarray):
        raise UserError(f"{name} is a plain file; expected an array.")
    if array.dtype.kind not in "buif":
        raise UserError(f"{name} is of type {array.dtype}; expected real numbers, such as uint8.")


def _check_integers(values: npt.NDArray[np.generic], count: int, axes: int, name: str) -> None:
    """Refuse labels (one axis) or factors (two axes) that are not one int64 row per image."""
    if values.ndim != axes or len(values) != count:
        expected = (
            f"one label for each image, [{count}]" if axes == 1 else f"a row for each image, [{count}, factors]"
        )
        raise UserError(f"{name} has shape {list(values.shape)}; expected {expected}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{name} is of type {values.dtype}; expected integers.")
    if values.size:
        check_int64(int(values.max()), name)
