"""Images of any map-style `torch.utils.data.Dataset`, read once."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vae_exp.data.array_pixels import CHANNELS
from vae_exp.data.decoding_pool import show_progress
from vae_exp.data.image_cache import open_cache, write_npy
from vae_exp.data.image_decoding import to_array
from vae_exp.data.images import ImageSet, check_int64
from vae_exp.data.splits import NoTestImagesError
from vae_exp.errors import Interrupted, UserError, quantity, user_code_location
from vae_exp.storage.atomic_io import absolute_path

_log = logging.getLogger(__name__)
_SAMPLED = 16  # items whose content names the cache
_IMAGE_KEYS = ("image", "img", "pixel_values")
_LABEL_KEYS = ("label", "labels")

Pixels = npt.NDArray[np.generic]


class DatasetSource:
    """Images of map-style datasets, read once into `<root>/cache/<class>-<hash>.npy`.

    An item is an image, a sequence of image and label, or a mapping with `image` and `label`. An image is a PIL
    image, a tensor `[channels, height, width]` or `[height, width]`, or an array `[height, width, channels]` or
    `[height, width]`; uint8 or float in [0, 1], all of one shape. A label that is no integer is left out. Floats
    that are multiples of 1/255, as `ToTensor` makes them, are kept as uint8.

    The hash follows from the dataset's class, length and plain attributes and from 16 of its items: delete the
    file after a change that these do not show.

    Args:
        root: Where `cache` is.
        dataset: The training images.
        val_dataset: Validation images; None where there are none of their own.
        test_dataset: Test images; None where there are none.

    Raises:
        UserError: when opened, if an item is no image, or if the items change from one reading to the next.
    """

    def __init__(
        self,
        root: str,
        dataset: Dataset[Any],
        val_dataset: Dataset[Any] | None = None,
        test_dataset: Dataset[Any] | None = None,
    ) -> None:
        self._cache = absolute_path("data.root", root) / "cache"
        self._datasets = {"dataset": dataset, "val_dataset": val_dataset, "test_dataset": test_dataset}
        for name, given in self._datasets.items():
            if given is not None and not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
                raise UserError(
                    f"data.source.{name} is a {type(given).__name__}; expected a map-style dataset, with __len__ "
                    f"and __getitem__."
                )

    def train(self) -> ImageSet:
        """The items of `dataset`, `[N, channels, height, width]`, with their labels."""
        return self._open("dataset")

    def val(self) -> ImageSet | None:
        """The items of `val_dataset`; None where there is none."""
        return None if self._datasets["val_dataset"] is None else self._open("val_dataset")

    def test(self) -> ImageSet:
        """The items of `test_dataset`."""
        if self._datasets["test_dataset"] is None:
            raise NoTestImagesError("data.source.test_dataset is missing")
        return self._open("test_dataset")

    def _open(self, name: str) -> ImageSet:
        dataset: Any = self._datasets[name]
        key = f"data.source.{name} ({type(dataset).__name__})"
        try:
            count = len(dataset)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{key} has no length: {error}; __len__ must return how many items it has.") from error
        if not count:
            raise UserError(f"{key} is empty.")
        path = self._cache / f"{type(dataset).__name__}-{_content_hash(dataset, key)}.npy"
        content = f"{quantity(count, 'item')} of {key}"

        def build(target: Path) -> dict[str, Any]:
            _log.info("Reading %s into %s; this is done once.", content, path)
            return _write(target, dataset, key, content)

        def read_labels(notes: Any) -> Tensor | None:
            labels = notes["labels"]
            return None if labels is None else torch.tensor(labels, dtype=torch.int64).reshape(count)

        cached = open_cache(path, content, build, read_labels)
        return ImageSet(cached.pixels, cached.notes)


def _write(target: Path, dataset: Any, key: str, content: str) -> dict[str, Any]:
    """Write all items; their labels, or None where not all are integers."""
    labels: list[int | None] = []
    first = _read(dataset, 0, key)[0]
    is_integer = all(_on_grid(_read(dataset, index, key)[0]) for index in _sampled(len(dataset)))

    def images() -> Iterator[Pixels]:
        for index in range(len(dataset)):
            image, label = _read(dataset, index, key)
            if image.shape != first.shape:
                raise UserError(
                    f"{key} has images of several shapes, {list(first.shape)} and, in item {index}, "
                    f"{list(image.shape)}; resize them to one."
                )
            if is_integer and not _on_grid(image):
                raise UserError(
                    f"{key} has grey levels at first and other numbers in item {index}; return all images as "
                    f"uint8, or all as float."
                )
            labels.append(label)
            yield _as_integers(image) if is_integer else image.astype(np.float32)

    shape, dtype = (len(dataset), *first.shape), np.uint8 if is_integer else np.float32
    write_npy(target, shape, dtype, show_progress(images(), f"Reading {content}", len(dataset), lambda _: 1))
    return {"labels": None if None in labels else labels}


def _read(dataset: Any, index: int, key: str) -> tuple[Pixels, int | None]:
    """An item: `[channels, height, width]`, uint8 or float in [0, 1], and its label."""
    item = _read_item(dataset, index, key)
    label: Any = None
    if isinstance(item, Mapping):
        label = next((item[name] for name in _LABEL_KEYS if name in item), None)
        item = next((item[name] for name in _IMAGE_KEYS if name in item), None)
    elif isinstance(item, tuple | list):
        item, label = (*item, None, None)[:2]
    if isinstance(label, Tensor | np.generic) and np.ndim(label) == 0:
        label = label.item()
    try:
        image = to_array(item) if isinstance(item, Image.Image) else _channels_first(item)
    except (ValueError, TypeError) as error:  # a mode of Pillow's, or a type that numpy does not have
        raise UserError(
            f"{key} has a {type(item).__name__} in item {index} that cannot be read: {error}."
        ) from error
    if image.ndim != 3 or 0 in image.shape or image.dtype.kind not in "buf":
        raise UserError(
            f"{key} has a {type(item).__name__} in item {index}, of shape {list(image.shape)} and type "
            f"{image.dtype}; expected a PIL image, or uint8 or float in [0, 1], as a tensor [C, H, W] or an array "
            f"[H, W, C]."
        )
    _check_values(image, f"{key} holds in item {index}")
    if not isinstance(label, Integral):
        return image, None
    check_int64(int(label), f"{key}, as the label of item {index},")
    return image, int(label)


def _read_item(dataset: Any, index: int, key: str) -> Any:
    try:
        return dataset[index]
    except (Interrupted, UserError):
        raise
    except (Exception, SystemExit) as error:  # a dataset that ends the program would leave no message
        raise UserError(
            f"{key} fails at item {index}: {type(error).__name__}: {error}{user_code_location(error)}; "
            f"HYDRA_FULL_ERROR=1 shows the traceback."
        ) from error


def _channels_first(item: Any) -> Pixels:
    is_tensor = isinstance(item, Tensor)
    array: Pixels = item.detach().cpu().numpy() if is_tensor else np.asarray(item)
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        return array
    axis, other = (0, 2) if is_tensor else (2, 0)
    if array.shape[other] in CHANNELS and array.shape[axis] not in CHANNELS:
        where, remedy = ("last", "image.permute(2, 0, 1)") if is_tensor else ("first", "torch.from_numpy(image)")
        raise ValueError(f"its shape {list(array.shape)} has the channels {where}; return {remedy}")
    return np.moveaxis(array, axis, 0)


def _check_values(image: Pixels, beginning: str) -> None:
    low, high = float(image.min()), float(image.max())
    most = 1 if image.dtype.kind == "f" else 255
    if not 0 <= low <= high <= most:
        raise UserError(
            f"{beginning} values from {low:g} to {high:g}; expected uint8, or float in [0, 1]: leave out what "
            f"normalises them."
        )


def _on_grid(image: Pixels) -> bool:
    """Whether all values are multiples of 1/255, or integers."""
    if image.dtype.kind != "f":
        return True
    scaled = image.astype(np.float64) * 255
    return bool(np.abs(scaled - scaled.round()).max() < 1e-3)


def _as_integers(image: Pixels) -> Pixels:
    if image.dtype.kind == "f":
        return (image.astype(np.float64) * 255).round().astype(np.uint8)
    return image.astype(np.uint8) * np.uint8(255 if image.dtype.kind == "b" else 1)


def _sampled(count: int) -> list[int]:
    return sorted({count * number // _SAMPLED for number in range(_SAMPLED)})


def _content_hash(dataset: Any, key: str) -> str:
    """What the name of the cache follows from."""
    digest = hashlib.sha256()
    for index in _sampled(len(dataset)):
        image, label = _read(dataset, index, key)
        if not np.array_equal(image, _read(dataset, index, key)[0]):
            raise UserError(
                f"{key} gives another image each time that item {index} is read; leave out random transforms, and "
                f"use data.augment=[flip,shift,crop]."
            )
        digest.update(f"{image.shape} {image.dtype} {label}".encode() + image.tobytes())
    attributes = getattr(dataset, "__dict__", {})  # a class with slots has none
    plain = {name: value for name, value in attributes.items() if isinstance(value, str | int | float | Path)}
    cls = type(dataset)
    named = [cls.__module__, cls.__qualname__, len(dataset), plain]
    digest.update(json.dumps(named, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
