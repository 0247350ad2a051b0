import gzip
import hashlib
import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torchvision import datasets

from tests.data import mirrors
from tests.data.unclosed import unclosed_files
from vae_exp.data import download
from vae_exp.data.download import those_that_answer
from vae_exp.data.torchvision_datasets import DATASETS, EMNIST_SPLITS, MNISTSource
from vae_exp.errors import UserError

ARCHIVES = [name for name, _ in datasets.MNIST.resources]
FILES = [name.removesuffix(".gz") for name in ARCHIVES]
PATIENCE = 10.0
SIZES = {"train": 4, "t10k": 3}


@pytest.fixture(autouse=True)
def down(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """All mirrors are down until a test names others: no test can reach the internet."""
    monkeypatch.setenv("no_proxy", "*")
    with mirrors.down() as address:
        for dataset in DATASETS.values():
            monkeypatch.setattr(dataset, "mirrors", [address])
        monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
        yield address


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


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in contents().items():
        (folder / name).write_bytes(content)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the archives of a tiny MNIST, whose checksums torchvision takes for the official ones."""
    folder = tmp_path / "official"
    folder.mkdir()
    resources = []
    for name, content in contents().items():
        archive = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(archive)
        resources.append((f"{name}.gz", hashlib.md5(archive).hexdigest()))
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


def timed_refusal(open_images) -> tuple[str, float]:
    start = time.monotonic()
    message = refusal(open_images)
    return message, time.monotonic() - start


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


def test_real_mnist_is_unpacked_from_its_archives_without_any_network(mnist_root, raw, root, monkeypatch):
    raw.mkdir(parents=True)
    for name in ARCHIVES:
        shutil.copyfile(mnist_root / "MNIST" / "raw" / name, raw / name)
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    assert_is_mnist(MNISTSource("MNIST", str(root)))


def _no_connection(_socket, address) -> None:
    raise AssertionError(f"connects to {address}")


def test_real_mnist_is_downloaded_from_a_mirror(mnist_root, raw, root, monkeypatch):
    with mirrors.serving(mnist_root / "MNIST" / "raw") as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        assert_is_mnist(MNISTSource("MNIST", str(root)))
    assert mirror.downloads() == set(ARCHIVES)
    assert {file.name for file in raw.iterdir()} == {".lock", *ARCHIVES, *FILES}


# --- a tiny dataset: where its files come from


def test_a_dataset_is_downloaded_from_a_mirror(tiny, root, monkeypatch):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert mirror.downloads() == set(ARCHIVES)


def test_what_has_been_downloaded_is_not_downloaded_again(tiny, root, monkeypatch):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        MNISTSource("MNIST", str(root)).train()
        before = len(mirror.requests)
        assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert before > 0
    assert len(mirror.requests) == before


def test_archives_that_are_there_are_not_downloaded(tiny, raw, root, monkeypatch):
    shutil.copytree(tiny, raw)
    (raw / ARCHIVES[3]).unlink()
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert mirror.downloads() == {ARCHIVES[3]}


def test_the_download_is_silent(tiny, root, monkeypatch, capfd):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        MNISTSource("MNIST", str(root)).train()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("first", ["down", "404"])
def test_where_the_first_mirror_fails_the_second_serves(tiny, root, monkeypatch, down, first):
    with mirrors.serving(tiny) as second, mirrors.serving(tiny, status=404) as without:
        monkeypatch.setattr(
            datasets.MNIST, "mirrors", [down if first == "down" else without.address, second.address]
        )
        with unclosed_files():  # torchvision closes no answer that says 404
            assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert second.downloads() == set(ARCHIVES)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that stalls is given up after half a second."""
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)


def test_a_silent_mirror_is_not_waited_for_though_another_answers(tiny, root, monkeypatch, hasty):
    def open_images() -> None:
        with suppress(UserError):
            MNISTSource("MNIST", str(root)).train()

    with ExitStack() as stack:
        second = stack.enter_context(mirrors.serving(tiny))
        waiting = threading.Thread(target=open_images)
        stack.callback(waiting.join)
        first = stack.enter_context(mirrors.silent())  # closed before the thread is joined, which frees it
        monkeypatch.setattr(datasets.MNIST, "mirrors", [first, second.address])
        waiting.start()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_a_download_that_stalls_is_given_up_with_both_ways_out(tiny, raw, root, monkeypatch, hasty):
    with mirrors.stalling() as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        message, seconds = timed_refusal(MNISTSource("MNIST", str(root)).train)
    assert seconds < PATIENCE
    assert_names_both_ways_out(message, raw, ARCHIVES)


def test_other_sockets_keep_their_patience(tiny, root, monkeypatch):
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        MNISTSource("MNIST", str(root)).train()
    assert socket.getdefaulttimeout() is None


