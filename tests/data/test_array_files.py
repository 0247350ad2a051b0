import io
import os
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from vae_exp.data.npz import NPZSource
from vae_exp.data.pixel_file import FilePixels
from vae_exp.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (12, 6, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
ARRAYS = {"images": COLOUR, "labels": LABELS, "test_images": COLOUR[:4], "test_labels": LABELS[:4]}
CHANNELS_FIRST = COLOUR.transpose(0, 3, 1, 2)


def write(folder: Path, kind: str, **arrays: np.ndarray) -> Path:
    path = folder / f"images.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, chunks=True, compression="gzip")
    elif kind == "npy":
        np.save(path, arrays["images"])
    else:
        path = folder / "arrays"
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return path


def refusal(open_images) -> str:
    with pytest.raises(UserError) as refused:
        open_images()
    return str(refused.value)


@pytest.mark.parametrize("kind", ["npz", "h5", "folder"])
def test_every_file_of_arrays_gives_the_same_sets(kind: str, tmp_path: Path):
    source = NPZSource(str(write(tmp_path, kind, **ARRAYS)))
    for images, count in ((source.train(), 12), (source.test(), 4)):
        assert np.array_equal(images.pixels[:].numpy(), CHANNELS_FIRST[:count])
        assert images.labels.tolist() == LABELS[:count].tolist()
        assert isinstance(images.pixels, FilePixels) == (kind == "folder")


@pytest.mark.parametrize(
    "array", [GREY, GREY > 99, (GREY / 255).astype(np.float32)], ids=["uint8", "bool", "float"]
)
def test_an_npy_file_stays_where_it_is(array: np.ndarray, tmp_path: Path):
    source = NPZSource(str(write(tmp_path, "npy", images=array)))
    images = source.train()
    assert isinstance(images.pixels, FilePixels)
    assert np.array_equal(images.pixels[:].numpy()[:, 0], array)
    assert images.pixel_max == (255 if array.dtype == np.uint8 else 1)
    assert images.labels is None
    assert "holds no array 'test_images'" in refusal(source.test)


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_number_of_channels(kind: str, channels: int, layout: str, tmp_path: Path):
    pixels = np.random.default_rng(2).integers(0, 256, (5, channels, 6, 7), dtype=np.uint8)
    array = pixels if layout == "NCHW" else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    path = str(write(tmp_path, kind, images=array))
    assert np.array_equal(NPZSource(path, layout).train().pixels[:].numpy(), pixels)
    assert "with any number where data.layout is NCHW or NHWC" in refusal(NPZSource(path).train)


@pytest.mark.parametrize("kind", ["npz", "npy", "h5"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16])
def test_rescaling(kind: str, dtype, tmp_path: Path):
    values = (GREY.astype(np.int32) * 16).astype(dtype)
    path = str(write(tmp_path, kind, images=values))
    low, high = int(values.min()), int(values.max())
    minmax = NPZSource(path, rescale="minmax").train()
    assert torch.allclose(
        minmax.pixels[:, 0].double(), torch.from_numpy((values.astype(float) - low) / (high - low))
    )
    window = NPZSource(path, rescale=[1000, 3000]).train()
    expected = np.clip((values.astype(float) - 1000) / 2000, 0, 1)
    assert torch.allclose(window.pixels[:, 0].double(), torch.from_numpy(expected))
    assert "data.rescale=" in refusal(NPZSource(path).train)


def test_test_images_are_rescaled_as_the_training_images(tmp_path: Path):
    path = write(
        tmp_path, "npz", images=np.linspace(-1, 3, 20).reshape(5, 2, 2), test_images=np.full((1, 2, 2), 2.0)
    )
    assert NPZSource(str(path), rescale="minmax").test().pixels.unique().item() == 0.75


def test_images_held_out_have_no_part_in_the_range(tmp_path: Path):
    path = str(write(tmp_path, "npz", images=np.linspace(0, 1, 40).reshape(10, 2, 2)))
    [held_out] = NPZSource(path, test_size=1).test().pixels
    values = np.linspace(0, 1, 40).reshape(10, 2, 2)
    values[np.isclose(values, held_out.numpy()).all(axis=(1, 2))] = 1000
    source = NPZSource(str(write(tmp_path, "npz", images=values)), rescale="minmax", test_size=1)
    assert source.train().pixels.max() == 1
    assert source.test().pixels.unique().item() == 1  # clipped


@pytest.mark.parametrize(
    ("rescale", "message"),
    [
        ("meanstd", r"data\.rescale=meanstd must be null, minmax, or the values of black and white, \[0,4095\]"),
        ([0, 1, 2], r"data\.rescale=\[0, 1, 2\] must be"),
        ([3, 3], r"data\.rescale=\[3, 3\] must rise from black to white"),
        ("minmax", r"data\.rescale=minmax: 'images' in data\.path=.* holds values from 7 to 7; no range"),
    ],
)
def test_what_cannot_be_rescaled_is_refused(rescale, message: str, tmp_path: Path):
    path = write(tmp_path, "npz", images=np.full((3, 2, 2), 7.0))
    assert re.search(message, refusal(NPZSource(str(path), rescale=rescale).train))


@pytest.mark.parametrize("rescale", [None, [0, 1], "minmax"])
@pytest.mark.parametrize(
    "dtype", [complex, "<U1", "datetime64[s]", "timedelta64[s]", [("red", "u1"), ("green", "u1")]], ids=str
)
def test_what_only_looks_like_numbers_is_refused(rescale, dtype, tmp_path: Path):
    path = str(write(tmp_path, "npy", images=np.zeros((3, 2, 2), dtype=dtype)))
    message = r"'images' in data\.path=.* is of type .*; expected real numbers"
    assert re.search(message, refusal(NPZSource(path, rescale=rescale).train))


@pytest.mark.parametrize("shape", [(), (0, 2, 2), (3, 0, 2)], ids=str)
def test_a_range_of_no_pixels_is_refused(shape, tmp_path: Path):
    path = str(write(tmp_path, "npy", images=np.zeros(shape)))
    assert f"has shape {list(shape)}; expected [N, H, W]" in refusal(NPZSource(path, rescale="minmax").train)


@pytest.mark.parametrize("kind", ["npz", "npy", "h5", "parquet"])
def test_a_pipe_is_not_waited_for(kind: str, tmp_path: Path):
    os.mkfifo(tmp_path / f"images.{kind}")
    assert "is not a regular file" in refusal(NPZSource(str(tmp_path / f"images.{kind}")).train)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path):
    array = np.zeros((3, 2, 2))
    array[1, 0, 0] = np.nan
    path = str(write(tmp_path, "npz", images=array))
    assert "holds NaN" in refusal(NPZSource(path, rescale=[0, 1]).train)
    assert "holds values from nan to nan; no range" in refusal(NPZSource(path, rescale="minmax").train)
    (tmp_path / "folder").mkdir()
    path = str(write(tmp_path / "folder", "npy", images=array))
    assert "holds NaN or infinite values" in refusal(NPZSource(path).train)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("as_struct", [False, True])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_parquet_with_a_column_of_images(as_struct: bool, pixels: np.ndarray, tmp_path: Path):
    contents = [png(image) for image in pixels]
    column = [{"bytes": content, "path": None} for content in contents] if as_struct else contents
    table = pa.table({"image": column, "label": LABELS, "more": ["x"] * 12})
    pyarrow.parquet.write_table(table, tmp_path / "images.parquet", row_group_size=5)
    source = NPZSource(str(tmp_path / "images.parquet"), names={"images": "image", "labels": "label"}, test_size=3)
    images, test = source.train(), source.test()
    expected = pixels[:, None] if pixels is GREY else CHANNELS_FIRST
    together = np.concatenate([images.pixels.numpy(), test.pixels.numpy()])
    assert {image.tobytes() for image in together} == {image.tobytes() for image in expected}
    assert (len(images), len(test)) == (9, 3)
    labels = {image.tobytes(): label for image, label in zip(expected, LABELS.tolist(), strict=True)}
    assert [labels[image.tobytes()] for image in images.pixels.numpy()] == images.labels.tolist()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            [png(GREY[0]), b"nothing"],
            r"'images' in data\.path=.* has no image in row 1: no PNG, .*; remove the row",
        ),
        ([png(GREY[0]), None], r"has no image in row 1"),
        (pa.array([], pa.binary()), r"'images' in data\.path=.* has no rows"),
        ([{"path": "1.png"}], r"is a column of struct<path: string>; expected numbers, .* a field bytes"),
        ([[1, 2], [3, 4]], r"is a column of list<.*>; expected numbers"),
        (["1", "2"], r"is a column of string; expected numbers"),
        ([png(GREY[0]), png(GREY[0, :3])], r"holds images of 2 sizes, .*data=folder data\.size=64"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(column, message: str, tmp_path: Path):
    pyarrow.parquet.write_table(pa.table({"images": column}), tmp_path / "images.parquet")
    for rescale in (None, [0, 1], "minmax"):
        source = NPZSource(str(tmp_path / "images.parquet"), rescale=rescale)
        assert re.search(message, refusal(source.train))


def test_hdf5_opens_no_other_file(tmp_path: Path):
    write(tmp_path, "h5", images=GREY)
    path = tmp_path / "linked.h5"
    with h5py.File(path, "w") as file:
        file["images"] = h5py.ExternalLink("images.h5", "images")
        file["group/images"] = h5py.SoftLink("/elsewhere")
        file["outside"] = h5py.ExternalLink("images.h5", "/")
        layout = h5py.VirtualLayout(GREY.shape, dtype=np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "images.h5"), "images", GREY.shape)
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", GREY.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, GREY.nbytes)])
        file["real/images"] = GREY
    for name, reason in (
        ("images", "is a link to another file"),
        ("outside/images", "is a link to another file"),
        ("virtual", "lies in other files"),
        ("external", "lies in other files"),
        ("real", "is a group; name a data set"),
        ("group/images", "holds no array 'group/images'"),
    ):
        assert reason in refusal(NPZSource(str(path), names={"images": name}).train)
    assert np.array_equal(NPZSource(str(path), names={"images": "real/images"}).train().pixels[:, 0].numpy(), GREY)


@pytest.mark.parametrize(("kind", "package"), [("h5", "h5py"), ("parquet", "pyarrow")])
def test_what_is_not_installed_and_what_is_damaged(kind: str, package: str, tmp_path: Path, monkeypatch):
    path = tmp_path / f"images.{kind}"
    path.write_bytes(b"damaged")
    assert re.search(r"data\.path=.* cannot be read as plain arrays: ", refusal(NPZSource(str(path)).train))
    monkeypatch.setitem(sys.modules, "h5py" if kind == "h5" else "pyarrow.parquet", None)
    assert f"needs {package}: pip install {package}" in refusal(NPZSource(str(path)).train)


@pytest.mark.parametrize("spoil", ["Fortran", "cut", "objects"])
def test_an_npy_file_that_cannot_be_used_is_refused(spoil: str, tmp_path: Path):
    path = tmp_path / "images.npy"
    array = {"Fortran": np.asfortranarray(GREY), "objects": GREY.astype(object)}.get(spoil, GREY)
    np.save(path, array)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    message = refusal(NPZSource(str(path)).train)
    assert re.search(r"data\.path=.*images\.npy cannot be read", message)
