import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vae_exp.data.batch_loader import DeviceLoader, PrefetchLoader, make_loader, move_to_device
from vae_exp.data.images import ImageSet
from vae_exp.data.pixel_file import FilePixels, open_pixels
from vae_exp.errors import UserError

CPU = torch.device("cpu")
COUNT = 40


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(256, (COUNT, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture
def stored(pixels, tmp_path: Path) -> FilePixels:
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    return open_pixels(tmp_path / "pixels.npy")


def both(pixels, stored) -> tuple[ImageSet, ImageSet]:
    labels = torch.arange(COUNT)
    return ImageSet(pixels, labels), ImageSet(stored, labels)


ORDER = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "part",
    [
        lambda images: images,
        lambda images: images.subset(ORDER),
        lambda images: images.subset(ORDER).take(17),
        lambda images: images.random_subset(9).subset(torch.tensor([8, 0, 3])),
        lambda images: images.take(0),
    ],
)
def test_a_stored_set_is_the_set_in_memory(part, pixels, stored):
    ours, theirs = part(both(pixels, stored)[1]), part(both(pixels, stored)[0])
    assert isinstance(ours.pixels, FilePixels)
    assert (len(ours), ours.image_shape, ours.pixel_max) == (len(theirs), theirs.image_shape, theirs.pixel_max)
    assert (ours.pixels.nbytes, ours.pixels.numel()) == (theirs.pixels.nbytes, theirs.pixels.numel())
    assert torch.equal(ours.pixels.to(CPU), theirs.pixels)
    assert torch.equal(ours.binarize(3).pixels, theirs.binarize(3).pixels)
    assert (ours.kind, ours.is_binary()) == (theirs.kind, theirs.is_binary())
    if len(theirs):
        assert torch.equal(ours.mean(), theirs.mean())
    for a, b in zip(ours.batches(7), theirs.batches(7), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC"])
def test_files_of_other_types_and_layouts(layout: str, dtype: str, pixels, tmp_path: Path):
    grey = pixels[:, :1] if layout == "NHW" else pixels
    expected = (grey > 99) if dtype == "bool" else (grey if dtype == "uint8" else grey / 255)
    array = expected.numpy()
    array = {"NHW": array[:, 0], "NCHW": array, "NHWC": array.transpose(0, 2, 3, 1)}[layout].astype(dtype)
    np.save(tmp_path / "other.npy", np.ascontiguousarray(array))
    stored = open_pixels(tmp_path / "other.npy", layout)
    assert stored.dtype == (torch.uint8 if dtype in ("uint8", "bool") else torch.float32)
    assert torch.allclose(stored[:].float(), expected.float(), atol=1e-3 if dtype == "float16" else 1e-7)
    out = torch.empty(5, *stored.shape[1:], dtype=stored.dtype)
    stored[ORDER].read_into(out, torch.tensor([4, 0, 9, 9, 1]))
    assert torch.equal(out, stored[:][ORDER[[4, 0, 9, 9, 1]]])


def spoil(array: np.ndarray, path: Path, how: str) -> None:
    np.save(path, {"Fortran": np.asfortranarray(array), "objects": array.astype(object)}.get(how, array))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    if how == "text":
        path.write_text("no array")


@pytest.mark.parametrize(
    ("how", "reason"),
    [("Fortran", "Fortran order"), ("objects", "never loaded"), ("cut", "shorter"), ("text", "magic")],
)
def test_a_file_that_cannot_be_read_by_rows_is_refused(how: str, reason: str, pixels, tmp_path: Path):
    spoil(pixels.numpy(), tmp_path / "bad.npy", how)
    with pytest.raises(ValueError, match=reason):
        open_pixels(tmp_path / "bad.npy")


def test_a_file_that_is_cut_later_says_so(pixels, stored, tmp_path: Path):
    with (tmp_path / "pixels.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(UserError, match=r"pixels\.npy has been cut while it is in use, at image 39"):
        stored[39:]


def test_what_is_read_can_be_changed_and_the_file_stays(pixels, stored):
    stored[:].zero_()
    stored.index_select(0, ORDER).zero_()
    assert torch.equal(stored[:], pixels)


@pytest.mark.parametrize("preload", ["auto", True, False])
def test_on_the_cpu_pixels_stay_in_the_file_unless_they_are_to_be_preloaded(preload, pixels, stored):
    resident, streamed = both(pixels, stored)
    images = move_to_device(streamed.subset(ORDER), CPU, preload)
    loader = make_loader(images, 8)
    assert isinstance(images.pixels, torch.Tensor if preload is True else FilePixels)
    assert isinstance(loader, DeviceLoader if preload is True else PrefetchLoader)
    sizes = [8] * 5
    loader.start_epoch(ORDER, sizes, 1)
    for start in (8, 16, 24, 32):
        loader.prefetch()
        batch, expected = loader.next_batch(8), resident.batch(ORDER[ORDER[start : start + 8]])
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


SCRIPT = """
import sys, numpy as np, torch
from vae_exp.data.images import ImageSet
from vae_exp.data.pixel_file import open_pixels
from pathlib import Path

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

images = ImageSet(open_pixels(Path(sys.argv[1])))
images.take(2).mean()
before = resident()
half = images.subset(torch.randperm(len(images)).narrow(0, 0, len(images) // 2))
assert not images.is_binary() and images.mean().isfinite().all() and half.mean().isfinite().all()
assert sum(len(batch) for batch in half.batches(256)) == len(half)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_a_set_larger_than_what_it_may_take_is_read_within_that(tmp_path: Path):
    path = tmp_path / "large.npy"
    count = 3 * 2**30 // (3 * 64 * 64)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 3, 64, 64))  # sparse
    array[-1] = 7
    del array
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True
    )
    assert int(finished.stdout) < 400 * 2**20
