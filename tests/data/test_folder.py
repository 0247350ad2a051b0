import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae_exp.data import decoding_pool, folder
from vae_exp.data.folder import FolderSource
from vae_exp.data.images import ImageSet
from vae_exp.data.pixel_file import FilePixels
from vae_exp.data.splits import DataSplits
from vae_exp.errors import UserError

SIZE = 6


def picture(number: int, height: int = SIZE, width: int = SIZE, grey: bool = False) -> np.ndarray:
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write(root: Path, name: str, pixels: np.ndarray) -> np.ndarray:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def source(root: Path, tmp_path: Path):
    """The source of the folder: `source(size=…)`."""

    def make(**options) -> FolderSource:
        return FolderSource(str(root), str(tmp_path / "data"), **options)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "data" / "cache"


def stack(images: ImageSet) -> np.ndarray:
    return images.pixels[:].numpy()


def refusal(open_images) -> str:
    with pytest.raises(UserError) as refused:
        open_images()
    return str(refused.value)


def test_images_come_in_the_order_of_their_paths_with_the_labels_of_their_folders(root, source):
    names = ["dog/1.png", "ant/deep/er/2.png", "cat/3.tif", "cat/4.png"]
    pixels = {name: write(root, name, picture(number)) for number, name in enumerate(names)}
    images = source().train()
    assert isinstance(images.pixels, FilePixels)
    assert images.pixel_max == 255
    assert np.array_equal(stack(images), np.stack([pixels[name] for name in sorted(names)]))
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.classes == ("ant", "cat", "dog")
    assert (source(labels="none").train().labels, source(labels="none").train().classes) == (None, None)
    assert source().val() is None


def test_a_flat_folder_has_no_labels_and_grey_files_one_channel(root, source):
    grey = [write(root, f"{number}.png", picture(number, grey=True)) for number in range(3)]
    images = source().train()
    assert np.array_equal(stack(images), np.stack(grey))
    assert images.labels is None
    assert source(channels=3).train().image_shape == [3, SIZE, SIZE]
    write(root, "3.png", picture(3))
    assert source().train().image_shape == [3, SIZE, SIZE]
    assert source(channels=1).train().image_shape == [1, SIZE, SIZE]


def test_folders_named_after_splits_are_the_splits(root, source):
    for number, name in enumerate(["train/b/1.png", "train/a/2.png", "validation/b/3.png", "test/b/4.png"]):
        write(root, name, picture(number))
    write(root, "other/5.png", picture(5))
    splits = DataSplits(source(), None, 0, 0)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [2, 1, 1]
    assert [part.labels.tolist() for part in (splits.train, splits.val, splits.test)] == [[0, 1], [1], [1]]
    with pytest.raises(
        UserError, match=r"data\.validation_size=1 must be 0 here: the data have 1 validation images"
    ):
        _ = DataSplits(source(), None, 1, 0).train


def test_folders_of_splits_in_capitals_are_the_splits(root, source):
    for number, name in enumerate(["Train/a/1.png", "TEST/a/2.png"]):
        write(root, name, picture(number))
    assert source().train().names == ("Train/a/1.png",)
    assert source().test().names == ("TEST/a/2.png",)
    (root / "Train").rename(root / "a")
    assert source().train().names == ("a/a/1.png",)
    (root / "valid").mkdir()
    write(root, "val/a/3.png", picture(3))
    message = r"has several folders of val images, val, valid; put all into one of them, or move the others"
    assert re.search(message, refusal(source().train))


def test_without_a_folder_train_all_but_val_and_test_is_trained_on(root, source):
    for number, name in enumerate(["a/1.png", "b/2.png", "b/3.png", "test/b/4.png"]):
        write(root, name, picture(number))
    splits = DataSplits(source(), None, 1, 0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2, 1, 1)
    assert splits.test.labels.tolist() == [1]
    assert isinstance(splits.train.pixels, FilePixels)
    everything = np.concatenate([stack(splits.train), stack(splits.val)])
    assert {image.tobytes() for image in everything} == {image.tobytes() for image in stack(source().train())}


