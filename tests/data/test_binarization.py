"""Black-and-white images drawn from grey ones: which splits, how often, from which seed."""

import pytest
import torch

from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits

GREY = torch.tensor([0, 51, 127, 204, 255], dtype=torch.uint8)


class GreySource:
    """Images whose pixels run through `GREY`, the same ones in training and test."""

    def train(self) -> ImageSet:
        return ImageSet(GREY.repeat(4000, 1).reshape(-1, 1, 1, 5), None, pixel_max=255)

    test = train


def splits(binarization: str, seed: int = 0) -> DataSplits:
    return DataSplits(GreySource(), [1, 1, 5], 1500, 0, binarization, seed)


def test_no_binarization_leaves_grey_values():
    parts = splits("none")
    for images in (parts.train, parts.val, parts.test):
        assert torch.equal(images.pixels[0].flatten(), GREY)
        assert not images.is_dynamic


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_fixed_pixels_are_white_as_often_as_they_are_light(name):
    images = getattr(splits("fixed"), name)
    assert images.is_binary()
    assert images.pixels.dtype == torch.uint8
    frequency = images.batch().mean(dim=0).flatten()
    expected = GREY / 255
    four_errors = 4 * (expected * (1 - expected) / len(images)).sqrt()
    assert ((frequency - expected).abs() <= four_errors).all()


def test_fixed_pixels_follow_from_their_seed():
    assert torch.equal(splits("fixed").train.pixels, splits("fixed").train.pixels)
    assert not torch.equal(splits("fixed").train.pixels, splits("fixed", seed=7).train.pixels)


@pytest.mark.parametrize("binarization", ["fixed", "dynamic"])
def test_no_two_splits_share_their_draws(binarization):
    parts = splits(binarization)
    drawn = [parts.get_split(name).pixels[:1500] for name in ("train", "val", "test")]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], drawn[2])


def test_dynamic_training_images_stay_grey_until_a_step_draws_them():
    parts = splits("dynamic")
    assert parts.train.is_dynamic
    assert torch.equal(parts.train.pixels[0].flatten(), GREY)
    assert torch.equal(parts.get_split("train").pixels, splits("fixed").train.pixels)


@pytest.mark.parametrize("name", ["val", "test"])
def test_dynamic_images_that_are_scored_are_drawn_once(name):
    images = getattr(splits("dynamic"), name)
    assert images.is_binary()
    assert torch.equal(images.pixels, getattr(splits("dynamic"), name).pixels)


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("binarization", ["none", "fixed", "dynamic"])
def test_a_split_that_is_scored_is_never_dynamic(binarization, name):
    assert not splits(binarization).get_split(name).is_dynamic


def test_the_global_seed_has_no_part_in_the_draws():
    drawn = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn.append(splits("fixed").test.pixels)
    assert torch.equal(*drawn)


def test_chunks_of_a_large_set_share_no_draws():
    half = torch.full((12_000, 1, 1, 8), 127, dtype=torch.uint8)
    drawn = ImageSet(half, None, pixel_max=255).binarize(0).pixels.flatten(1)
    assert not torch.equal(drawn[:2000], drawn[10_000:])
    assert abs(float(drawn.float().mean()) - 127 / 255) < 4 * 0.5 / drawn.numel() ** 0.5
