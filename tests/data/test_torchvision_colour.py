"""CIFAR-10 and SVHN from tiny archives, whose checksums torchvision takes for the official ones."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from tests.data import mirrors
from vae_exp.data.torchvision_colour import ColourSource
from vae_exp.errors import UserError

TRAIN, TEST = 7, 3


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pixels(count: int) -> np.ndarray:
    """`[N, 3, 32, 32]`."""
    return np.random.default_rng(count).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def labels(count: int) -> list[int]:
    return [place % 10 for place in range(count)]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the servers would hold."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "official"
    folder.mkdir()
    _write_cifar(folder, monkeypatch)
    _write_svhn(folder, monkeypatch)
    return folder


def _write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "data_batch_1": {"data": pixels(TRAIN).reshape(TRAIN, -1), "labels": labels(TRAIN)},
        "test_batch": {"data": pixels(TEST).reshape(TEST, -1), "labels": labels(TEST)},
        "batches.meta": {"label_names": [str(place) for place in range(10)]},
    }
    contents = {name: pickle.dumps(part) for name, part in parts.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (folder / "cifar-10-python.tar.gz").write_bytes(archive.getvalue())
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", md5(contents["data_batch_1"])]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(contents["test_batch"])]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(contents["batches.meta"])})


def _write_svhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        name = f"{split}_32x32.mat"
        found = np.array([label or 10 for label in labels(count)])  # its zeros are tens
        scipy.io.savemat(folder / name, {"X": pixels(count).transpose(2, 3, 1, 0), "y": found[:, None]})
        listed[split] = [name, name, md5((folder / name).read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


@pytest.fixture
def served(official: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mirrors.Mirror]:
    with mirrors.serving(official) as mirror:
        _at(mirror.address, monkeypatch)
        yield mirror


def _at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}cifar-10-python.tar.gz")
    listed = {split: [address + name, name, sum_] for split, (_, name, sum_) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


@pytest.mark.parametrize("dataset", ["CIFAR10", "SVHN"])
def test_images_are_downloaded_once_and_come_channels_first(served, tmp_path: Path, dataset: str):
    source = ColourSource(dataset, str(tmp_path / "data"))
    asked = []
    for _ in range(2):
        for images, count in ((source.train(), TRAIN), (source.test(), TEST)):
            np.testing.assert_array_equal(images.pixels.numpy(), pixels(count))
            assert images.labels.tolist() == labels(count)
            assert images.pixels.dtype == torch.uint8
            assert images.image_shape == [3, 32, 32]
        asked.append(len(served.requests))
    assert asked[0] == asked[1]
    assert len(served.downloads()) == (1 if dataset == "CIFAR10" else 2)


@pytest.mark.parametrize("dataset", ["CIFAR10", "SVHN"])
def test_where_nobody_answers_nothing_is_written_and_the_ways_out_are_named(
    official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
):
    with mirrors.down() as address:
        _at(address, monkeypatch)
        with pytest.raises(UserError, match=r"the server does not answer.* VAE_EXP_DATA.*data=digits"):
            ColourSource(dataset, str(tmp_path / "data")).train()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("dataset", "name"), [("CIFAR10", "cifar-10-python.tar.gz"), ("SVHN", "train_32x32.mat")])
def test_an_archive_put_there_by_hand_is_used_and_a_damaged_one_refused(
    served, official: Path, tmp_path: Path, dataset: str, name: str
):
    folder = tmp_path / "data" / dataset
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"cut short")
    with pytest.raises(UserError, match=rf"{name} is damaged: its MD5 is .* delete it to download it again"):
        ColourSource(dataset, str(tmp_path / "data")).train()
    (folder / name).write_bytes((official / name).read_bytes())
    assert len(ColourSource(dataset, str(tmp_path / "data")).train()) == TRAIN
    assert not served.downloads()


def test_a_download_that_is_something_else_is_told(served, official: Path, tmp_path: Path):
    (official / "cifar-10-python.tar.gz").write_bytes(b"a page that says sorry")
    with pytest.raises(UserError, match=r"CIFAR10 is not in .* and cannot be downloaded"):
        ColourSource("CIFAR10", str(tmp_path / "data")).train()


def test_an_unknown_data_set_names_those_that_exist():
    with pytest.raises(UserError, match="one of CIFAR10, SVHN"):
        ColourSource("CIFAR100", "data")