def test_sizes(root, source):
    write(root, "1.png", picture(1, 8, 20))
    write(root, "2.png", picture(2, 10, 10))
    assert source(size=4).train().image_shape == [3, 4, 4]
    assert source(size=[8, 10]).train().image_shape == [3, 8, 10]
    middle = stack(source(size=8).train())[0]
    assert np.array_equal(middle, picture(1, 8, 20)[:, 6:14].transpose(2, 0, 1))
    assert not np.array_equal(stack(source(size=8, fit="resize").train())[0], middle)
    assert re.search(
        r"images of 2 sizes \(height × width: 1 of 8×20, 1 of 10×10\); .* data\.size=64 or data\.size=\[8,20\]",
        refusal(source().train),
    )


def test_the_cache_is_used_until_a_file_changes(root, source, cache, monkeypatch):
    decoded = []
    original = folder.decode_images
    monkeypatch.setattr(
        folder,
        "decode_images",
        lambda path, files, *rest: decoded.append(len(files)) or original(path, files, *rest),
    )
    for number in range(3):
        write(root, f"{number}.png", picture(number))
    first = stack(source().train())
    assert np.array_equal(stack(source().train()), first)
    assert decoded == [3]
    changed = write(root, "1.png", picture(9))
    assert np.array_equal(stack(source().train())[1], changed)
    write(root, "3.png", picture(3))
    assert len(source().train()) == 4
    source(size=3).train()
    (root / "3.png").rename(root / "4.png")
    source().train()
    assert decoded == [3, 3, 4, 4, 4]
    assert len(list(cache.glob("photos-train-*.npy"))) == 5


@pytest.mark.slow
def test_a_pool_of_processes_gives_what_one_process_does(root, source, monkeypatch, tmp_path):
    pixels = np.stack([write(root, f"{number:03}.png", picture(number)) for number in range(150)])
    monkeypatch.setattr(decoding_pool, "_POOL_FROM", 100)
    assert np.array_equal(stack(source().train()), pixels)


def test_corrupt_images_are_named_and_left_out_only_when_asked(root, source, cache, caplog):
    pixels = [write(root, f"a/{number}.png", picture(number)) for number in range(4)]
    whole = (root / "a/1.png").read_bytes()
    (root / "a/1.png").write_bytes(whole[:-30])  # its head can be read
    message = refusal(source().train)
    assert re.search(r"data\.path=.*: 1 of 4 images cannot be read: a/1\.png \(.+\); repair or remove", message)
    assert "data.skip_corrupt=true" in message
    for _ in range(2):  # from the files, then from the cache
        images = source(skip_corrupt=True).train()
        assert np.array_equal(stack(images), np.stack([pixels[0], pixels[2], pixels[3]]))
        assert images.labels.tolist() == [0, 0, 0]
        assert "a/1.png" in caplog.text
        caplog.clear()
    assert "1 of 4 images cannot be read" in refusal(source().train)
    (root / "a/3.png").write_bytes(b"nothing")
    assert "2 of 4 images cannot be read" in refusal(source(size=4, channels=3).train)
    assert "1 of 4 images cannot be read: a/3.png" in refusal(source().train)  # before anything is decoded


def test_an_image_that_is_left_out_does_not_decide_on_colour(root, source):
    write(root, "1.png", picture(1, grey=True))
    write(root, "2.tif", np.zeros((SIZE, SIZE), dtype=np.float32))
    assert "2.tif (its values have 32 bits and no known range" in refusal(source().train)
    assert source(skip_corrupt=True).train().image_shape == [1, SIZE, SIZE]


