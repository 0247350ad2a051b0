"""What identifies a set of images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import grey_images
from vae_exp.data.fingerprint import differences, fingerprint
from vae_exp.data.images import ImageSet
from vae_exp.data.pixel_file import open_pixels
from vae_exp.data.splits import DataSplits


def changed(images: ImageSet, index: int) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[index] += 1
    return replace(images, pixels=pixels)


def test_a_sample_sees_every_image_of_a_small_set_and_evenly_spaced_ones_of_a_large_one():
    for count, seen in ((64, range(64)), (640, range(0, 640, 10))):
        images = ImageSet(torch.zeros(count, 1, 2, 2, dtype=torch.uint8))
        noticed = [at for at in range(count) if differences(fingerprint(images), fingerprint(changed(images, at)))]
        assert noticed == list(seen)
        whole = fingerprint(images, sample=False)
        assert all(differences(whole, fingerprint(changed(images, at), sample=False)) for at in range(count))


def test_pixels_of_a_file_have_the_fingerprint_of_those_in_memory(tmp_path: Path):
    images = grey_images(200)
    np.save(tmp_path / "images.npy", images.pixels.numpy())
    in_file = replace(images, pixels=open_pixels(tmp_path / "images.npy"))
    for sample in (True, False):
        assert fingerprint(in_file, sample=sample) == fingerprint(images, sample=sample)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, []),
        ({"labels": None}, ["no labels"]),
        ({"labels": torch.ones(12, dtype=torch.int64)}, ["other labels"]),
        ({"classes": ("a", "d")}, ["classes b, c missing, classes d new"]),
        ({"classes": ("b", "a", "c")}, ["classes in another order"]),
        ({"classes": None}, ["classes None instead of ['a', 'b', 'c']"]),
        ({"value_range": (0.0, 5.0)}, ["value_range [0.0, 5.0] instead of None"]),
    ],
)
def test_differences_are_named(changes: dict, texts: list[str]):
    images = replace(grey_images(12), labels=torch.arange(12) % 3, classes=("a", "b", "c"))
    assert differences(fingerprint(images), fingerprint(replace(images, **changes))) == texts


def test_a_removed_image_is_counted():
    images = grey_images(12)
    texts = differences(fingerprint(images), fingerprint(images.take(11)))
    assert texts[0] == "count 11 instead of 12"


@pytest.mark.parametrize("binarization", ["none", "fixed", "dynamic"])
def test_binarization_leaves_the_fingerprints_of_the_source(binarization: str):
    class Source:
        def train(self) -> ImageSet:
            return grey_images(30)

    splits = DataSplits(Source(), None, 10, 0, binarization)
    assert {split: content["count"] for split, content in splits.fingerprints.items()} == {"train": 20, "val": 10}
    assert splits.fingerprints == DataSplits(Source(), None, 10, 0).fingerprints