def test_a_silent_first_mirror_does_not_hide_the_second(tiny, root, monkeypatch):
    with mirrors.serving(tiny) as second, mirrors.silent() as first:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [first, second.address])
        assert_is_tiny(MNISTSource("MNIST", str(root)))
    assert second.downloads() == set(ARCHIVES)


def test_jobs_that_start_together_download_once(tiny, root, monkeypatch):
    opened: list[int] = []

    def open_images() -> None:
        opened.append(len(MNISTSource("MNIST", str(root)).train()))

    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        jobs = [threading.Thread(target=open_images) for _ in range(4)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join(PATIENCE)
    assert len(opened) == 4
    assert len(set(opened)) == 1


def test_archives_are_unpacked_without_any_network(tiny, raw, root):
    shutil.copytree(tiny, raw)
    assert_is_tiny(MNISTSource("MNIST", str(root)))


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST"])
def test_unpacked_files_are_enough(root, dataset):
    write_files(root / dataset / "raw")
    assert_is_tiny(MNISTSource(dataset, str(root)))


def test_the_root_may_be_in_the_home_folder(tmp_path, monkeypatch):
    write_files(tmp_path / "mine" / "MNIST" / "raw")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_is_tiny(MNISTSource("MNIST", "~/mine"))


def test_the_root_is_that_of_when_the_source_was_made(tmp_path, monkeypatch):
    write_files(tmp_path / "mine" / "MNIST" / "raw")
    monkeypatch.chdir(tmp_path)
    source = MNISTSource("MNIST", "mine")
    monkeypatch.chdir("/")
    assert_is_tiny(source)


# --- no network, no files


def test_mirrors_that_are_down_are_named_with_both_ways_out(raw, root):
    message, seconds = timed_refusal(MNISTSource("MNIST", str(root)).train)
    assert seconds < PATIENCE
    assert "cannot be downloaded (no mirror answers)" in message
    assert_names_both_ways_out(message, raw, ARCHIVES)


def test_a_silent_mirror_is_given_up_with_both_ways_out(raw, root, monkeypatch):
    with mirrors.silent() as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        message, seconds = timed_refusal(MNISTSource("MNIST", str(root)).train)
    assert seconds < PATIENCE
    assert_names_both_ways_out(message, raw, ARCHIVES)


def test_a_mirror_without_the_files_is_named_with_both_ways_out(tiny, raw, root, monkeypatch):
    with mirrors.serving(tiny, status=404) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        with unclosed_files():  # torchvision closes no answer that says 404
            message = refusal(MNISTSource("MNIST", str(root)).train)
    assert "404" in message
    assert_names_both_ways_out(message, raw, ARCHIVES)


def test_a_mirror_that_serves_something_else_is_named_with_both_ways_out(tiny, raw, root, monkeypatch):
    for archive in tiny.iterdir():
        archive.write_text("<html>Please log in</html>")
    with mirrors.serving(tiny) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        message = refusal(MNISTSource("MNIST", str(root)).train)
    assert_names_both_ways_out(message, raw, ARCHIVES)


def test_only_the_archives_that_lack_are_asked_for(tiny, raw, root):
    shutil.copytree(tiny, raw)
    for lacking in ARCHIVES[1:3]:
        (raw / lacking).unlink()
    assert_names_both_ways_out(refusal(MNISTSource("MNIST", str(root)).train), raw, ARCHIVES[1:3])


def test_putting_the_named_files_into_the_named_folder_helps(tiny, raw, root):
    source = MNISTSource("MNIST", str(root))
    assert_names_both_ways_out(refusal(source.train), raw, ARCHIVES)
    shutil.copytree(tiny, raw)
    assert_is_tiny(source)


@pytest.mark.parametrize(
    ("dataset", "split", "files"),
    [("FashionMNIST", None, ARCHIVES), ("KMNIST", None, ARCHIVES), ("EMNIST", "letters", ["gzip.zip"])],
)
def test_each_dataset_asks_for_its_own_files(root, dataset, split, files):
    message = refusal(MNISTSource(dataset, str(root), split).test)
    assert message.startswith(f"{dataset} is not in data.root={root}")
    assert_names_both_ways_out(message, root / dataset / "raw", files)


# --- damaged files


def test_an_archive_with_a_wrong_checksum_is_refused_before_any_network_use(raw, root, tmp_path, monkeypatch):
    raw.mkdir(parents=True)
    damaged = raw / ARCHIVES[2]
    damaged.write_bytes(b"half a download")
    with mirrors.serving(tmp_path) as mirror:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        message = refusal(MNISTSource("MNIST", str(root)).train)
    assert mirror.requests == []
    assert f"{damaged} is damaged" in message
    assert hashlib.md5(b"half a download").hexdigest() in message
    assert "9fb629c4189551a2d022fa330f9573f3" in message


def test_a_damaged_archive_is_left_for_the_user_to_delete(raw, root):
    raw.mkdir(parents=True)
    damaged = raw / ARCHIVES[0]
    damaged.write_bytes(b"half a download")
    assert "delete it to download it again" in refusal(MNISTSource("MNIST", str(root)).train)
    assert damaged.read_bytes() == b"half a download"


def test_an_archive_that_cannot_be_read_is_refused(raw, root):
    (raw / ARCHIVES[0]).mkdir(parents=True)
    assert str(raw / ARCHIVES[0]) in refusal(MNISTSource("MNIST", str(root)).train)


TRUNCATED = {"empty": 0, "within the sizes": 10, "no pixel": 16, "within the pixels": 1000}


@pytest.mark.parametrize("length", TRUNCATED.values(), ids=TRUNCATED)
def test_a_truncated_unpacked_file_is_refused(raw, root, length):
    write_files(raw)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:length])
    message = refusal(MNISTSource("MNIST", str(root)).train)
    assert f"the unpacked files in {raw} cannot be read" in message
    assert "delete the files without '.gz' there" in message


