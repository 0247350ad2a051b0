"""Images of the user from an `.npz` file."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path

LAYOUTS = ("auto", "NHW", "NCHW", "NHWC")
_CHANNELS = (1, 3)
_EXPECTED = "[N, H, W], [N, C, H, W] or [N, H, W, C] with one or three channels"


class NPZSource:
    """Images from an `.npz` file; nothing pickled is ever loaded.

    Args:
        path: The file. `images` holds the training images as uint8, or as float in [0, 1]; `labels` is
            optional, as are `test_images` and `test_labels`.
        layout: The order of the axes: `NHW`, `NCHW`, `NHWC`, or `auto`, which looks for one or three channels.
        names: Other names of these arrays in the file, such as `{"images": "imgs"}`. `factors`, `[N, factors]`
            integers, are the factors of variation of each image.
        max_value: The integer that stands for white in uint8 images.
        test_size: How many images are held out for testing where the file has no test images; drawn by a fixed
            seed.

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
    ) -> None:
        if not path:
            raise UserError("data.path is missing; name the .npz file, data.path=my_images.npz.")
        if layout not in LAYOUTS:
            raise UserError(f"data.layout={layout} is not known; use one of {', '.join(LAYOUTS)}.")
        if not 1 <= max_value <= 255 or test_size < 0:
            raise UserError(
                f"data.source.max_value={max_value} must be from 1 to 255, and data.source.test_size={test_size} "
                f"at least 0."
            )
        self._path = absolute_path("data.path", path)
        self._layout = layout
        self._names = dict(names or {})
        self._max_value = max_value
        self._test_size = test_size

    def train(self) -> ImageSet:
        """The array `images` with `labels` and `factors`, less the images held out for testing."""
        images = self._read("images", "labels", "factors")
        if not self._test_size:
            return images
        return images.subset(self._shuffled(len(images))[self._test_size :].sort().values)

    def test(self) -> ImageSet:
        """The array `test_images` with `test_labels` and `test_factors`, or the images held out of `images`."""
        if not self._test_size:
            return self._read("test_images", "test_labels", "test_factors")
        images = self._read("images", "labels", "factors")
        return images.subset(self._shuffled(len(images))[: self._test_size].sort().values)

    def _shuffled(self, count: int) -> torch.Tensor:
        if self._test_size >= count:
            raise UserError(
                f"data.source.test_size={self._test_size} leaves none of the {count} images to train on."
            )
        return torch.randperm(count, generator=torch.Generator().manual_seed(0))

    def _read(self, *keys: str) -> ImageSet:
        images_key, labels_key, factors_key = (self._names.get(key, key) for key in keys)
        arrays = self._load(images_key, labels_key, factors_key)
        if images_key not in arrays:
            raise UserError(
                f"data.path={self._path} holds no array '{images_key}'"
                + (
                    "; add one to evaluate on test images, or use split=val or split=train."
                    if images_key == "test_images"
                    else f"; expected 'images' as {_EXPECTED}."
                )
            )
        name = f"'{images_key}' in data.path={self._path}"
        pixels, pixel_max = _pixels(arrays[images_key], self._layout, name, self._max_value)
        labels, factors = arrays.get(labels_key), arrays.get(factors_key)
        if labels is not None:
            _check_integers(labels, len(pixels), 1, f"'{labels_key}' in data.path={self._path}")
        if factors is not None:
            _check_integers(factors, len(pixels), 2, f"'{factors_key}' in data.path={self._path}")
        return ImageSet(
            pixels=torch.from_numpy(pixels),
            labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
            pixel_max=pixel_max,
            factors=None if factors is None else torch.from_numpy(factors.astype(np.int64)),
        )

    def _load(self, *keys: str) -> dict[str, npt.NDArray[np.generic]]:
        arrays = None
        try:
            with self._path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if isinstance(archive, np.lib.npyio.NpzFile):
                    arrays = {key: archive[key] for key in keys if key in archive}
        except FileNotFoundError:
            raise UserError(
                f"data.path={self._path} does not exist; expected an .npz file with an array 'images'."
            ) from None
        except Exception as error:  # damaged files raise errors of any kind
            reason = (
                "it holds pickled objects, which are never loaded"
                if "Object arrays" in str(error)
                else str(error) or type(error).__name__
            )
            raise UserError(
                f"data.path={self._path} cannot be read as an .npz file of plain arrays: {reason}."
            ) from error
        if arrays is None:
            raise UserError(
                f"data.path={self._path} holds a single array; expected an .npz file with an array 'images' "
                f"(numpy.savez)."
            )
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise UserError(f"'{key}' in data.path={self._path} is a plain file; expected an array.")
        return arrays


def _pixels(
    array: npt.NDArray[np.generic], layout: str, name: str, max_value: int
) -> tuple[npt.NDArray[np.generic], int]:
    """The array as `[N, C, H, W]`, uint8 or float32, and the value of white."""
    array = _channels_first(array, layout, name)
    if 0 in array.shape:
        raise UserError(f"{name} has shape {list(array.shape)}, which holds no pixels; expected {_EXPECTED}.")
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array, dtype=np.uint8), 1
    if array.dtype == np.uint8:
        if max_value < 255 and (highest := int(array.max())) > max_value:
            raise UserError(f"{name} holds values up to {highest}; data.source.max_value={max_value} is less.")
        return np.ascontiguousarray(array), max_value
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name} is of type {array.dtype}; expected uint8, bool, or float in [0, 1].")
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinite values; expected float in [0, 1].")
    low, high = array.min(), array.max()
    if low < 0 or high > 1:
        raise UserError(
            f"{name} holds values from {low:g} to {high:g}; expected float in [0, 1], or uint8 from 0 to 255."
        )
    return np.ascontiguousarray(array, dtype=np.float32), 1


def _channels_first(array: npt.NDArray[np.generic], layout: str, name: str) -> npt.NDArray[np.generic]:
    if layout == "auto":
        layout = _guess_layout(array, name)
    if array.ndim != len(layout):
        raise UserError(f"{name} has shape {list(array.shape)}, which is not {layout} as data.layout says.")
    if layout == "NHW":
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" else array


def _guess_layout(array: npt.NDArray[np.generic], name: str) -> str:
    if array.ndim == 3:
        return "NHW"
    if array.ndim == 4:
        first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
        if first and last:
            raise UserError(
                f"{name} has shape {list(array.shape)}, which may be NCHW or NHWC; "
                f"set data.layout=NCHW or data.layout=NHWC."
            )
        if first or last:
            return "NCHW" if first else "NHWC"
    raise UserError(f"{name} has shape {list(array.shape)}; expected {_EXPECTED}.")


def _check_integers(values: npt.NDArray[np.generic], count: int, axes: int, name: str) -> None:
    """Refuse labels (one axis) or factors (two axes) that are not one int64 row per image."""
    if values.ndim != axes or len(values) != count:
        expected = (
            f"one label for each image, [{count}]" if axes == 1 else f"a row for each image, [{count}, factors]"
        )
        raise UserError(f"{name} has shape {list(values.shape)}; expected {expected}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"{name} is of type {values.dtype}; expected integers.")
    if values.size and (highest := int(values.max())) > np.iinfo(np.int64).max:
        raise UserError(f"{name} holds {highest}; expected integers below 2**63, as int64 holds.")
