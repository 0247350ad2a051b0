"""Colour images through torchvision: CIFAR-10 and SVHN, with their official splits."""

import logging
from contextlib import redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torchvision import datasets

from vae_exp.data.download import NOT_ALLOWED, md5_of, patience, those_that_answer
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import absolute_path

_log = logging.getLogger(__name__)
DATASETS = ("CIFAR10", "SVHN")


class ColourSource:
    """32×32 images in colour.

    Args:
        dataset: `CIFAR10` or `SVHN`.
        root: The folder that holds, or will hold, a folder of the data set's name.

    Raises:
        UserError: when opened, if files are damaged, or absent while the server does not answer; names the ways
            out.
    """

    def __init__(self, dataset: str, root: str) -> None:
        if dataset not in DATASETS:
            raise UserError(f"data.source.dataset={dataset} is not known; use one of {', '.join(DATASETS)}.")
        self._dataset = dataset
        self._folder = absolute_path("data.root", root) / dataset
        self.may_download = True

    def train(self) -> ImageSet:
        """The official training images, `[N, 3, 32, 32]`."""
        return self._open("train")

    def test(self) -> ImageSet:
        """The official test images, `[N, 3, 32, 32]`."""
        return self._open("test")

    def _open(self, split: str) -> ImageSet:
        found = self._loaded(split, download=False)
        return found if found is not None else self._fetched(split)

    def _loaded(self, split: str, *, download: bool) -> ImageSet | None:
        """What lies in the folder; None where something is missing or not as it was published."""
        try:
            if self._dataset == "CIFAR10":
                dataset: Any = datasets.CIFAR10(self._folder, train=split == "train", download=download)
                pixels, labels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2), dataset.targets
            else:
                dataset = datasets.SVHN(self._folder, split=split, download=download)
                pixels, labels = torch.from_numpy(dataset.data), dataset.labels
        except RuntimeError as error:
            if "not found or corrupted" in str(error):
                return None
            raise
        return ImageSet(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64), pixel_max=255)

    def _fetched(self, split: str) -> ImageSet:
        """Download; of several processes that find nothing, one does and the others wait for it."""
        url, archive, md5 = self._archive(split)
        if not archive.exists():
            self._require_an_answer(url)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / ".lock"):
                found = self._loaded(split, download=False)
                if found is None:
                    _refuse_damaged(archive, md5)
                    found = self._downloaded(split, url)
        except OSError as error:
            raise UserError(f"data.root={self._folder.parent} cannot be written to: {error}.") from error
        return found

    def _downloaded(self, split: str, url: str) -> ImageSet:
        _log.info("Fetching %s into %s …", self._dataset, self._folder)
        try:
            with patience(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                found = self._loaded(split, download=True)
        except (OSError, EOFError, RuntimeError, HTTPException) as error:
            raise self._not_there(url, str(error)) from error
        if found is None:
            raise self._not_there(url, "what came is not what was published")
        return found

    def _archive(self, split: str) -> tuple[str, Path, str]:
        """Address, place and MD5 of what is downloaded."""
        if self._dataset == "CIFAR10":
            kind = datasets.CIFAR10
            return kind.url, self._folder / kind.filename, kind.tgz_md5
        url, name, md5 = datasets.SVHN.split_list[split]
        return url, self._folder / name, md5

    def _require_an_answer(self, url: str) -> None:
        if not self.may_download:
            raise self._not_there(url, NOT_ALLOWED)
        if not those_that_answer([url]):
            raise self._not_there(url, "the server does not answer")

    def _not_there(self, url: str, reason: str) -> UserError:
        return UserError(
            f"{self._dataset} is not in data.root={self._folder.parent} and cannot be downloaded ({reason}): put "
            f"{url.rsplit('/', 1)[1]} into {self._folder} (another root: data.root=DIR, or the environment "
            f"variable VAE_EXP_DATA), or train on the embedded digits, data=digits."
        )


def _refuse_damaged(archive: Path, expected: str) -> None:
    if archive.exists() and (found := md5_of(archive)) != expected:
        raise UserError(
            f"{archive} is damaged: its MD5 is {found}, expected {expected}; delete it to download it again, or "
            f"put the right file there."
        )
