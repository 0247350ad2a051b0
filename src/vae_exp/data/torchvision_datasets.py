"""The MNIST family through torchvision: download, checksums and unpacking are torchvision's own."""

import logging
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from torchvision import datasets

from vae_exp.data.download import NOT_ALLOWED, md5_of, patience, those_that_answer
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.storage.run_directory import absolute_path

_log = logging.getLogger(__name__)
DATASETS: dict[str, type[datasets.MNIST]] = {
    "MNIST": datasets.MNIST,
    "FashionMNIST": datasets.FashionMNIST,
    "KMNIST": datasets.KMNIST,
    "EMNIST": datasets.EMNIST,
}
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")


class MNISTSource:
    """28×28 greyscale images: MNIST, Fashion-MNIST, KMNIST or EMNIST, with their official splits.

    EMNIST's files hold transposed images; they are turned upright here.

    Args:
        dataset: One of `DATASETS`.
        root: The folder that holds, or will hold, `<dataset>/raw`.
        split: Which of EMNIST's subsets; None for the others.

    Raises:
        UserError: when opened, if files are damaged, or absent while no mirror answers; names the ways out.
    """

    def __init__(self, dataset: str, root: str, split: str | None = None) -> None:
        if dataset not in DATASETS:
            raise UserError(f"data.source.dataset={dataset} is not known; use one of {', '.join(DATASETS)}.")
        fits = split in EMNIST_SPLITS if dataset == "EMNIST" else split is None
        if not fits:
            allowed = f"one of {', '.join(EMNIST_SPLITS)}" if dataset == "EMNIST" else "null"
            raise UserError(f"data.source.split={split} does not fit {dataset}; expected {allowed}.")
        self._dataset = DATASETS[dataset]
        self._root = absolute_path("data.root", root)
        self.may_download = True
        self._options: dict[str, Any] = {} if split is None else {"split": split}

    def train(self) -> ImageSet:
        """The official training images, `[N, 1, 28, 28]`."""
        return self._open(train=True)

    def test(self) -> ImageSet:
        """The official test images, `[N, 1, 28, 28]`."""
        return self._open(train=False)

    @property
    def _folder(self) -> Path:
        return self._root / self._dataset.__name__ / "raw"

    def _open(self, train: bool) -> ImageSet:
        return self._unpacked(train) or self._fetched(train)

    def _fetched(self, train: bool) -> ImageSet:
        """Download and unpack; of several processes that find nothing, one does and the others wait for it."""
        if not self._folder.is_dir():
            self._mirrors()  # where nothing can be fetched, nothing is written
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / ".lock"):
                images = self._unpacked(train)
                if images is None:
                    self._refuse_damaged_archives()
                    self._fetch_or_unpack(train, self._mirrors())
                    images = self._unpacked(train)
        except OSError as error:
            raise UserError(f"data.root={self._root} cannot be written to: {error}.") from error
        if images is None:
            raise UserError(f"{self._folder} still lacks files of {self._dataset.__name__} after unpacking.")
        return images

    def _unpacked(self, train: bool) -> ImageSet | None:
        """The images, where their unpacked files lie in the folder already."""
        try:
            dataset = self._dataset(self._root, train=train, download=False, **self._options)
        except RuntimeError as error:
            if "not found" in str(error):
                return None
            raise self._unreadable(error) from error
        except Exception as error:  # torchvision asserts and indexes into whatever the file holds
            raise self._unreadable(error) from error
        return self._image_set(dataset)

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"the unpacked files in {self._folder} cannot be read ({type(error).__name__}: {error}); "
            f"delete the files without '.gz' there, and they are unpacked again."
        )

    def _image_set(self, dataset: datasets.MNIST) -> ImageSet:
        pixels: Tensor = dataset.data
        if self._dataset is datasets.EMNIST:
            pixels = pixels.transpose(1, 2).contiguous()
        if len(pixels) != len(dataset.targets):
            raise self._unreadable(ValueError(f"{len(pixels)} images and {len(dataset.targets)} labels"))
        return ImageSet(pixels.unsqueeze(1), dataset.targets.to(torch.int64), pixel_max=255)

    def _archives(self) -> list[tuple[str, str, str]]:
        """File name, address on the first mirror, and MD5 of each archive."""
        if self._dataset is datasets.EMNIST:
            url = datasets.EMNIST.url
            return [(url.rsplit("/", 1)[1], url, datasets.EMNIST.md5)]
        return [(name, self._dataset.mirrors[0] + name, md5) for name, md5 in self._dataset.resources]

    def _refuse_damaged_archives(self) -> None:
        for name, _, expected in self._archives():
            archive = self._folder / name
            if archive.exists():
                found = md5_of(archive)
                if found != expected:
                    raise UserError(
                        f"{archive} is damaged: its MD5 is {found}, expected {expected}; "
                        f"delete it to download it again, or put the right file there."
                    )

    def _missing(self) -> list[str]:
        return [name for name, _, _ in self._archives() if not (self._folder / name).exists()]

    def _mirrors(self) -> list[str]:
        """The mirrors, the first that answers in front; none is asked where the archives are there.

        Raises:
            UserError: if archives are missing and no mirror answers; nothing has been written then.
        """
        missing = self._missing()
        if not missing:
            return list(self._dataset.mirrors)
        if not self.may_download:
            raise self._no_network(missing, NOT_ALLOWED)
        answering = those_that_answer(self._addresses(missing[0]))
        if not answering:
            raise self._no_network(missing)
        return sorted(self._dataset.mirrors, key=lambda mirror: not answering[0].startswith(mirror))

    def _fetch_or_unpack(self, train: bool, mirrors: Sequence[str]) -> None:
        missing = self._missing()
        # torchvision names its folder after the class, and asks the mirrors in turn
        dataset = type(self._dataset.__name__, (self._dataset,), {"mirrors": list(mirrors)})
        if missing:
            _log.info("Downloading %s into %s …", self._dataset.__name__, self._folder)
        try:
            with patience(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                dataset(self._root, train=train, download=True, **self._options)
        except (OSError, EOFError, RuntimeError, HTTPException) as error:
            if missing:
                raise self._no_network(missing, str(error)) from error
            raise UserError(f"{self._folder} cannot be unpacked: {error}.") from error

    def _addresses(self, name: str) -> list[str]:
        if self._dataset is datasets.EMNIST:
            return [datasets.EMNIST.url]
        return [mirror + name for mirror in self._dataset.mirrors]

    def _no_network(self, missing: Sequence[str], reason: str = "no mirror answers") -> UserError:
        return UserError(
            f"{self._dataset.__name__} is not in data.root={self._root} and cannot be downloaded ({reason}): "
            f"put {', '.join(missing)} into {self._folder} (another root: data.root=DIR, or the environment "
            f"variable VAE_EXP_DATA), or train on the embedded digits, data=digits."
        )
