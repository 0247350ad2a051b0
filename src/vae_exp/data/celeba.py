"""CelebA, cropped to the face and resized once."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from PIL import Image
from torchvision import datasets

from vae_exp.argument_checks import check_int
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, write_atomically

_log = logging.getLogger(__name__)
_CROP = 148  # of 178×218, the part with the face
_DECODE_CHUNK = 5000


class CelebASource:
    """Faces with 40 binary attributes (Liu et al. 2015), in the official split; the attributes are the factors.

    The middle 148×148 pixels of the aligned images are resized with antialiasing. All images of a split are
    decoded once and cached as `celeba-<split>-<size>.npy` beside them.

    Args:
        root: The folder that holds `celeba`, as torchvision lays it out.
        size: Pixels along a side.

    Raises:
        UserError: when opened, if files are missing or cannot be read; they cannot be downloaded without a
            browser.
    """

    def __init__(self, root: str, size: int) -> None:
        self._root = absolute_path("data.root", root)
        self._size = check_int("data.source.size", size)

    def train(self) -> ImageSet:
        """The official training images, `[N, 3, size, size]`."""
        return self._open("train")

    def test(self) -> ImageSet:
        """The official test images, `[N, 3, size, size]`."""
        return self._open("test")

    def _open(self, split: str) -> ImageSet:
        folder = self._root / datasets.CelebA.base_folder
        try:
            listed = datasets.CelebA(self._root, split=split, target_type="attr", download=False)
        except RuntimeError as error:
            raise UserError(
                f"CelebA is not in {folder}: put img_align_celeba.zip, unpacked, and the lists "
                f"{', '.join(name for _, _, name in datasets.CelebA.file_list[1:])} there, from the authors' page "
                f"(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html); another root: data.root=DIR."
            ) from error
        files = [folder / "img_align_celeba" / name for name in listed.filename]
        with FileLock(folder / ".lock"):
            pixels = self._load_cached(folder / f"celeba-{split}-{self._size}.npy", files)
        return ImageSet(torch.from_numpy(pixels), None, 255, factors=listed.attr.to(torch.int64))

    def _load_cached(self, cache: Path, files: Sequence[Path]) -> npt.NDArray[np.uint8]:
        shape = (len(files), 3, self._size, self._size)
        if cache.exists():
            cached: npt.NDArray[np.uint8] = np.load(cache, allow_pickle=False)
            if cached.shape == shape and cached.dtype == np.uint8:
                return cached
        _log.info("Decoding %d images of CelebA into %s; this is done once.", len(files), cache)
        pixels = np.empty(shape, dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), _DECODE_CHUNK):
                part = slice(start, start + _DECODE_CHUNK)
                pixels[part] = np.stack(list(pool.map(self._decode, files[part])))
        write_atomically(cache, lambda file: np.save(file, pixels))
        return pixels

    def _decode(self, file: Path) -> npt.NDArray[np.uint8]:
        """One image, `[3, size, size]`."""
        try:
            with Image.open(file, formats=["JPEG"]) as image:  # other decoders may start programs
                left, above = (image.width - _CROP) // 2, (image.height - _CROP) // 2
                face = image.convert("RGB").crop((left, above, left + _CROP, above + _CROP))
                small = face.resize((self._size, self._size), Image.Resampling.BILINEAR)
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error}.") from error
        return np.asarray(small, dtype=np.uint8).transpose(2, 0, 1)
