import itertools
import re
from collections import namedtuple

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vae_exp.data import batch_loader
from vae_exp.data.batch_loader import (
    BatchLoader,
    DeviceLoader,
    PrefetchLoader,
    free_memory,
    make_loader,
    move_to_device,
)
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError

CPU = torch.device("cpu")
ELSEWHERE = torch.device("meta")  # another device, for moves
counts = st.integers(min_value=1, max_value=40)
batch_sizes = st.integers(min_value=1, max_value=50)
seeds = st.integers(min_value=0, max_value=2**31)
positions = st.integers(min_value=0, max_value=40)
reproducibly = settings(max_examples=60)
both_kinds = pytest.mark.parametrize("kind", [DeviceLoader, PrefetchLoader])


def numbered(count: int) -> ImageSet:
    """Images of one pixel, which is their number."""
    return ImageSet(torch.arange(count).to(torch.uint8).reshape(-1, 1, 1, 1), None, pixel_max=255)


def make(kind: type, images: ImageSet, largest: int) -> BatchLoader:
    return kind(images if kind is DeviceLoader else images.stream_to(CPU), largest)


def batches_of(count: int, batch_size: int) -> list[int]:
    return [min(batch_size, count - start) for start in range(0, count, batch_size)]


def order_of(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def run_epoch(loader: BatchLoader, order: Tensor, sizes: list[int], done: int = 0) -> list[Tensor]:
    """What the steps of an epoch get, none of it copied."""
    loader.start_epoch(order, sizes, done)
    batches = []
    for size in sizes[done:]:
        loader.prefetch()
        batches.append(loader.next_batch(size).images)
    return batches


def numbers_in(batches: list[Tensor]) -> list[int]:
    return [round(number * 255) for batch in batches for number in batch.flatten().tolist()]


@both_kinds
def test_a_process_with_a_smaller_part_of_each_batch_gets_its_own_images(kind):
    """Of three processes that share batches of ten, two have three images of each and one has four."""
    loader = make(kind, numbered(12), largest=4)
    order = torch.tensor([0, 1, 2, 10, 11, 5, 7])
    assert numbers_in(run_epoch(loader, order, [3, 3, 1])) == order.tolist()


@reproducibly
@given(counts, batch_sizes, positions, seeds)
def test_batches_follow_the_order_from_any_batch_on_and_are_the_same_to_the_bit(count, batch_size, position, seed):
    """A new epoch may start within another."""
    pixels = torch.randint(17, (count, 1, 2, 2), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    images, sizes = ImageSet(pixels, None, 16), batches_of(count, batch_size)
    loaders = [make(kind, images, sizes[0]) for kind in (DeviceLoader, PrefetchLoader)]
    for epoch, done in enumerate((0, min(position, len(sizes)), 0)):
        order = order_of(count, seed + epoch)
        for loader in loaders:
            batches = run_epoch(loader, order, sizes, done)
            assert [len(batch) for batch in batches] == sizes[done:]
            assert not batches or torch.equal(torch.cat(batches), images.batch(order[sum(sizes[:done]) :]).images)
            assert loader.batch_index.item() == len(sizes) - 1
            loader.start_epoch(order, sizes, 0)
            for _ in sizes[:position]:
                loader.prefetch()


@both_kinds
def test_a_process_may_take_a_part_of_the_images_and_an_empty_batch(kind):
    loader = make(kind, numbered(10), 2)
    assert numbers_in(run_epoch(loader, torch.tensor([9, 4, 7]), [2, 1])) == [9, 4, 7]
    batches = run_epoch(loader, torch.tensor([3, 1]), [2, 0])
    assert [tuple(batch.shape) for batch in batches] == [(2, 1, 1, 1), (0, 1, 1, 1)]


@both_kinds
def test_a_batch_stays_as_it_is_while_later_ones_are_handed_out_and_changed(kind):
    images = ImageSet(torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), None, 1)
    expected = images.pixels.clone()
    loader = make(kind, images, 2)
    batches = run_epoch(loader, torch.arange(8), [2] * 4)
    assert torch.equal(torch.cat(batches), expected)
    batches[0].zero_()
    assert torch.equal(torch.cat(run_epoch(loader, torch.arange(8), [2] * 4)), expected)


def test_a_recorded_step_reads_order_and_batch_from_where_the_last_epoch_s_were():
    resident, streamed = DeviceLoader(numbered(4), 2), PrefetchLoader(numbered(4).stream_to(CPU), 2)
    addresses = set()
    for seed in range(3):
        for loader in (resident, streamed):
            run_epoch(loader, order_of(4, seed), [2, 2])
        tensors = resident._order, resident.batch_index, streamed._batch, streamed.batch_index
        addresses.add(tuple(tensor.data_ptr() for tensor in tensors))
    assert len(addresses) == 1


def test_what_goes_wrong_while_gathering_is_raised_by_the_step():
    loader = PrefetchLoader(numbered(4).stream_to(CPU), 2)
    loader.start_epoch(torch.tensor([0, 99]), [2], 0)
    with pytest.raises((IndexError, RuntimeError)):
        loader.prefetch()


def test_the_loader_fits_where_the_pixels_are():
    assert isinstance(make_loader(numbered(3), 2), DeviceLoader)
    assert isinstance(make_loader(numbered(3).stream_to(CPU), 2), PrefetchLoader)


# --- where the pixels are


@pytest.mark.parametrize(("resident", "expected"), [(True, True), ("auto", True), (False, False)])
def test_on_the_cpu_images_are_resident_unless_they_shall_be_streamed(resident, expected):
    moved = move_to_device(numbered(3), CPU, resident)
    assert moved.is_resident is expected
    assert moved.device == CPU


@pytest.mark.parametrize(
    ("preload", "free", "expected"),
    [
        ("auto", 199, False),
        ("auto", 200, True),
        ("auto", None, True),
        (True, 100, True),
        (True, None, True),
        (False, 1000, False),
    ],
)
def test_auto_moves_images_that_take_at_most_half_of_the_free_memory(monkeypatch, preload, free, expected):
    monkeypatch.setattr(batch_loader, "free_memory", lambda device: free)
    moved = move_to_device(numbered(100), ELSEWHERE, preload)
    assert moved.is_resident is expected
    assert moved.device == ELSEWHERE
    assert moved.pixels.device == (ELSEWHERE if expected else CPU)


def test_images_that_must_be_resident_and_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(batch_loader, "free_memory", lambda device: 99)
    message = (
        "data.preload_to_device=true: the images take 0 MiB and meta has 0 MiB free; use "
        "data.preload_to_device=auto or false."
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        move_to_device(numbered(100), ELSEWHERE, True)


def test_free_memory_is_that_of_the_device(monkeypatch):
    Memory = namedtuple("Memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(123))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (45 + device.index, 99))
    assert free_memory(CPU) == 123
    assert free_memory(torch.device("cuda:1")) == 46
    assert free_memory(ELSEWHERE) is None


@pytest.mark.cuda
def test_streamed_batches_on_a_cuda_device_are_those_of_the_cpu():
    device, count, sizes = torch.device("cuda", 0), 5000, [512] * 9 + [392]
    pixels = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    images = ImageSet(pixels, None, 255)
    loaders = [PrefetchLoader(images.stream_to(device), 512), DeviceLoader(images.to(device), 512)]
    for seed, loader in itertools.product(range(3), loaders):
        order = order_of(count, seed)
        batches = run_epoch(loader, order.to(device), sizes)
        batch = torch.cat(batches)
        assert torch.equal(batch, images.to(device).batch(order).images)
        # CUDA multiplies by 1/255 where the CPU divides: one unit in the last place.
        torch.testing.assert_close(batch.cpu(), images.batch(order).images, rtol=2**-23, atol=0)


@pytest.mark.parametrize("with_labels", [False, True])
def test_scaled_images_that_stay_on_the_device_give_the_same_batches(monkeypatch, with_labels):
    pixels = torch.randint(256, (20, 1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = ImageSet(pixels, torch.arange(20) if with_labels else None, 255)
    scaled, loader = [], DeviceLoader(images, 6)
    assert loader._floats is None
    monkeypatch.setattr(batch_loader, "_fits_as_floats", lambda images: True)
    for one in (loader, DeviceLoader(images, 6)):
        one.start_epoch(torch.randperm(20, generator=torch.Generator().manual_seed(1)), [6, 6, 6, 2], 0)
        scaled.append([one.next_batch(size) for size in (6, 6, 6, 2)])
    for first, second in zip(*scaled, strict=True):
        assert torch.equal(first.images, second.images)
        assert (first.labels is None) == (second.labels is None) == (not with_labels)
        assert not with_labels or torch.equal(first.labels, second.labels)
