"""Data sets of torchvision from tiny archives, whose checksums torchvision takes for the official ones."""

import gzip
import hashlib
import io
import logging
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from tests.data import mirrors
from vae_exp.data import torchvision_datasets
from vae_exp.data.torchvision_datasets import EMNIST_SPLITS, MNIST_FAMILY, ColourSource, MNISTSource
from vae_exp.errors import UserError

ARCHIVES = [name for name, _ in datasets.MNIST.resources]
SIZES = {"train": 4, "t10k": 3}
TRAIN, TEST = 7, 3


@pytest.fixture(autouse=True)
def down(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """All servers are down until a test names others: no test can reach the internet."""
    monkeypatch.setenv("no_proxy", "*")
    with mirrors.down() as address:
        for dataset in MNIST_FAMILY.values():
            monkeypatch.setattr(dataset, "mirrors", [address])
        monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
        monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
        yield address


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """The array in the format of MNIST's files: bytes after the sizes of the axes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def upright(part: str) -> np.ndarray:
    """Seeded pictures of a part, none of them its own transpose."""
    seed = ("train", "t10k").index(part)
    return np.random.default_rng(seed).integers(0, 256, (SIZES[part], 28, 28), dtype=np.uint8)


def labels(part: str) -> np.ndarray:
    return np.arange(SIZES[part], dtype=np.uint8) + 5


def contents() -> dict[str, bytes]:
    """The four files of a tiny dataset by name."""
    return {
        f"{part}-{kind}": idx(make(part))
        for part in SIZES
        for kind, make in (("images-idx3-ubyte", upright), ("labels-idx1-ubyte", labels))
    }


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the archives of a tiny MNIST, whose checksums torchvision takes for the official ones."""
    folder = tmp_path / "official"
    folder.mkdir()
    resources = []
    for name, content in contents().items():
        archive = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(archive)
        resources.append((f"{name}.gz", md5(archive)))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def raw(root: Path) -> Path:
    return root / "MNIST" / "raw"


def refusal(open_images) -> str:
    with pytest.raises(UserError) as refused:
        open_images()
    return str(refused.value)


def assert_names_both_ways_out(message: str, folder: Path, files: list[str]) -> None:
    assert "data=digits" in message
    assert f"put {', '.join(files)} into {folder}" in message
    assert "data.root=DIR" in message
    assert "VAE_EXP_DATA" in message


def assert_is_tiny(source: MNISTSource) -> None:
    for images, part in ((source.train(), "train"), (source.test(), "t10k")):
        np.testing.assert_array_equal(images.pixels[:, 0].numpy(), upright(part))
        np.testing.assert_array_equal(images.labels.numpy(), labels(part))


# --- the real images


def assert_is_mnist(source: MNISTSource) -> None:
    """Sizes, first labels and mean grey values as published (0.1307 for the training images)."""
    for images, count, first, mean in (
        (source.train(), 60_000, [5, 0, 4, 1, 9], 33.318421),
        (source.test(), 10_000, [7, 2, 1, 0, 4], 33.791224),
    ):
        assert images.pixels.dtype == torch.uint8
        assert len(images) == count
        assert images.image_shape == [1, 28, 28]
        assert images.pixel_max == 255
        assert images.labels.dtype == torch.int64
        assert images.labels[:5].tolist() == first
        assert images.labels.bincount().shape == (10,)
        assert images.pixels.numpy().mean(dtype=np.float64) == pytest.approx(mean, abs=1e-5)


def _no_connection(_socket, address) -> None:
    raise AssertionError(f"connects to {address}")


def test_real_mnist_is_unpacked_from_its_archives_without_any_network(mnist_root, raw, root, monkeypatch):
    raw.mkdir(parents=True)
    for name in ARCHIVES:
        shutil.copyfile(mnist_root / "MNIST" / "raw" / name, raw / name)
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    assert_is_mnist(MNISTSource("MNIST", str(root)))


def test_a_dataset_is_downloaded_once_from_the_mirror_that_has_it(tiny, root, monkeypatch, down):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [down, mirror.address])
        assert_is_tiny(MNISTSource("MNIST", str(root)))
        requests = len(mirror.requests)
        assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert mirror.downloads() == set(ARCHIVES)
    assert len(mirror.requests) == requests


