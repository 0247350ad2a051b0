"""The three splits of a source, and black-and-white images drawn from its grey ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits, NoTestImagesError
from vae_exp.errors import UserError

GREY = torch.tensor([0, 51, 127, 204, 255], dtype=torch.uint8)
NAMES = ("train", "val", "test")


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


class GreySource:
    """Images whose pixels run through `GREY`, the same ones in training and test."""

    def train(self) -> ImageSet:
        return ImageSet(GREY.repeat(4000, 1).reshape(-1, 1, 1, 5), None, pixel_max=255)

    test = train


class TrainingSource(NumberedSource):
    """A source without test images."""

    def test(self) -> ImageSet:
        raise NoTestImagesError("no folder 'test'")


def splits(source=None, image_shape=(1, 1, 1), validation_size=6, split_seed=0) -> DataSplits:
    return DataSplits(source or NumberedSource(), image_shape, validation_size, split_seed)


def drawn_splits(binarization: str, seed: int = 0) -> DataSplits:
    return DataSplits(GreySource(), [1, 1, 5], 1500, 0, binarization, seed)


def numbers(images: ImageSet) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


# Splits


@settings(max_examples=60)
@given(st.integers(1, 60), st.data())
def test_train_and_validation_are_disjoint_complete_and_in_order_with_their_labels(size, data):
    validation_size = data.draw(st.integers(0, size - 1))
    seed = data.draw(st.integers(0, 2**31))
    parts = splits(NumberedSource(size), validation_size=validation_size, split_seed=seed)
    assert len(parts.val) == validation_size
    assert sorted(numbers(parts.train) + numbers(parts.val)) == list(range(size))
    for part in (parts.train, parts.val):
        assert part.image_shape == [1, 1, 1]
        assert numbers(part) == sorted(numbers(part)) == part.labels.tolist()


def test_the_seed_selects_the_validation_images():
    expected = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:6].tolist()
    assert numbers(splits(split_seed=0).val) == sorted(expected)
    assert numbers(splits(split_seed=3).val) == numbers(splits(split_seed=3).val)
    assert numbers(splits(split_seed=3).val) != numbers(splits(split_seed=4).val)


@pytest.mark.parametrize("draw", [lambda: splits().val, lambda: drawn_splits("fixed").test])
def test_the_global_seed_has_no_part_in_the_draws(draw: Callable[[], ImageSet]):
    pixels = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels.append(draw().pixels)
    assert torch.equal(*pixels)


def test_each_split_is_opened_on_access_and_once():
    source = NumberedSource()
    parts = splits(source)
    assert parts.image_shape == [1, 1, 1]
    assert source.opened == []
    for name in ("train", "val", "train"):
        assert parts.get_split(name) is getattr(parts, name)
    assert source.opened == ["train"]
    for _ in range(2):
        assert numbers(parts.get_split("test")) == [100, 101, 102, 103, 104]
    assert source.opened == ["train", "test"]


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_split_opens_no_other_images(name):
    source = NumberedSource()
    splits(source).get_split(name)
    assert source.opened == ["train" if name == "val" else "test"]


@pytest.mark.parametrize("name", ["nope", "Train", "image_shape", ""])
def test_an_unknown_split_is_refused(name):
    source = NumberedSource()
    with pytest.raises(UserError, match=rf"split={name} is not known; use one of train, val, test"):
        splits(source).get_split(name)
    assert source.opened == []


@pytest.mark.parametrize(
    ("arguments", "name", "reason"),
    [
        ({"validation_size": 20}, "train", r"data\.validation_size=20 .*20 training images"),
        ({"validation_size": 5000}, "train", r"hold out fewer, and set trainer\.batch_size to at most"),
        ({"validation_size": 0}, "val", r"split=val is empty: data\.validation_size=0 .* use split=train, or"),
        ({"source": TrainingSource()}, "test", r"no folder 'test': use split=val, in Python run\.data\.val\.$"),
        (
            {"source": TrainingSource(), "validation_size": 0},
            "test",
            r"no folder 'test': use split=train, .*; training with data\.validation_size=N holds N images out",
        ),
        (
            {"image_shape": [1, 28, 28]},
            "train",
            r"data\.image_shape=\[1, 28, 28\] .*training images.*\[1, 1, 1\]",
        ),
        (
            {"source": NumberedSource(test_shape=(3, 4, 4))},
            "test",
            r"data\.image_shape=\[1, 1, 1\] .*test images.*\[3, 4, 4\]",
        ),
    ],
)
def test_a_split_that_is_empty_or_of_another_shape_is_refused(arguments: dict[str, Any], name: str, reason: str):
    with pytest.raises(UserError, match=reason):
        splits(**arguments).get_split(name)


def test_validation_images_of_another_shape_are_refused_where_none_is_configured():
    class WithOwnValidation(NumberedSource):
        def val(self) -> ImageSet:
            return ImageSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))

    with pytest.raises(UserError, match=r"validation images are \[3, 4, 4\] and the training images \[1, 1, 1\]"):
        _ = splits(WithOwnValidation(), image_shape=None, validation_size=0).val


def test_without_a_configured_shape_the_training_images_have_it():
    source = NumberedSource()
    assert splits(source, image_shape=None).image_shape == [1, 1, 1]
    assert source.opened == ["train"]


# Binarization: which splits, how often, from which seed


def test_no_binarization_leaves_grey_values():
    parts = drawn_splits("none")
    for images in (parts.train, parts.val, parts.test):
        assert torch.equal(images.pixels[0].flatten(), GREY)
        assert not images.is_dynamic


@pytest.mark.parametrize("name", NAMES)
def test_fixed_pixels_are_white_as_often_as_they_are_light(name):
    images = getattr(drawn_splits("fixed"), name)
    assert images.is_binary()
    assert images.pixels.dtype == torch.uint8
    frequency = images.batch().images.mean(dim=0).flatten()
    expected = GREY / 255
    four_errors = 4 * (expected * (1 - expected) / len(images)).sqrt()
    assert ((frequency - expected).abs() <= four_errors).all()


@pytest.mark.parametrize("binarization", ["fixed", "dynamic"])
def test_pixels_follow_from_the_seed_and_no_two_splits_share_their_draws(binarization):
    parts, again, other = drawn_splits(binarization), drawn_splits(binarization), drawn_splits(binarization, 7)
    first, second, third = (parts.get_split(name).pixels[:1500] for name in NAMES)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(first, third)
    for name in NAMES:
        images = parts.get_split(name)
        assert not images.is_dynamic
        assert torch.equal(images.pixels, again.get_split(name).pixels)
        assert not torch.equal(images.pixels, other.get_split(name).pixels)


def test_dynamic_training_images_stay_grey_until_a_step_draws_them_and_others_are_drawn_once():
    parts = drawn_splits("dynamic")
    assert parts.train.is_dynamic
    assert torch.equal(parts.train.pixels[0].flatten(), GREY)
    for name in NAMES:
        assert torch.equal(parts.get_split(name).pixels, drawn_splits("fixed").get_split(name).pixels)
    assert parts.val.is_binary()
    assert parts.test.is_binary()


def test_chunks_of_a_large_set_share_no_draws():
    half = torch.full((12_000, 1, 1, 8), 127, dtype=torch.uint8)
    pixels = ImageSet(half, None, pixel_max=255).binarize(0).pixels.flatten(1)
    assert not torch.equal(pixels[:2000], pixels[10_000:])
    assert abs(float(pixels.float().mean()) - 127 / 255) < 4 * 0.5 / pixels.numel() ** 0.5
