from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.data.images import ImageSet

sizes = st.integers(min_value=0, max_value=40)
batch_sizes = st.integers(min_value=1, max_value=50)
reproducibly = settings(max_examples=60)


def numbered(count: int) -> ImageSet:
    """Images of one pixel, which is their number, as are their label and their one factor."""
    numbers = torch.arange(count)
    return ImageSet(numbers.to(torch.uint8).reshape(-1, 1, 1, 1), numbers, pixel_max=255, factors=numbers[:, None])


def numbers_in(batches) -> list[int]:
    return [round(number * 255) for batch in batches for number in batch.flatten().tolist()]


@pytest.mark.parametrize("pixel_max", [255, 16])
def test_integer_pixels_are_scaled_to_between_zero_and_one(pixel_max):
    pixels = torch.arange(pixel_max + 1, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    images = ImageSet(pixels, None, pixel_max)
    scaled = images.batch().images
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled.flatten(), torch.arange(pixel_max + 1) / pixel_max)
    assert images.pixels is pixels
    assert pixels.flatten().tolist() == list(range(pixel_max + 1))


def test_white_is_255_for_bytes_and_1_for_floats_unless_stated():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(-1, 1, 1, 1)
    assert torch.equal(ImageSet(pixels).batch().images.flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(ImageSet(pixels / 255).batch().images, pixels / 255)


@pytest.mark.parametrize("positions", [slice(None), torch.tensor([0, 1, 2])], ids=["slice", "positions"])
def test_scaled_float_pixels_are_a_copy_of_the_same_values(positions):
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels.clone(), None, 1)
    assert torch.equal(images.batch(positions).images, pixels)
    images.batch(positions).images.zero_()
    assert torch.equal(images.pixels, pixels)


def test_a_second_batch_of_float_pixels_leaves_the_gradient_of_the_first_computable():
    batches = ImageSet(torch.full((4, 1, 2, 2), 0.5), None, 1).batches(2)
    weight = torch.ones((), requires_grad=True)
    loss = (next(batches).images * weight).sum()
    next(batches)
    loss.backward()
    assert weight.grad == 4.0


def test_a_batch_is_of_positions_in_their_order_or_of_a_slice():
    assert numbers_in([numbered(9).batch(torch.tensor([7, 2, 5])).images]) == [7, 2, 5]
    assert numbers_in([numbered(9).batch(slice(3, 6)).images]) == [3, 4, 5]


@reproducibly
@given(sizes, batch_sizes)
def test_batches_hold_every_image_in_order_and_only_the_last_is_short(size, batch_size):
    batches = list(numbered(size).batches(batch_size))
    full, rest = divmod(size, batch_size)
    assert numbers_in([batch.images for batch in batches]) == list(range(size))
    assert [len(batch) for batch in batches] == [batch_size] * full + [rest] * (rest > 0)


@reproducibly
@given(sizes, st.integers(min_value=0, max_value=50))
def test_take_selects_at_most_all_images(size, count):
    images = numbered(size)
    first = images.take(count)
    assert images.take(None) is images
    assert first.image_shape == images.image_shape
    assert first.pixels.flatten().tolist() == list(range(min(size, count)))
    assert first.labels.tolist() == first.factors.flatten().tolist() == list(range(min(size, count)))


def test_a_random_subset_represents_images_in_file_order():
    """Each half of the set contributes its share within five binomial standard deviations, whatever the seed."""
    images = numbered(200)
    with torch.random.fork_rng():
        subsets = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            subsets.append(images.random_subset(60).pixels.flatten().tolist())
    assert subsets[0] == subsets[1] == sorted(set(subsets[0]))
    assert len(subsets[0]) == 60
    from_first_half = sum(number < 100 for number in subsets[0])
    assert abs(from_first_half - 30) < 5 * (60 * 0.25 * 140 / 199) ** 0.5
    assert set(images.random_subset(20).pixels.flatten().tolist()) < set(subsets[0])


def test_batches_report_the_share_that_is_done():
    shares: list[float] = []
    images = replace(numbered(10), on_progress=shares.append)
    part = images.random_subset(5)
    for _ in part.batches(2):
        shares.append(-1.0)
    assert shares == [-1.0, 0.4, -1.0, 0.8, -1.0, 1.0]


@pytest.mark.parametrize("count", [None, 4, 9])
def test_a_random_subset_of_all_images_is_the_set(count: int | None):
    images = numbered(4)
    assert images.random_subset(count) is images


def test_subset_takes_images_with_their_labels_and_factors_in_the_given_order():
    chosen = numbered(9).subset(torch.tensor([8, 0, 4]))
    assert chosen.pixels.flatten().tolist() == [8, 0, 4]
    assert chosen.labels.tolist() == chosen.factors.flatten().tolist() == [8, 0, 4]
    assert chosen.pixel_max == 255


def test_images_without_labels_stay_without():
    images = ImageSet(torch.zeros(3, 1, 2, 2), None, 1)
    assert images.subset(torch.tensor([1])).labels is None
    assert images.to(torch.device("meta")).labels is None


@pytest.mark.parametrize("images", [numbered(3), numbered(3).stream_to(torch.device("cpu"))])
def test_to_moves_pixels_and_labels_and_leaves_them_unscaled(images: ImageSet):
    moved = images.to(torch.device("meta"))
    assert moved.is_resident
    assert {moved.device.type, moved.pixels.device.type, moved.labels.device.type} == {"meta"}
    assert moved.pixels.dtype == torch.uint8
    assert moved.pixel_max == 255


def test_a_streamed_set_keeps_its_pixels_and_has_batches_and_labels_on_the_device():
    images = numbered(5)
    streamed = images.stream_to(torch.device("meta"))
    assert (images.is_resident, streamed.is_resident) == (True, False)
    assert (images.device.type, streamed.device.type) == ("cpu", "meta")
    assert streamed.pixels is images.pixels
    assert streamed.labels.device.type == "meta"
    assert streamed.batch(slice(1, 3)).images.device.type == "meta"
    streamed = images.stream_to(torch.device("cpu"))
    for part, numbers in ((streamed.take(2), [0, 1]), (streamed.subset(torch.tensor([4, 0])), [4, 0])):
        assert not part.is_resident
        assert numbers_in([part.batch().images]) == numbers


@pytest.mark.parametrize(
    ("values", "pixel_max", "binary"),
    [
        ([0, 255], 255, True),
        ([0, 1], 1, True),
        ([0, 1], 255, False),
        ([0, 254], 255, False),
        ([0.0, 0.5], 1, False),
    ],
)
def test_images_of_black_and_white_alone_are_binary(values, pixel_max, binary):
    pixels = torch.tensor(values, dtype=torch.float32 if pixel_max == 1 else torch.uint8).reshape(-1, 1, 1, 1)
    assert ImageSet(pixels, None, pixel_max).is_binary() is binary
