"""The user's own images from an `.npz` file."""

import numpy as np
import numpy.typing as npt
import torch

from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.run_directory import absolute_path

LAYOUTS = ("auto", "NHW", "NCHW", "NHWC")
_COLOURS = (1, 3)
_WANTED = "[N, H, W], [N, C, H, W] or [N, H, W, C] with one or three channels"


class ArraysSource:
    """Images from an `.npz` file; nothing pickled is ever loaded.

    Args:
        path: The file. `images` holds the training images as uint8, or as float in [0, 1]; `labels` is
            optional, as are `test_images` and `test_labels`.
        layout: The order of the axes: `NHW`, `NCHW`, `NHWC`, or `auto`, which looks for one or three channels.

    Raises:
        UserError: when opened, if the file cannot be read or its images cannot be used; names the array.
    """

    def __init__(self, path: str | None, layout: str = "auto") -> None:
        if not path:
            raise UserError("data.path is missing: data=arrays reads an .npz file, data.path=my_images.npz.")
        if layout not in LAYOUTS:
            raise UserError(f"data.layout={layout} is not known; use one of {', '.join(LAYOUTS)}.")
        self._path = absolute_path("data.path", path)
        self._layout = layout

    def train(self) -> ImageSet:
        """The array `images` with `labels`."""
        return self._read("images", "labels")

    def test(self) -> ImageSet:
        """The array `test_images` with `test_labels`."""
        return self._read("test_images", "test_labels")

    def _read(self, images_key: str, labels_key: str) -> ImageSet:
        arrays = self._load(images_key, labels_key)
        if images_key not in arrays:
            raise UserError(
                f"data.path={self._path} holds no array '{images_key}'"
                + (
                    "; add one to evaluate on test images, or say split=val."
                    if images_key == "test_images"
                    else f"; expected 'images' as {_WANTED}."
                )
            )
        name = f"'{images_key}' in data.path={self._path}"
        pixels, pixel_max = _pixels(arrays[images_key], self._layout, name)
        labels = arrays.get(labels_key)
        if labels is not None:
            _check_labels(labels, len(pixels), f"'{labels_key}' in data.path={self._path}")
        return ImageSet(
            pixels=torch.from_numpy(pixels),
            labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
            pixel_max=pixel_max,
        )

    def _load(self, *keys: str) -> dict[str, npt.NDArray[np.generic]]:
        try:
            with self._path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise UserError(
                        f"data.path={self._path} holds a single array; expected an .npz file with "
                        f"an array 'images' (numpy.savez)."
                    )
                arrays = {key: archive[key] for key in keys if key in archive}
        except FileNotFoundError:
            raise UserError(
                f"data.path={self._path} does not exist; expected an .npz file with an array 'images'."
            ) from None
        except UserError:
            raise
        except MemoryError as error:
            raise UserError(f"data.path={self._path} claims more pixels than memory holds: {error}.") from error
        except Exception as error:  # damage shows itself in any way it likes
            reason = (
                "it holds pickled objects, which are never loaded"
                if "Object arrays" in str(error)
                else str(error) or type(error).__name__
            )
            raise UserError(
                f"data.path={self._path} cannot be read as an .npz file of plain arrays: {reason}."
            ) from error
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise UserError(f"'{key}' in data.path={self._path} is a plain file; expected an array.")
        return arrays


def _pixels(array: npt.NDArray[np.generic], layout: str, name: str) -> tuple[npt.NDArray[np.generic], int]:
    """The array as `[N, C, H, W]`, uint8 or float32, and the value that stands for white."""
    array = _channels_first(array, layout, name)
    if 0 in array.shape:
        raise UserError(f"{name} has shape {list(array.shape)}, which holds no pixels; expected {_WANTED}.")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array), 255
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{name} is of type {array.dtype}; expected uint8, or float in [0, 1].")
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
        layout = _guessed_layout(array, name)
    if array.ndim != len(layout):
        raise UserError(f"{name} has shape {list(array.shape)}, which is not {layout} as data.layout says.")
    if layout == "NHW":
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" else array


def _guessed_layout(array: npt.NDArray[np.generic], name: str) -> str:
    if array.ndim == 3:
        return "NHW"
    if array.ndim == 4:
        first, last = array.shape[1] in _COLOURS, array.shape[3] in _COLOURS
        if first and last:
            raise UserError(
                f"{name} has shape {list(array.shape)}, which may be NCHW or NHWC; "
                f"say data.layout=NCHW or data.layout=NHWC."
            )
        if first or last:
            return "NCHW" if first else "NHWC"
    raise UserError(f"{name} has shape {list(array.shape)}; expected {_WANTED}.")


def _check_labels(labels: npt.NDArray[np.generic], count: int, name: str) -> None:
    if labels.shape != (count,):
        raise UserError(f"{name} has shape {list(labels.shape)}; expected one label for each image, [{count}].")
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name} is of type {labels.dtype}; expected integers.")