def test_pipes_and_links_to_nothing_are_named_as_images_that_cannot_be_read(root, source):
    write(root, "1.png", picture(1))
    os.mkfifo(root / "pipe.png")
    (root / "nothing.png").symlink_to(root / "none")
    for options in ({}, {"size": 4, "channels": 1}):
        message = (
            r"2 of 3 images cannot be read: nothing\.png \(No such file .*\), pipe\.png \(.*not a regular file\)"
        )
        assert re.search(message, refusal(source(**options).train))
    assert source(skip_corrupt=True).train().names == ("1.png",)


@pytest.mark.parametrize("notes", ["{}", "[]", '{"problems": {"a": 1}}'])
def test_damaged_notes_of_a_cache_are_refused(notes, root, source, cache):
    write(root, "1.png", picture(1))
    source().train()
    next(cache.glob("*.json")).write_text(notes)
    assert re.search(r"the cache .*\.npy cannot be read \(.*\); delete it", refusal(source().train))


def test_a_folder_of_corrupt_images_alone_is_refused(root, source):
    (root / "1.png").write_bytes(b"nothing")
    for options in ({}, {"size": 4, "channels": 1}):
        assert "none is left" in refusal(source(skip_corrupt=True, **options).train)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], {}, r"data\.path=.*photos holds no images; expected files that end in \.png, .*, at any depth"),
        (["notes.txt"], {}, "holds no images"),
        (["a/1.png", "2.png"], {}, r"2\.png lies in no class folder, so it has no label; .*data\.labels=none"),
        (["a/1.png"], {"labels": "missing.csv"}, r"data\.labels=missing\.csv cannot be read"),
        (["a/1.png"], {"size": 0}, r"data\.size=0 must be a number of pixels of at least 1, or \[height,width\]"),
        (["a/1.png"], {"size": [4, 4, 3]}, r"data\.size=\[4, 4, 3\] must be"),
        (["a/1.png"], {"size": "large"}, r"data\.size=large must be"),
        (["a/1.png"], {"labels": None}, r"data\.labels=null must be auto, none or a CSV file"),
        (["a/1.png"], {"fit": "pad"}, r"data\.fit=pad must be one of crop, resize"),
        (["a/1.png"], {"channels": 4}, r"data\.channels=4 must be one of 1, 3, or null"),
    ],
)
def test_what_cannot_be_used_is_refused_and_leaves_no_cache(files, options, message, root, source, cache):
    for number, name in enumerate(files):
        write(root, name, picture(number)) if name.endswith(".png") else (root / name).touch()
    assert re.search(message, refusal(lambda: source(**options).train()))
    assert not list(cache.glob("*.npy"))


def test_other_refusals(root, source, tmp_path):
    assert "data.path is missing" in refusal(lambda: FolderSource(None, str(tmp_path)))
    assert "is not a folder" in refusal(FolderSource(str(root / "none"), str(tmp_path)).train)
    write(root, "train/a/1.png", picture(0))
    assert "has no folder 'test'" in refusal(source().test)
    write(root, "test/b/1.png", picture(0))
    assert re.search(r"lies in the folder 'b', which no training image is in", refusal(source().test))


def test_labels_of_a_csv_file(root, source, tmp_path):
    for number, name in enumerate(["train/1.png", "train/2.png", "test/3.png"]):
        write(root, name, picture(number))
    (tmp_path / "labels.csv").write_text("train/2.png,5\ntrain/1.png,6\n")
    splits = source(labels=str(tmp_path / "labels.csv"))
    assert splits.train().labels.tolist() == [6, 5]
    assert splits.test().labels is None
    (tmp_path / "labels.csv").write_text("test/3.png,5\n")
    assert "has no row for 2 files, such as train/1.png" in refusal(
        source(labels=str(tmp_path / "labels.csv")).train
    )


def test_streamed_batches_are_those_of_the_array(root, source):
    pixels = np.stack([write(root, f"{number}.png", picture(number)) for number in range(7)])
    images = source().train()
    expected = ImageSet(torch.from_numpy(pixels))
    for ours, theirs in zip(images.batches(3), expected.batches(3), strict=True):
        assert torch.equal(ours.images, theirs.images)
