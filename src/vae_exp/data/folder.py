"""Images of the user: files in a folder, decoded once."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_exp.argument_checks import check_choice, check_optional_choice, refusal
from vae_exp.data.array_pixels import CHANNELS
from vae_exp.data.data_path import absolute_data_path
from vae_exp.data.decoding_pool import decode_images, scan_headers
from vae_exp.data.image_cache import open_cache
from vae_exp.data.image_decoding import SUFFIXES, PixelFormat
from vae_exp.data.image_files import (
    class_folders,
    class_labels,
    list_images,
    read_csv_labels,
    select_labels,
    split_folders,
)
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import NoTestImagesError
from vae_exp.errors import UserError, quantity
from vae_exp.storage.atomic_io import absolute_path

_log = logging.getLogger(__name__)
FITS = ("crop", "resize")
_VERSION = 1  # of what decoding makes of a file
_NAMED = 5  # files in a message


class FolderSource:
    """PNG, JPEG, WebP and TIFF files at any depth below a folder.

    Folders `train`, `val` (or `valid`, `validation`) and `test` in it, in capitals or not, are the splits; without
    `train`, all images outside of the other two are trained on. All images of a split are decoded once, into
    `<root>/cache/<folder>-<split>-<hash>.npy`. The hash follows from the names, sizes and times of the files, and
    from the size, fit and channels asked for.

    Args:
        path: The folder.
        root: Where `cache` is.
        size: Pixels along a side, or `[height, width]`; None takes the files as they are, all of one size.
        fit: How an image of another aspect ratio gets the size: `crop` cuts two of its sides, `resize` squeezes.
        channels: 1 for grey, 3 for RGB; None is 1 where all files are grey, else 3. Transparency is dropped.
        labels: `auto`, the first folder below the split, in alphabetical order, where there are folders; `none`;
            or a CSV file (see `read_csv_labels`).
        skip_corrupt: Whether images that cannot be read are left out, and named in the log.

    Raises:
        UserError: if an argument is out of range; when opened, if there are no images, if they are of several
            sizes and `size` is None, if one cannot be read, or if their labels are incomplete.
    """

    def __init__(
        self,
        path: str | None,
        root: str,
        size: int | Sequence[int] | None = None,
        fit: str = "crop",
        channels: int | None = None,
        labels: str = "auto",
        skip_corrupt: bool = False,
    ) -> None:
        self._path = absolute_data_path(path, is_folder=True)
        self._cache = absolute_path("data.root", root) / "cache"
        self._size = _check_size("data.size", size)
        self._fit = check_choice("data.fit", fit, FITS)
        self._channels = check_optional_choice("data.channels", channels, CHANNELS)
        self._labels = _check_labels("data.labels", labels)
        self._skip_corrupt = skip_corrupt

    def train(self) -> ImageSet:
        """The images to train on, uint8 of shape `[N, channels, height, width]`, with their labels."""
        return self._open(self._train_folder, self._train_files)

    def val(self) -> ImageSet | None:
        """The images below `val`; None if there is no such folder."""
        folder = self._folders.get("val")
        return self._open(folder, list_images(self._path, folder)) if folder else None

    def test(self) -> ImageSet:
        """The images below `test`; a `NoTestImagesError` without such a folder."""
        folder = self._folders.get("test")
        if not folder:
            raise NoTestImagesError(f"data.path={self._path} has no folder 'test'")
        return self._open(folder, list_images(self._path, folder))

    @cached_property
    def _folders(self) -> dict[str, str]:
        """The folder of each split that has one."""
        if not self._path.is_dir():
            raise UserError(f"data.path={self._path} is not a folder; name the folder of your images.")
        folders = {split: names for split, names in split_folders(self._path).items() if names}
        for split, names in folders.items():
            if len(names) > 1:
                raise UserError(
                    f"data.path={self._path} has several folders of {split} images, {', '.join(names)}; put all "
                    f"into one of them, or move the others elsewhere."
                )
        return {split: names[0] for split, names in folders.items()}

    @property
    def _train_folder(self) -> str:
        return self._folders.get("train", "")

    @cached_property
    def _train_files(self) -> list[str]:
        others = () if self._train_folder else tuple(f"{name}/" for name in self._folders.values())
        return [file for file in list_images(self._path, self._train_folder) if not file.startswith(others)]

    def _open(self, split: str, files: list[str]) -> ImageSet:
        if not files:
            raise UserError(
                f"data.path={self._path / split} holds no images; expected files that end in "
                f"{', '.join(SUFFIXES)}, at any depth."
            )
        labels = self._read_labels(split, files)
        content = f"{quantity(len(files), 'image')} of {self._path / split}"
        cache = self._cache / f"{self._path.name}-{split or 'train'}-{self._key(files)}.npy"
        cached = open_cache(cache, content, lambda path: self._decode(path, files, content), _problems)
        classes = None if labels is None else self._class_names
        images, problems = ImageSet(cached.pixels, labels, names=tuple(files), classes=classes), cached.notes
        if not problems:
            return images
        self._report(problems, files)
        return images.subset(torch.tensor([row for row in range(len(files)) if row not in problems]))

    def _key(self, files: Sequence[str]) -> str:
        """What the content of the cache follows from."""
        digest = hashlib.sha256(json.dumps([_VERSION, self._size, self._fit, self._channels]).encode())
        for file in files:
            try:
                status = (self._path / file).stat()
                state = f"{status.st_size}\0{status.st_mtime_ns}"
            except OSError:  # of a link to nothing; decoding reports it
                state = ""
            digest.update(f"{file}\0{state}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def _decode(self, target: Path, files: Sequence[str], content: str) -> dict[str, Any]:
        """Write the pixels of the files; a row of a file that cannot be read stays zero."""
        paths = [str(self._path / file) for file in files]
        size, channels = self._size, self._channels
        if size is None or channels is None:
            headers = scan_headers(paths, content)
            unreadable = {row: header.problem for row, header in enumerate(headers) if header.problem}
            if unreadable:
                self._report(unreadable, files)
            readable = [header for header in headers if not header.problem]
            channels = channels or (1 if all(header.is_grey for header in readable) else 3)
            size = size or self._common_size(Counter((header.height, header.width) for header in readable))
        fitted = f", to {size[0]}×{size[1]} by data.fit={self._fit}" if self._size else ""
        _log.info("Decoding %s%s, into %s; this is done once.", content, fitted, self._cache)
        pixel_format = PixelFormat(channels, *size, crop=self._fit == "crop")
        return {"problems": decode_images(target, paths, pixel_format, content)}

    def _common_size(self, sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
        (height, width), _ = sizes.most_common(1)[0]
        if len(sizes) > 1:
            examples = ", ".join(f"{count} of {rows}×{columns}" for (rows, columns), count in sizes.most_common(3))
            raise UserError(
                f"data.path={self._path} holds images of {len(sizes)} sizes (height × width: {examples}); "
                f"choose one for all, such as data.size=64 or data.size=[{height},{width}]."
            )
        return height, width

    def _report(self, problems: dict[int, str], files: Sequence[str]) -> None:
        """Name the images that cannot be read, in an error unless they are to be left out."""
        names = ", ".join(f"{files[row]} ({reason})" for row, reason in list(problems.items())[:_NAMED])
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        text = f"data.path={self._path}: {len(problems)} of {len(files)} images cannot be read: {names}{more}"
        if not self._skip_corrupt:
            raise UserError(f"{text}; repair or remove them, or leave them out with data.skip_corrupt=true.")
        if len(problems) == len(files):
            raise UserError(f"{text}; none is left.")
        _log.warning("%s; they are left out.", text)

    def _read_labels(self, split: str, files: Sequence[str]) -> Tensor | None:
        """`[N]`, int64."""
        if self._labels == "none":
            return None
        if self._labels != "auto":
            is_train = split == self._train_folder
            return select_labels(self._csv_labels[0], files, f"data.labels={self._labels}", required=is_train)
        if not self._classes and not any(class_folders(files, split)):
            return None
        return class_labels(files, class_folders(files, split), self._classes, self._path)

    @property
    def _class_names(self) -> tuple[str, ...] | None:
        return tuple(self._classes) if self._labels == "auto" else self._csv_labels[1]

    @cached_property
    def _csv_labels(self) -> tuple[dict[str, int], tuple[str, ...] | None]:
        return read_csv_labels(self._labels, self._path)

    @cached_property
    def _classes(self) -> dict[str, int]:
        """The label of each class folder of the training images."""
        names = {name for name in class_folders(self._train_files, self._train_folder) if name}
        return {name: label for label, name in enumerate(sorted(names))}


def _problems(notes: Any) -> dict[int, str]:
    """The rows of a cache whose files cannot be read, each with the reason."""
    return {int(row): str(reason) for row, reason in notes["problems"].items()}


def _check_size(name: str, value: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width."""
    if value is None:
        return None
    sides = value if isinstance(value, Sequence) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise refusal(name, value, "a number of pixels of at least 1, or [height,width]")
    return sides[0], sides[1]


def _check_labels(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise refusal(name, value, "auto, none or a CSV file")
    return value
