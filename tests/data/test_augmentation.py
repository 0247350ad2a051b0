import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.builders import noise
from vae_exp.data.augmentation import AUGMENTATIONS, crop, flip, make_augmentation, shift
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.distributions.sampling import sharded
from vae_exp.errors import UserError

HEIGHT, WIDTH = 16, 24


def images(count: int = 200) -> Tensor:
    return torch.rand(count, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def test_flip_mirrors_half_of_the_images():
    before = images(2000)
    after = flip(before, noise())
    mirrored = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(after, before, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(after, before, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert abs(sum(mirrored) - 1000) < 4 * math.sqrt(500)


def test_shift_moves_by_whole_pixels_and_repeats_the_edge():
    before = images()
    after = shift(before, noise())
    steps = set()
    for a, b in zip(after.numpy(), before.numpy(), strict=True):
        wide = np.pad(b, ((0, 0), (2, 2), (3, 3)), mode="edge")  # 1/8 of 16 and of 24
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if np.array_equal(a, wide[:, 2 - down : 2 - down + HEIGHT, 3 - right : 3 - right + WIDTH])
        ]
        assert len(matches) == 1
        steps.add(matches[0])
    assert {down for down, _ in steps} == set(range(-2, 3))
    assert {right for _, right in steps} == set(range(-3, 4))


def test_crop_enlarges_a_part_of_the_image():
    """A ramp stays a ramp: its slope is the side of the part, its values stay within the image's."""
    ramp = (torch.arange(WIDTH).float() + 0.5).expand(500, 1, HEIGHT, WIDTH) / WIDTH
    after = crop(ramp, noise())[:, 0]
    assert torch.allclose(after, after[:, :1].expand_as(after), atol=1e-5)  # rows stay equal
    inner = after[:, 0, 2:-2]
    slopes = inner.diff(dim=1) * WIDTH
    assert torch.allclose(slopes, slopes[:, :1].expand_as(slopes), atol=1e-3)
    sides = slopes[:, 0]
    assert 0.8 - 1e-3 < sides.min() < 0.81
    assert 0.99 < sides.max() < 1 + 1e-3
    centres = inner.mean(dim=1)
    assert bool(((centres - 0.5).abs() <= (1 - sides) / 2 + 1e-3).all())
    assert centres.min() < 0.45
    assert centres.max() > 0.55


@pytest.mark.parametrize("levels", [1, 16, 255])
def test_integer_pixels_stay_on_their_grid(levels: int):
    pixels = torch.randint(levels + 1, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    integers = ImageSet(pixels, pixel_max=levels, augment=("flip", "shift", "crop"))
    augment = make_augmentation(integers)
    after = augment(integers.batch().images, noise())
    grid = torch.arange(levels + 1).float() / levels
    assert torch.isin(after, grid).all()
    assert not torch.equal(after, integers.batch().images)


def test_without_names_nothing_is_drawn():
    assert make_augmentation(ImageSet(torch.zeros(3, 1, 2, 2))) is None


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_processes_that_share_a_batch_draw_what_one_would(name: str):
    whole, augment = images(10), AUGMENTATIONS[name]
    expected = augment(whole, noise())
    parts = []
    for first, last in ((0, 4), (4, 10)):
        with sharded((first, last, 10)):
            parts.append(augment(whole[first:last], noise()))
    assert torch.equal(torch.cat(parts), expected)


class Source:
    def train(self) -> ImageSet:
        return ImageSet(torch.zeros(5, 1, 8, 8))

    test = train


def test_only_training_images_are_augmented():
    splits = DataSplits(Source(), None, 2, 0, augment=["flip", "crop"])
    assert splits.train.augment == ("flip", "crop")
    assert splits.val.augment == splits.test.augment == ()


def test_a_name_that_is_no_augmentation_is_refused():
    with pytest.raises(
        UserError, match=r"data\.augment=\['flip', 'rotate'\]: rotate is not known; use flip, shift"
    ):
        DataSplits(Source(), None, 2, 0, augment=["flip", "rotate"])
