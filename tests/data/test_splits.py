import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.errors import UserError


class NumberedSource:
    """Training images 0, 1, … and test images 100, 101, …, of one pixel; records what is opened."""

    def __init__(self, train_size: int = 20, test_size: int = 5, test_shape: tuple[int, int, int] = (1, 1, 1)):
        self.opened: list[str] = []
        self._train_size, self._test_size, self._test_shape = train_size, test_size, test_shape

    def train(self) -> ImageSet:
        self.opened.append("train")
        return self._images(torch.arange(self._train_size), (1, 1, 1))

    def test(self) -> ImageSet:
        self.opened.append("test")
        return self._images(torch.arange(100, 100 + self._test_size), self._test_shape)

    @staticmethod
    def _images(numbers: torch.Tensor, shape: tuple[int, int, int]) -> ImageSet:
        pixels = numbers.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, *shape).contiguous()
        return ImageSet(pixels, numbers, pixel_max=255)


def splits(source=None, image_shape=(1, 1, 1), validation_size=6, split_seed=0) -> DataSplits:
    return DataSplits(source or NumberedSource(), image_shape, validation_size, split_seed)


def numbers(images: ImageSet) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


@settings(max_examples=60)
@given(st.integers(1, 60), st.data())
def test_train_and_validation_are_disjoint_and_complete(size, data):
    validation_size = data.draw(st.integers(0, size - 1))
    seed = data.draw(st.integers(0, 2**31))
    parts = splits(NumberedSource(size), validation_size=validation_size, split_seed=seed)
    assert len(parts.val) == validation_size
    assert sorted(numbers(parts.train) + numbers(parts.val)) == list(range(size))


def test_the_seed_selects_the_validation_images():
    expected = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:6].tolist()
    assert numbers(splits(split_seed=0).val) == sorted(expected)
    assert numbers(splits(split_seed=3).val) == numbers(splits(split_seed=3).val)
    assert numbers(splits(split_seed=3).val) != numbers(splits(split_seed=4).val)


def test_the_global_seed_has_no_part_in_the_draw():
    drawn = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn.append(numbers(splits().val))
    assert drawn[0] == drawn[1]


def test_images_keep_their_order_and_their_labels():
    parts = splits()
    for part in (parts.train, parts.val):
        assert numbers(part) == sorted(numbers(part)) == part.labels.tolist()


def test_no_validation_leaves_all_images_to_training():
    parts = splits(validation_size=0)
    assert numbers(parts.train) == list(range(20))
    assert len(parts.val) == 0
    assert parts.val.image_shape == [1, 1, 1]


@pytest.mark.parametrize("validation_size", [20, 21, 5000])
def test_validation_that_leaves_nothing_to_train_on_is_refused(validation_size):
    with pytest.raises(UserError, match=rf"data\.validation_size={validation_size} .*20 training images"):
        _ = splits(validation_size=validation_size).train


def test_one_image_left_to_train_on_is_enough():
    assert len(splits(validation_size=19).train) == 1


def test_each_split_is_opened_on_access_and_once():
    source = NumberedSource()
    parts = splits(source)
    assert parts.image_shape == [1, 1, 1]
    assert source.opened == []
    for name in ("train", "val", "train"):
        parts.get_split(name)
    assert source.opened == ["train"]
    for _ in range(2):
        assert numbers(parts.get_split("test")) == [100, 101, 102, 103, 104]
    assert source.opened == ["train", "test"]


@pytest.mark.parametrize(("name", "opened"), [("val", ["train"]), ("test", ["test"])])
def test_a_split_opens_no_other_images(name, opened):
    source = NumberedSource()
    splits(source).get_split(name)
    assert source.opened == opened


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_split_gives_the_part_of_that_name(name):
    parts = splits()
    assert parts.get_split(name) is getattr(parts, name)


@pytest.mark.parametrize("name", ["nope", "Train", "image_shape", ""])
def test_an_unknown_split_is_refused(name):
    source = NumberedSource()
    with pytest.raises(UserError, match=rf"split={name} is not known; use one of train, val, test"):
        splits(source).get_split(name)
    assert source.opened == []


def test_an_empty_validation_split_is_refused():
    with pytest.raises(UserError, match=r"split=val is empty: data\.validation_size=0"):
        splits(validation_size=0).get_split("val")


def test_training_images_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"data\.image_shape=\[1, 28, 28\] .*training images.*\[1, 1, 1\]"):
        _ = splits(image_shape=[1, 28, 28]).train


def test_test_images_of_another_shape_are_refused():
    parts = splits(NumberedSource(test_shape=(3, 4, 4)))
    with pytest.raises(UserError, match=r"data\.image_shape=\[1, 1, 1\] .*test images.*\[3, 4, 4\]"):
        _ = parts.test


def test_without_a_configured_shape_the_training_images_have_it():
    source = NumberedSource()
    assert splits(source, image_shape=None).image_shape == [1, 1, 1]
    assert source.opened == ["train"]