def test_a_truncated_file_of_labels_is_refused(raw, root):
    write_files(raw)
    file = raw / "t10k-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"the unpacked files in {raw} cannot be read" in refusal(MNISTSource("MNIST", str(root)).test)


def test_an_unpacked_file_of_something_else_is_refused(raw, root):
    write_files(raw)
    (raw / "train-images-idx3-ubyte").write_text("<html>Please log in</html>")
    assert f"the unpacked files in {raw} cannot be read" in refusal(MNISTSource("MNIST", str(root)).train)


def test_another_number_of_labels_than_of_images_is_refused(raw, root):
    write_files(raw)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(labels("t10k")))
    assert str(raw) in refusal(MNISTSource("MNIST", str(root)).train)


def test_deleting_the_unpacked_files_helps_as_the_message_says(tiny, raw, root):
    shutil.copytree(tiny, raw)
    source = MNISTSource("MNIST", str(root))
    source.train()
    (raw / FILES[0]).write_bytes(b"")
    assert "delete the files without '.gz'" in refusal(source.train)
    for name in FILES:
        (raw / name).unlink()
    assert_is_tiny(source)


# --- EMNIST


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
def test_emnist_s_images_are_turned_upright(root, split):
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in emnist_contents(split).items():
        (raw / name).write_bytes(content)
    assert_is_tiny(MNISTSource("EMNIST", str(root), split))


def test_emnist_s_images_lie_in_memory_row_by_row(root):
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in emnist_contents("digits").items():
        (raw / name).write_bytes(content)
    assert MNISTSource("EMNIST", str(root), "digits").train().pixels.is_contiguous()


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
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(buffer.getvalue()).hexdigest())
    return folder


def test_emnist_is_downloaded_once_for_all_its_subsets(emnist_archive, root, monkeypatch):
    with mirrors.serving(emnist_archive) as mirror:
        monkeypatch.setattr(datasets.EMNIST, "url", mirror.address + "gzip.zip")
        assert_is_tiny(MNISTSource("EMNIST", str(root), "balanced"))
    assert mirror.downloads() == {"gzip.zip"}
    assert_is_tiny(MNISTSource("EMNIST", str(root), "letters"))


def test_emnist_is_unpacked_from_its_archive_without_any_network(emnist_archive, root):
    shutil.copytree(emnist_archive, root / "EMNIST" / "raw")
    assert_is_tiny(MNISTSource("EMNIST", str(root), "letters"))


def test_a_subset_that_the_archive_lacks_is_refused(emnist_archive, root):
    raw = root / "EMNIST" / "raw"
    shutil.copytree(emnist_archive, raw)
    assert str(raw) in refusal(MNISTSource("EMNIST", str(root), "digits").train)


def test_emnist_s_archive_with_a_wrong_checksum_is_refused(root):
    archive = root / "EMNIST" / "raw" / "gzip.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"")
    message = refusal(MNISTSource("EMNIST", str(root), "letters").train)
    assert f"{archive} is damaged" in message
    assert "d41d8cd98f00b204e9800998ecf8427e" in message
    assert "58c8d27c78d21e728a6bc7b3cc06412e" in message


# --- what is refused at once


@pytest.mark.parametrize("dataset", ["mnist", "QMNIST", "CIFAR10", ""])
def test_an_unknown_dataset_is_refused(dataset):
    with pytest.raises(UserError, match=rf"data\.source\.dataset={dataset} is not known; use one of MNIST, "):
        MNISTSource(dataset, "data")