def test_sources_that_open_together_download_once(tiny, root, monkeypatch):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        threads = [threading.Thread(target=MNISTSource("MNIST", str(root)).train) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(mirror.requests) <= 2 * len(ARCHIVES)  # torchvision asks for each file's redirects first


def test_a_download_that_stalls_or_serves_something_else_is_named_with_both_ways_out(tiny, raw, root, monkeypatch):
    monkeypatch.setattr(torchvision_datasets, "STALL_SECONDS", 0.2)
    (tiny / ARCHIVES[0]).write_bytes(b"a page that says sorry")
    for server in (mirrors.stalling(), mirrors.serving(tiny)):
        with server as mirror:
            monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
            assert_names_both_ways_out(refusal(MNISTSource("MNIST", str(root)).train), raw, ARCHIVES)
    assert socket.getdefaulttimeout() is None


def test_servers_that_are_down_are_named_and_putting_the_files_into_the_folder_helps(tiny, raw, root):
    message = refusal(MNISTSource("MNIST", str(root)).train)
    assert_names_both_ways_out(message, raw, ARCHIVES)
    assert "Error downloading train-images-idx3-ubyte.gz" in message
    shutil.copytree(tiny, raw, dirs_exist_ok=True)
    assert_is_tiny(MNISTSource("MNIST", str(root)))


def test_where_no_download_is_allowed_archives_are_unpacked_all_the_same(tiny, raw, root, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    source = MNISTSource("MNIST", str(root))
    source.may_download = False
    assert "downloads nothing unless you set data.root" in refusal(source.train)
    assert not root.exists()
    shutil.copytree(tiny, raw)
    assert_is_tiny(source)
    assert caplog.messages == [f"Unpacking MNIST into {raw} …"]
    for path in raw.glob("*-ubyte"):
        path.unlink()
    (raw / ARCHIVES[0]).write_bytes(b"damaged")
    assert f"put {ARCHIVES[0]} into" in refusal(source.train)


@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda _: b"<html>sorry</html>"])
def test_an_unpacked_file_that_is_damaged_is_refused_and_deleting_it_helps(tiny, raw, root, damage):
    shutil.copytree(tiny, raw)
    assert_is_tiny(MNISTSource("MNIST", str(root)))
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(damage(images.read_bytes()))
    assert "cannot be read" in refusal(MNISTSource("MNIST", str(root)).train)
    for path in raw.glob("*-ubyte"):
        path.unlink()
    assert_is_tiny(MNISTSource("MNIST", str(root)))


def test_another_number_of_labels_than_of_images_is_refused(raw, root):
    raw.mkdir(parents=True)
    for name, content in contents().items():
        (raw / name).write_bytes(content)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(3)))
    assert "4 images and 3 labels" in refusal(MNISTSource("MNIST", str(root)).train)


def emnist_contents(split: str) -> dict[str, bytes]:
    """EMNIST's files hold each picture transposed."""
    return {
        f"emnist-{split}-{name}": content
        for ours, part in (("train", "train"), ("test", "t10k"))
        for name, content in (
            (f"{ours}-images-idx3-ubyte", idx(upright(part).transpose(0, 2, 1))),
            (f"{ours}-labels-idx1-ubyte", idx(labels(part))),
        )
    }


@pytest.mark.parametrize("split", EMNIST_SPLITS)
def test_emnist_s_images_are_turned_upright_and_are_row_by_row(root, split):
    folder = root / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in emnist_contents(split).items():
        (folder / name).write_bytes(content)
    source = MNISTSource("EMNIST", str(root), split)
    assert_is_tiny(source)
    assert source.train().pixels.is_contiguous()


