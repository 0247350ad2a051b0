"""Arrays as the pixels of an `ImageSet`: their axes, their types and the range of their values."""

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vae_exp.data.pixel_file import FilePixels, open_pixels
from vae_exp.errors import UserError

LAYOUTS = ("auto", "NHW", "NCHW", "NHWC")
EXPECTED = (
    "[N, H, W], [N, C, H, W] or [N, H, W, C] with one or three channels, or with any number where data.layout is "
    "NCHW or NHWC"
)
CHANNELS = (1, 3)  # as images have them
_CHUNK_VALUES = 2**22

Array = npt.NDArray[np.generic]
Range = tuple[float, float]


def to_pixels(
    array: Array, layout: str, name: str, max_value: int, values: Range | None = None
) -> tuple[Tensor | FilePixels, int]:
    """The pixels, `[N, C, H, W]`, uint8 or float32 in [0, 1], and the value of white.

    Args:
        array: uint8, bool or float in [0, 1]; any numbers where `values` says what is black and white. A
            `numpy.memmap` of a whole `.npy` file stays in its file, unless it is rescaled.
        layout: One of `LAYOUTS`.
        name: Of the array, for messages.
        max_value: The integer that stands for white in uint8 images.
        values: The values that become 0 and 1; what lies outside is clipped. None takes the pixels as they are.

    Raises:
        UserError: if the array cannot be used as images.
    """
    layout = _layout_of(array.shape, layout, name)
    if 0 in array.shape:
        raise UserError(f"{name} has shape {list(array.shape)}, which holds no pixels; expected {EXPECTED}.")
    if values is not None:
        return _in_memory(_rescale(array, values, name), layout), 1
    if array.dtype.kind not in "bf" and array.dtype != np.uint8:
        raise UserError(
            f"{name} is of type {array.dtype}; expected uint8, bool, or float in [0, 1]. For other numbers "
            f"say what is black and white, data.rescale=[0,4095], or data.rescale=minmax."
        )
    if isinstance(array, np.memmap):
        pixels: Tensor | FilePixels = _in_file(array, layout, name)
    else:
        pixels = _in_memory(array, layout)
    if array.dtype.kind == "b":
        return pixels, 1
    if array.dtype.kind == "f":
        _check_range(pixels, name)
        return pixels, 1
    if max_value == 255 and _has_ones_at_most(pixels):
        raise UserError(
            f"{name} holds whole numbers of 0 and 1 alone, which would be black and almost black: for black and "
            f"white say +data.source.max_value=1, or save them as bool."
        )
    if max_value < 255:
        highest = max(int(pixels[part].max()) for part in _slices(pixels.shape))
        if highest > max_value:
            raise UserError(f"{name} holds values up to {highest}; data.source.max_value={max_value} is less.")
    return pixels, max_value


def _has_ones_at_most(pixels: Tensor | FilePixels) -> bool:
    """Whether there are ones and nothing above; usually the first images say so."""
    highest = 0
    for part in _slices(pixels.shape):
        highest = max(highest, int(pixels[part].max()))
        if highest > 1:
            break
    return highest == 1


def rescaling(rescale: Any, array: Array, name: str) -> Range | None:
    """The values that become black and white.

    Args:
        rescale: None; `minmax`, the least and the greatest of the training images; or the two values.
        array: The training images.
        name: Of that array, for messages.

    Raises:
        UserError: if `rescale` is something else, or if all values are the same.
    """
    if rescale is None:
        return None
    if rescale == "minmax":
        if array.ndim < 3 or not array.size:
            raise UserError(f"{name} has shape {list(array.shape)}; expected {EXPECTED}.")
        low, high = value_range(array[part] for part in _slices(array.shape))
        if not (isfinite(low) and isfinite(high)) or low == high:
            raise UserError(
                f"data.rescale=minmax: {name} holds values from {low:g} to {high:g}; no range to rescale."
            )
        return low, high
    is_pair = isinstance(rescale, Sequence) and not isinstance(rescale, str) and len(rescale) == 2
    if not is_pair or not all(isinstance(value, int | float) and isfinite(value) for value in rescale):
        raise UserError(
            f"data.rescale={rescale} must be null, minmax, or the values of black and white, [0,4095]."
        )
    if rescale[0] >= rescale[1]:
        raise UserError(f"data.rescale={rescale} must rise from black to white.")
    return float(rescale[0]), float(rescale[1])


def value_range(parts: Iterable[Any]) -> Range:
    """The least and the greatest value of arrays or tensors; NaN or infinite if one of their values is."""
    low, high = np.inf, -np.inf
    for part in parts:
        least, greatest = float(part.min()), float(part.max())
        if not isfinite(least) or not isfinite(greatest):
            return least, greatest
        low, high = min(low, least), max(high, greatest)
    return float(low), float(high)


def _rescale(array: Array, values: Range, name: str) -> Array:
    low, high = values
    scaled = np.empty(array.shape, dtype=np.float32)
    for part in _slices(array.shape):
        scaled[part] = (array[part].astype(np.float64).clip(low, high) - low) / (high - low)
    if np.isnan(scaled.min()):
        raise UserError(f"{name} holds NaN; expected numbers.")
    return scaled


def _check_range(pixels: Tensor | FilePixels, name: str) -> None:
    low, high = value_range(pixels[part] for part in _slices(pixels.shape))
    if not (isfinite(low) and isfinite(high)):
        raise UserError(f"{name} holds NaN or infinite values; expected float in [0, 1].")
    if low < 0 or high > 1:
        raise UserError(
            f"{name} holds values from {low:g} to {high:g}; expected float in [0, 1], or uint8 from 0 to 255. For "
            f"other numbers say what is black and white, data.rescale=[{low:g},{high:g}], or data.rescale=minmax."
        )


def _slices(shape: Sequence[int]) -> Iterator[slice]:
    """Slices of the first axis, of some millions of values each."""
    step = max(1, _CHUNK_VALUES // prod(shape[1:]))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _in_file(array: "np.memmap[Any, Any]", layout: str, name: str) -> FilePixels:
    try:
        return open_pixels(Path(str(array.filename)), layout)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read: {error}.") from error


def _in_memory(array: Array, layout: str) -> Tensor:
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    if layout == "NHW":
        return pixels.unsqueeze(1)
    return pixels.permute(0, 3, 1, 2).contiguous() if layout == "NHWC" else pixels


def _layout_of(shape: Sequence[int], layout: str, name: str) -> str:
    if layout != "auto":
        if len(shape) != len(layout):
            raise UserError(f"{name} has shape {list(shape)}, which is not {layout} as data.layout says.")
        return layout
    if len(shape) == 3:
        return "NHW"
    if len(shape) == 4:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first and last:
            raise UserError(
                f"{name} has shape {list(shape)}, which may be NCHW or NHWC; "
                f"set data.layout=NCHW or data.layout=NHWC."
            )
        if first or last:
            return "NCHW" if first else "NHWC"
    raise UserError(f"{name} has shape {list(shape)}; expected {EXPECTED}.")