@pytest.mark.parametrize("split", ["nope", "Balanced", None, ""])
def test_an_unknown_emnist_split_is_refused(split):
    with pytest.raises(UserError, match=rf"data\.source\.split={split} does not fit EMNIST; expected one of byc"):
        MNISTSource("EMNIST", "data", split)


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST"])
def test_a_split_of_emnist_is_refused_for_the_others(dataset):
    with pytest.raises(UserError, match=rf"data\.source\.split=balanced does not fit {dataset}; expected null"):
        MNISTSource(dataset, "data", "balanced")


@pytest.mark.parametrize("split", ["nope", "train", ""])
def test_any_other_split_is_refused_for_the_others_too(split):
    with pytest.raises(UserError, match=rf"data\.source\.split={split} does not fit MNIST; expected null"):
        MNISTSource("MNIST", "data", split)


def test_the_datasets_and_splits_are_torchvision_s():
    assert {name: dataset.__name__ for name, dataset in DATASETS.items()} == {name: name for name in DATASETS}
    assert datasets.EMNIST.splits == EMNIST_SPLITS


# --- does any mirror answer?


@pytest.fixture
def probes() -> Iterator[None]:
    """The threads that a test leaves behind end with it."""
    before = set(threading.enumerate())
    yield
    join_others(before)


def join_others(threads: set[threading.Thread]) -> None:
    """Wait for every probe that is not among these threads."""
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("status", [None, 403, 404, 405, 503])
def test_any_status_of_http_is_an_answer(tmp_path, probes, status):
    (tmp_path / "file").write_bytes(b"content")
    with mirrors.serving(tmp_path, status) as mirror:
        assert those_that_answer([mirror.address + "file"], 5.0)
    assert mirror.requests == ["HEAD /file"]


@pytest.mark.parametrize("status", [None, 404])
def test_an_answer_is_closed(tmp_path, status):
    (tmp_path / "file").write_bytes(b"content")
    with mirrors.serving(tmp_path, status) as mirror, unclosed_files() as said:
        before = set(threading.enumerate())
        assert those_that_answer([mirror.address + "file"], 5.0)
        join_others(before)
    assert [str(warning.message) for warning in said] == []


def test_nobody_is_no_answer():
    assert not those_that_answer([], 5.0)


def test_a_refused_connection_is_no_answer_and_is_known_at_once(down, probes):
    start = time.monotonic()
    assert not those_that_answer([down, down], 5.0)
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize("address", ["", "no address", "gopher://127.0.0.1/"])
def test_what_is_no_address_does_not_answer(probes, address):
    assert not those_that_answer([address], 5.0)


def test_silence_is_no_answer_once_the_time_is_over():
    before = set(threading.enumerate())
    with mirrors.silent() as one, mirrors.silent() as other:
        start = time.monotonic()
        assert not those_that_answer([one, other], 0.3)
        assert time.monotonic() - start < 1.5
        join_others(before)  # the probes give up by themselves


@pytest.mark.parametrize("position", [0, 1])
def test_one_answer_is_enough_and_the_silent_are_not_waited_for(tmp_path, probes, position):
    with mirrors.serving(tmp_path, status=404) as mirror, mirrors.silent() as silent:
        addresses = [silent]
        addresses.insert(position, mirror.address)
        start = time.monotonic()
        assert those_that_answer(addresses, 5.0)
        assert time.monotonic() - start < 2.0


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch, probes) -> Iterator[None]:
    """Looking up the host `after-2.invalid` fails after two seconds, or with the end of the test."""
    release = threading.Event()

    def fail(host: str, *_args, **_kwargs) -> None:
        release.wait(float(host.removeprefix("after-").removesuffix(".invalid")))
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    yield
    release.set()


def test_a_name_look_up_that_hangs_does_not_outlast_the_time(slow_names):
    before = set(threading.enumerate())
    start = time.monotonic()
    assert not those_that_answer(["http://after-9.invalid/"], 0.3)
    assert time.monotonic() - start < 1.5
    (left,) = set(threading.enumerate()) - before
    assert left.daemon  # so that it does not keep the process from ending


def test_the_time_is_that_of_all_mirrors_together(slow_names):
    start = time.monotonic()
    assert not those_that_answer([f"http://after-{0.4 * turn}.invalid/" for turn in range(1, 7)], 0.5)
    assert time.monotonic() - start < 1.5


def test_a_server_that_does_not_speak_http_ends_its_probe_in_order(monkeypatch):
    uncaught = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    with mirrors.babbling() as address:
        before = set(threading.enumerate())
        those_that_answer([address], 5.0)
        join_others(before)
    assert [hook.exc_type for hook in uncaught] == []
