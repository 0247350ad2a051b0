"""Data sets that torchvision downloads, checks and unpacks: the MNIST family, CIFAR-10 and SVHN."""

import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from vae_exp.argument_checks import check_choice
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path

_log = logging.getLogger(__name__)
STALL_SECONDS = 10.0  # torchvision sets no limit
MNIST_FAMILY: dict[str, type[datasets.MNIST]] = {
    "MNIST": datasets.MNIST,
    "FashionMNIST": datasets.FashionMNIST,
    "KMNIST": datasets.KMNIST,
    "EMNIST": datasets.EMNIST,
}
EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
COLOUR_DATASETS = ("CIFAR10", "SVHN")


class _TorchvisionSource(ABC):
    """Official splits in a folder below `root`; missing files are downloaded once."""

    may_download = True
    _name: str
    _root: Path

    def train(self) -> ImageSet:
        """The official training images, uint8 of shape `[N, channels, height, width]`, with their labels."""
        return self._open(train=True)

    def test(self) -> ImageSet:
        """The official test images, in the same form."""
        return self._open(train=False)

    @property
    @abstractmethod
    def _folder(self) -> Path:
        """Where torchvision puts the files."""

    @abstractmethod
    def _archives(self, train: bool) -> dict[str, str]:
        """The names of the files that are downloaded, with their MD5."""

    @abstractmethod
    def _load(self, train: bool, *, download: bool) -> ImageSet:
        """The images; a RuntimeError with `not found` in it if files are missing."""

    def _open(self, train: bool) -> ImageSet:
        images = self._load_if_present(train)
        if images is not None:
            return images
        if not self.may_download and self._missing(train):
            raise self._absent(train, "a stored config downloads nothing unless you set data.root")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / ".lock"):  # one process downloads, the others wait
                return self._load_if_present(train) or self._fetch(train)
        except OSError as error:
            raise UserError(f"data.root={self._root} cannot be written to: {error}.") from error

    def _load_if_present(self, train: bool) -> ImageSet | None:
        try:
            return self._load(train, download=False)
        except Exception as error:  # torchvision asserts and indexes into whatever a file holds
            if isinstance(error, RuntimeError) and "not found" in str(error):
                return None
            raise UserError(
                f"the unpacked files in {self._folder} cannot be read ({type(error).__name__}: {error}); delete "
                f"them, and they are unpacked again."
            ) from error

    def _fetch(self, train: bool) -> ImageSet:
        _log.info("%s %s into %s …", "Fetching" if self._missing(train) else "Unpacking", self._name, self._folder)
        try:
            with _socket_timeout(STALL_SECONDS):
                return self._load(train, download=True)
        except (OSError, EOFError, RuntimeError, HTTPException) as error:
            raise self._absent(train, str(error)) from error

    def _missing(self, train: bool) -> list[str]:
        """The archives that are not there as they were published."""
        archives = self._archives(train)
        return [name for name, md5 in archives.items() if not check_integrity(str(self._folder / name), md5)]

    def _absent(self, train: bool, reason: str) -> UserError:
        names = ", ".join(self._missing(train) or self._archives(train))
        return UserError(
            f"{self._name} is incomplete in data.root={self._root} and cannot be downloaded ({reason}): "
            f"put {names} into {self._folder} (another root: data.root=DIR, or the "
            f"environment variable VAE_EXP_DATA), or train on the embedded digits, data=digits."
        )


class MNISTSource(_TorchvisionSource):
    """28×28 greyscale images: MNIST, Fashion-MNIST, KMNIST or EMNIST.

    EMNIST's files hold transposed images; they are turned upright here.

    Args:
        dataset: Its name in torchvision.
        root: The folder that holds, or will hold, `<dataset>/raw`.
        split: Which of EMNIST's subsets; None for the other data sets.

    Raises:
        UserError: when opened, if files are damaged, or absent and cannot be downloaded; names the ways out.
    """

    def __init__(self, dataset: str, root: str, split: str | None = None) -> None:
        self._name = check_choice("data.source.dataset", dataset, MNIST_FAMILY)
        if dataset == "EMNIST":
            check_choice("data.source.split", split, EMNIST_SPLITS)
        elif split is not None:
            raise UserError(f"data.source.split={split} must be null for {dataset}; it is for EMNIST.")
        self._root = absolute_path("data.root", root)
        self._class = MNIST_FAMILY[dataset]
        self._options: dict[str, Any] = {} if split is None else {"split": split}

    @property
    def _folder(self) -> Path:
        return self._root / self._name / "raw"

    def _archives(self, train: bool) -> dict[str, str]:
        if self._class is datasets.EMNIST:
            return {datasets.EMNIST.url.rpartition("/")[2]: datasets.EMNIST.md5}
        return dict(self._class.resources)

    def _load(self, train: bool, *, download: bool) -> ImageSet:
        dataset = self._class(self._root, train=train, download=download, **self._options)
        pixels = dataset.data
        if self._class is datasets.EMNIST:
            pixels = pixels.transpose(1, 2).contiguous()
        if len(pixels) != len(dataset.targets):
            raise ValueError(f"{len(pixels)} images and {len(dataset.targets)} labels")
        return ImageSet(pixels.unsqueeze(1), dataset.targets.to(torch.int64), pixel_max=255)


class ColourSource(_TorchvisionSource):
    """32×32 images in colour: CIFAR-10 or SVHN.

    Args:
        dataset: Its name in torchvision.
        root: The folder that holds, or will hold, a folder of the data set's name.

    Raises:
        UserError: when opened, if files are damaged, or absent and cannot be downloaded; names the ways out.
    """

    def __init__(self, dataset: str, root: str) -> None:
        self._name = check_choice("data.source.dataset", dataset, COLOUR_DATASETS)
        self._root = absolute_path("data.root", root)

    @property
    def _folder(self) -> Path:
        return self._root / self._name

    def _archives(self, train: bool) -> dict[str, str]:
        if self._name == "CIFAR10":
            return {datasets.CIFAR10.filename: datasets.CIFAR10.tgz_md5}
        _, name, md5 = datasets.SVHN.split_list["train" if train else "test"]
        return {name: md5}

    def _load(self, train: bool, *, download: bool) -> ImageSet:
        if self._name == "CIFAR10":
            dataset: Any = datasets.CIFAR10(self._folder, train=train, download=download)
            pixels, labels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2), dataset.targets
        else:
            dataset = datasets.SVHN(self._folder, split="train" if train else "test", download=download)
            pixels, labels = torch.from_numpy(dataset.data), dataset.labels
        return ImageSet(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64), pixel_max=255)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
