import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from torchvision import datasets, transforms

from vae_exp.data.dataset import DatasetSource
from vae_exp.data.pixel_file import FilePixels
from vae_exp.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 5), dtype=np.uint8)


class Items(Dataset):
    """Items that a function makes of a number."""

    def __init__(self, make, count: int = 20) -> None:
        self.make, self.count, self.read = make, count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        self.read += 1
        return self.make(index)


def source(tmp_path: Path, make, **others) -> DatasetSource:
    return DatasetSource(str(tmp_path), Items(make), **others)


def refusal(open_images) -> str:
    with pytest.raises(UserError) as refused:
        open_images()
    return str(refused.value)


FORMS = {
    "PIL and label": lambda index: (Image.fromarray(PIXELS[index].transpose(1, 2, 0)), index % 3),
    "uint8 tensor": lambda index: torch.from_numpy(PIXELS[index]),
    "ToTensor": lambda index: (torch.from_numpy(PIXELS[index]) / 255, torch.tensor(index % 3)),
    "array": lambda index: (PIXELS[index].transpose(1, 2, 0), np.int64(index % 3), "more"),
    "mapping": lambda index: {"image": Image.fromarray(PIXELS[index].transpose(1, 2, 0)), "label": index % 3},
}


@pytest.mark.parametrize("form", FORMS)
def test_items_of_every_form(form: str, tmp_path: Path):
    images = source(tmp_path, FORMS[form]).train()
    assert isinstance(images.pixels, FilePixels)
    assert np.array_equal(images.pixels[:].numpy(), PIXELS)
    assert images.pixel_max == 255
    if form == "uint8 tensor":
        assert images.labels is None
    else:
        assert images.labels.tolist() == [index % 3 for index in range(20)]


def test_grey_images_bits_and_floats(tmp_path: Path):
    grey = source(tmp_path, lambda index: PIXELS[index, 0]).train()
    assert np.array_equal(grey.pixels[:].numpy(), PIXELS[:, :1])
    bits = source(tmp_path, lambda index: (PIXELS[index, 0] > 99, "a name")).train()
    assert np.array_equal(bits.pixels[:].numpy(), (PIXELS[:, :1] > 99) * 255)
    assert bits.labels is None
    floats = source(tmp_path, lambda index: torch.from_numpy(PIXELS[index]) / 300).train()
    assert floats.pixels.dtype == torch.float32
    assert torch.equal(floats.pixels[:], torch.from_numpy(PIXELS) / 300)


def test_a_dataset_is_read_once(tmp_path: Path):
    first, second = Items(FORMS["PIL and label"]), Items(FORMS["PIL and label"])
    DatasetSource(str(tmp_path), first).train()
    DatasetSource(str(tmp_path), second).train()
    assert first.read - second.read >= 20
    changed = Items(lambda index: (Image.fromarray(PIXELS[19 - index].transpose(1, 2, 0)), index % 3))
    assert np.array_equal(DatasetSource(str(tmp_path), changed).train().pixels[:].numpy(), PIXELS[::-1])


def test_splits(tmp_path: Path):
    parts = {"val_dataset": Items(FORMS["array"], 4), "test_dataset": Items(FORMS["array"], 3)}
    whole = source(tmp_path, FORMS["array"], **parts)
    assert [len(part) for part in (whole.train(), whole.val(), whole.test())] == [20, 4, 3]
    alone = source(tmp_path, FORMS["array"])
    assert alone.val() is None
    assert "data.source.test_dataset is missing" in refusal(alone.test)


def test_a_dataset_of_torchvision(tmp_path: Path):
    fake = datasets.FakeData(size=12, image_size=(3, 8, 8), num_classes=4, transform=transforms.ToTensor())
    images = DatasetSource(str(tmp_path), fake).train()
    assert torch.equal(images.batch().images, torch.stack([image for image, _ in fake]))
    assert images.labels.tolist() == [int(label) for _, label in fake]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda index: "text", r"data\.source\.dataset \(Items\) has a str in item 0, .*; expected a PIL image"),
        (lambda index: torch.zeros(2, 3, 4, 5), r"has a Tensor in item 0, of shape \[2, 3, 4, 5\]"),
        (
            lambda index: torch.randn(3, 4, 4).clamp(min=-1) - 1,
            r"holds in item 0 values from -.*leave out what norm",
        ),
        (lambda index: torch.rand(3, 4, 4), r"another image each time that item 0 is read; .*data\.augment="),
        (
            lambda index: torch.zeros(3, 4, 4 + (index == 7)),
            r"several shapes, \[3, 4, 4\] and, in item 7, \[3, 4, 5\]",
        ),
        (lambda index: torch.full((1, 2, 2), 0.3 if index == 4 else 0.0), r"grey levels at first .* in item 4"),
        (
            lambda index: (torch.from_numpy(PIXELS[index]), 2**63),
            r"as the label of item 0, holds 9223372036854775808; expected integers",
        ),
        (lambda index: {"picture": 1}, r"has a NoneType in item 0"),
        (
            lambda index: np.zeros((3, 8, 8), np.uint8),
            r"has a ndarray in item 0 that cannot be read: its shape \[3, 8, 8\] has the channels first; "
            r"return torch\.from_numpy\(image\)\.$",
        ),
        (
            lambda index: torch.zeros(8, 8, 1),
            r"has a Tensor in item 0 .*: its shape \[8, 8, 1\] has the channels last; return image\.permute",
        ),
    ],
)
def test_items_that_are_no_images_are_refused_and_leave_no_cache(make, message: str, tmp_path: Path):
    text = refusal(source(tmp_path, make).train)
    assert re.search(message, text)
    assert not list((tmp_path / "cache").glob("*.npy*"))


@pytest.mark.parametrize("error", [SystemExit(0), RuntimeError("no such file")], ids=repr)
def test_an_item_that_cannot_be_read_is_named(error: BaseException, tmp_path: Path):
    def fail(index: int):
        if index == 13:
            raise error
        return PIXELS[index, 0]

    message = refusal(source(tmp_path, fail).train)
    assert re.search(
        rf"data\.source\.dataset \(Items\) fails at item 13: {type(error).__name__}: {error} ", message
    )


@pytest.mark.parametrize("count", [-1, 2.5, 2**70])
def test_a_length_that_is_none_is_refused(count, tmp_path: Path):
    items = DatasetSource(str(tmp_path), Items(FORMS["array"], count))
    assert re.search(r"\(Items\) has no length: .*; __len__ must return", refusal(items.train))


def test_a_dataset_with_slots(tmp_path: Path):
    class Slots:
        __slots__ = ()

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int):
            return PIXELS[index, 0]

    assert np.array_equal(DatasetSource(str(tmp_path), Slots()).train().pixels[:].numpy(), PIXELS[:, :1])


def test_damaged_notes_of_a_cache_are_refused(tmp_path: Path):
    source(tmp_path, FORMS["array"]).train()
    for notes in ("{}", '{"labels": [1, 2]}'):
        next((tmp_path / "cache").glob("*.json")).write_text(notes)
        assert "cannot be read" in refusal(source(tmp_path, FORMS["array"]).train)


def test_datasets_that_cannot_be_read_by_position_are_refused(tmp_path: Path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1, 2, 2)

    assert "expected a map-style dataset" in refusal(lambda: DatasetSource(str(tmp_path), Stream()))
    assert "is empty" in refusal(DatasetSource(str(tmp_path), Items(FORMS["array"], 0)).train)