@pytest.fixture
def emnist_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with EMNIST's one archive, tiny and of two subsets."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for split in ("balanced", "letters"):
            for name, content in emnist_contents(split).items():
                archive.writestr(f"gzip/{name}.gz", gzip.compress(content, mtime=0))
    folder = tmp_path / "official"
    folder.mkdir()
    (folder / "gzip.zip").write_bytes(buffer.getvalue())
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(buffer.getvalue()))
    return folder


def test_emnist_is_downloaded_once_for_all_subsets_that_it_has(emnist_archive, root, monkeypatch):
    with mirrors.serving(emnist_archive) as mirror:
        monkeypatch.setattr(datasets.EMNIST, "url", mirror.address + "gzip.zip")
        for split in ("balanced", "letters"):
            assert_is_tiny(MNISTSource("EMNIST", str(root), split))
        assert str(root / "EMNIST" / "raw") in refusal(MNISTSource("EMNIST", str(root), "digits").train)
    assert mirror.downloads() == {"gzip.zip"}


@pytest.mark.parametrize(
    ("make", "arguments", "reason"),
    [
        (MNISTSource, ("QMNIST", "data"), "one of MNIST, FashionMNIST, KMNIST, EMNIST"),
        (MNISTSource, ("EMNIST", "data", "Balanced"), "must be one of byclass"),
        (MNISTSource, ("EMNIST", "data"), "must be one of byclass"),
        (MNISTSource, ("KMNIST", "data", "letters"), "must be null"),
        (ColourSource, ("CIFAR100", "data"), "one of CIFAR10, SVHN"),
    ],
)
def test_unknown_data_sets_and_splits_are_refused(make, arguments, reason):
    assert reason in refusal(lambda: make(*arguments))


def colour_pixels(count: int) -> np.ndarray:
    """`[N, 3, 32, 32]`."""
    return np.random.default_rng(count).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def colour_labels(count: int) -> list[int]:
    return [index % 10 for index in range(count)]


@pytest.fixture
def official_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the servers would hold."""
    folder = tmp_path / "official"
    folder.mkdir()
    _write_cifar(folder, monkeypatch)
    _write_svhn(folder, monkeypatch)
    return folder


def _write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "data_batch_1": {"data": colour_pixels(TRAIN).reshape(TRAIN, -1), "labels": colour_labels(TRAIN)},
        "test_batch": {"data": colour_pixels(TEST).reshape(TEST, -1), "labels": colour_labels(TEST)},
        "batches.meta": {"label_names": [str(index) for index in range(10)]},
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
        result = np.array([label or 10 for label in colour_labels(count)])  # its zeros are tens
        scipy.io.savemat(folder / name, {"X": colour_pixels(count).transpose(2, 3, 1, 0), "y": result[:, None]})
        listed[split] = [name, name, md5((folder / name).read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


def _at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}cifar-10-python.tar.gz")
    listed = {split: [address + name, name, sum_] for split, (_, name, sum_) in datasets.SVHN.split_list.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


@pytest.mark.parametrize(("dataset", "name"), [("CIFAR10", "cifar-10-python.tar.gz"), ("SVHN", "train_32x32.mat")])
def test_colour_archives_are_put_there_by_hand_or_downloaded_once(
    official_colour, root, dataset: str, name: str, down, monkeypatch: pytest.MonkeyPatch
):
    _at(down, monkeypatch)
    source = ColourSource(dataset, str(root))
    with pytest.raises(UserError, match=rf"cannot be downloaded.*put {name} into .*data=digits"):
        source.train()
    shutil.copyfile(official_colour / name, root / dataset / name)
    assert len(source.train()) == TRAIN
    shutil.rmtree(root)
    requests = []
    with mirrors.serving(official_colour) as mirror:
        _at(mirror.address, monkeypatch)
        for _ in range(2):
            for images, count in ((source.train(), TRAIN), (source.test(), TEST)):
                np.testing.assert_array_equal(images.pixels.numpy(), colour_pixels(count))
                assert images.labels.tolist() == colour_labels(count)
                assert images.pixels.dtype == torch.uint8
            requests.append(len(mirror.requests))
    assert requests[0] == requests[1]
