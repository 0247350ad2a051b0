import io
import pickle
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import torch

from vae_exp.data.npz import NPZSource
from vae_exp.data.splits import DataSplits
from vae_exp.errors import UserError

COUNT, HEIGHT, WIDTH = 5, 6, 7


def grey(dtype=np.uint8, shape: tuple[int, ...] = (COUNT, HEIGHT, WIDTH)) -> np.ndarray:
    """Seeded pixels: integers to 255 as uint8, else numbers in [0, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return pixels.astype(np.uint8) if dtype == np.uint8 else (pixels / 255).astype(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my images.npz"


@pytest.fixture
def npz(path: Path):
    """Write these arrays to a file and give its source: `npz(images=…)`."""

    def write(layout: str = "auto", **arrays) -> NPZSource:
        np.savez(path, **arrays)
        return NPZSource(str(path), layout)

    return write


def refusal(open_images) -> str:
    with pytest.raises(UserError) as refused:
        open_images()
    return str(refused.value)


# --- what is accepted


CHANNELS_FIRST = {
    "NHW": lambda array: array[:, None],
    "NCHW": lambda array: array,
    "NHWC": lambda array: np.moveaxis(array, -1, 1),
}


@pytest.mark.parametrize(
    ("shape", "layout", "named"),
    [
        ((5, 6, 7), "NHW", False),
        ((5, 1, 6, 7), "NCHW", False),
        ((5, 3, 6, 7), "NCHW", False),
        ((5, 6, 7, 1), "NHWC", False),
        ((5, 6, 7, 3), "NHWC", False),
        ((5, 6, 7), "NHW", True),
        ((5, 2, 6, 7), "NCHW", True),  # any number of channels
        ((5, 6, 7, 5), "NHWC", True),
        ((5, 3, 4, 1), "NCHW", True),  # what could be read both ways
        ((5, 3, 4, 1), "NHWC", True),
    ],
)
def test_channels_come_first_whatever_the_layout(npz, shape: tuple[int, ...], layout: str, named: bool):
    array = grey(shape=shape)
    images = npz(layout if named else "auto", images=array).train()
    np.testing.assert_array_equal(images.pixels.numpy(), CHANNELS_FIRST[layout](array))


@pytest.mark.parametrize(
    ("pixels", "dtype", "pixel_max"),
    [
        (grey(), torch.uint8, 255),
        (grey() > 100, torch.uint8, 1),
        *((grey(dtype), torch.float32, 1) for dtype in (np.float16, np.float32, np.float64, ">f4")),
        (np.asfortranarray(grey()), torch.uint8, 255),
        (np.array([[[0.0, 1.0]]]), torch.float32, 1),
    ],
)
def test_integers_and_booleans_are_stored_as_bytes_and_floats_as_float32(npz, pixels, dtype, pixel_max):
    images = npz(images=pixels).train()
    assert (images.pixels.dtype, images.pixel_max, images.labels) == (dtype, pixel_max, None)
    assert images.is_binary() == (pixels.dtype == bool or pixels.size == 2)
    np.testing.assert_array_equal(images.pixels[:, 0].numpy(), pixels.astype(images.pixels.numpy().dtype))


def test_black_and_almost_black_are_taken_for_a_mistake(npz, path):
    masks = (grey() > 100).astype(np.uint8)
    assert "+data.source.max_value=1, or save them as bool" in refusal(npz(images=masks).train)
    assert NPZSource(str(path), max_value=1).train().is_binary()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"imgs": "images"}, r"data\.source\.names\.imgs is not known; use images, labels, factors, val_images"),
        ({"labels": "lbls"}, r"holds no array 'lbls', which is named in data\.source\.names\.labels"),
        ({"val_images": "validation"}, "holds no array 'validation'"),
    ],
)
def test_a_name_of_nothing_is_refused(path, names, reason):
    np.savez(path, images=grey(), labels=np.arange(len(grey())))
    with pytest.raises(UserError, match=reason):
        DataSplits(NPZSource(str(path), names=names), None, 0, 0).get_split("train")


def test_integers_and_floats_of_the_same_image_are_scaled_alike(npz):
    integers = npz(images=grey()).train().batch().images
    floats = npz(images=grey(np.float64)).train().batch().images
    assert torch.allclose(integers, floats, rtol=0, atol=1e-7)


def test_compressed_files_are_read(path):
    np.savez_compressed(path, images=grey())
    np.testing.assert_array_equal(NPZSource(str(path)).train().pixels[:, 0].numpy(), grey())


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4", np.uint64])
def test_labels_become_int64(npz, dtype):
    highest = 2**63 - 1 if dtype == np.uint64 else 5
    labels = npz(images=grey(), labels=np.array([3, 1, 4, 1, highest], dtype=dtype)).train().labels
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3, 1, 4, 1, highest]


def test_test_images_have_arrays_of_their_own(npz):
    tests = npz(
        images=grey(), labels=np.zeros(COUNT, int), test_images=grey()[:2], test_labels=np.array([8, 9])
    ).test()
    np.testing.assert_array_equal(tests.pixels[:, 0].numpy(), grey()[:2])
    assert tests.labels.tolist() == [8, 9]


def test_validation_images_are_those_of_the_file_or_held_out_of_the_training_images(npz):
    held_out = grey(shape=(3, HEIGHT, WIDTH))
    source = npz(images=grey(), val_images=held_out, val_labels=np.arange(3))
    splits = DataSplits(source, None, validation_size=0, split_seed=0)
    assert torch.equal(splits.val.pixels[:, 0], torch.from_numpy(held_out))
    assert splits.val.labels.tolist() == [0, 1, 2]
    assert len(splits.train) == COUNT
    with pytest.raises(UserError, match="the data have 3 validation images of their own"):
        _ = DataSplits(source, None, validation_size=1, split_seed=0).val
    assert len(DataSplits(npz(images=grey()), None, validation_size=1, split_seed=0).val) == 1


def test_the_path_is_resolved_when_the_source_is_made(npz, path, monkeypatch):
    npz(images=grey())
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.chdir(path.parent)
    sources = [NPZSource(f"~/{path.name}"), NPZSource(path.name)]
    monkeypatch.chdir("/")
    assert [len(source.train()) for source in sources] == [COUNT, COUNT]


# --- what is refused: the arguments


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([None], r"data\.path is missing.*data\.path=my_images\.npz"),
        ([""], r"data\.path is missing"),
        (["images.npz", "HWN"], r"data\.layout=HWN must be one of auto, NHW, NCHW, NHWC"),
        (["images.npz", ""], r"data\.layout= must be one of"),
        (["images.npz", "auto", None, 256], r"data\.source\.max_value=256 must be a whole number from 1 to 255"),
        (["images.npz", "auto", None, 1, -1], r"data\.source\.test_size=-1 must be a whole number of at least 0"),
    ],
)
def test_unknown_arguments_are_refused_at_once(arguments, reason: str):
    with pytest.raises(UserError, match=reason):
        NPZSource(*arguments)


@pytest.mark.parametrize(
    ("key", "missing", "remedy"), [("pictures", "images", "[N, H, W]"), ("images", "test_images", "")]
)
def test_a_missing_array_is_refused_with_the_remedy(npz, path, key, missing, remedy):
    source = npz(**{key: grey()})
    message = refusal(source.train if missing == "images" else source.test)
    assert f"data.path={path} holds no array '{missing}'" in message
    assert remedy in message


# --- what is refused: files that are not such archives


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _endless_npy() -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"too little"


def _npz(content: bytes, compression: int = ZIP_DEFLATED) -> bytes:
    """An archive whose member `images` has this content."""
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", content)
    return buffer.getvalue()


def _flipped(content: bytes) -> bytes:
    """The same archive with some bits of its pixels flipped."""
    start = len(content) // 2
    return content[:start] + bytes(byte ^ 0xFF for byte in content[start : start + 50]) + content[start + 50 :]


def _with_header(content: bytes, offset: int, value: int) -> bytes:
    """The same archive with a byte changed in the local and in the central header."""
    changed = bytearray(content)
    changed[offset] = value
    changed[content.index(b"PK\x01\x02") + offset + 2] = value
    return bytes(changed)


_PIXELS = _npy(grey(shape=(50, 28, 28)) % 16)
_WHOLE = _npz(_PIXELS)
_NO_ARCHIVE = " cannot be read as an .npz file"
DAMAGED = {
    "empty": (b"", ""),
    "random bytes": (np.random.default_rng(0).bytes(2000), ""),
    **{f"cut at {part}": (_WHOLE[: int(part * len(_WHOLE))], _NO_ARCHIVE) for part in (0.05, 0.5, 0.99)},
    "flipped bits": (_flipped(_npz(_PIXELS, ZIP_STORED)), ""),
    "flipped compressed bits": (_flipped(_WHOLE), ""),
    "encrypted": (_with_header(_WHOLE, 6, 1), ""),
    "unknown compression": (_with_header(_WHOLE, 8, 99), ""),
    "no array": (_npz(b"no array"), ""),
    "too few pixels": (_npz(_PIXELS[:-9]), ""),
    "more pixels than memory": (_npz(_endless_npy()), ""),
    "a single array": (_npy(grey()), " holds a single array"),
    "a folder": (Path.mkdir, _NO_ARCHIVE),
    "nothing": (lambda path: None, " does not exist; expected an .npz file with an array 'images'"),
}


def test_a_file_of_another_kind_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(UserError, match=r"none\.npy does not exist\.$"):
        NPZSource(tmp_path / "none.npy").train()


@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_whole_archive_is_refused(path, content: bytes | Callable[[Path], None], reason: str):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    assert f"data.path={path}{reason}" in refusal(NPZSource(str(path)).train)


class _Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self):
        return Path.touch, (self._trace,)


def test_pickles_are_refused_and_never_loaded_and_those_of_other_names_left_alone(npz, path, tmp_path):
    trace = tmp_path / "trace"
    bombs = np.array([_Bomb(trace)] + (COUNT - 1) * [None], dtype=object)
    for arrays in ({"images": bombs}, {"images": grey(), "labels": bombs}):
        message = refusal(npz(**arrays).train)
        assert f"data.path={path} cannot be read" in message
        assert "pickled objects, which are never loaded" in message
    assert len(npz(images=grey(), notes=bombs).train()) == COUNT
    content = pickle.dumps({"images": _Bomb(trace)})
    path.write_bytes(content)
    message = refusal(NPZSource(str(path)).train)
    assert f"data.path={path} cannot be read" in message
    assert "allow_pickle" not in message
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()


# --- what is refused: arrays that are no images, or no labels


def _with(value: float) -> np.ndarray:
    pixels = grey(np.float32)
    pixels[1, 2, 3] = value
    return pixels


_UNKNOWN_TYPE = "; expected uint8, bool, or float"
_LABEL_EACH = "expected one label for each image, [5]"
REFUSED_IMAGES = {
    "NaN": (_with(np.nan), "NaN or infinite"),
    "infinite": (_with(np.inf), "NaN or infinite"),
    "minus infinite": (_with(-np.inf), "NaN or infinite"),
    "above one": (_with(1.5), "to 1.5; expected float in [0, 1]"),
    "below zero": (_with(-0.25), "from -0.25 to"),
    "floats up to 255": (grey().astype(np.float32), "uint8 from 0 to 255"),
    "int64": (grey().astype(np.int64), f"of type int64{_UNKNOWN_TYPE}"),
    "complex": (grey(np.complex64), "of type complex64; expected real numbers"),
    "text": (np.full((COUNT, HEIGHT, WIDTH), "a"), "of type <U1; expected real numbers"),
    "no images": (grey(shape=(0, HEIGHT, WIDTH)), f"shape [0, {HEIGHT}, {WIDTH}], which holds no pixels"),
    "no pixels": (grey(shape=(COUNT, HEIGHT, 0)), f"shape [{COUNT}, {HEIGHT}, 0], which holds no pixels"),
    "a number": (np.float32(0.5), "shape []"),
    "two axes": (grey(shape=(COUNT, HEIGHT)), f"shape [{COUNT}, {HEIGHT}]; expected [N, H, W]"),
    "five axes": (grey(shape=(COUNT, 1, 2, 3, 4)), f"shape [{COUNT}, 1, 2, 3, 4]; expected [N, H, W]"),
    "four axes, none a colour": (grey(shape=(COUNT, 2, 6, 7)), f"shape [{COUNT}, 2, 6, 7]; expected [N, H, W]"),
    "both ways": (grey(shape=(COUNT, 3, 6, 3)), "set data.layout=NCHW or data.layout=NHWC"),
}
REFUSED_LABELS = {
    "too few": (np.arange(4), f"shape [4]; {_LABEL_EACH}"),
    "too many": (np.arange(6), f"shape [6]; {_LABEL_EACH}"),
    "one-hot": (np.eye(5, dtype=np.int64), f"shape [5, 5]; {_LABEL_EACH}"),
    "a number": (np.int64(1), "shape []"),
    "float": (np.arange(5.0), "of type float64; expected integers"),
    "bool": (np.ones(5, dtype=bool), "of type bool; expected integers"),
    "text": (np.full(5, "a"), "of type <U1; expected real numbers"),
    "beyond int64": (np.full(5, 2**63, dtype=np.uint64), "holds 9223372036854775808; expected integers from -2"),
}
REFUSED = {f"images, {name}": ("images", *case) for name, case in REFUSED_IMAGES.items()}
REFUSED |= {f"labels, {name}": ("labels", *case) for name, case in REFUSED_LABELS.items()}


@pytest.mark.parametrize(("key", "array", "reason"), REFUSED.values(), ids=REFUSED)
def test_unusable_arrays_are_refused_by_name(npz, path, key: str, array: np.ndarray, reason: str):
    for prefix in ("", "test_"):
        source = npz(**{f"{prefix}{name}": value for name, value in ({"images": grey()} | {key: array}).items()})
        message = refusal(source.test if prefix else source.train)
        assert f"'{prefix}{key}' in data.path={path}" in message
        assert reason in message


@pytest.mark.parametrize(
    ("layout", "shape"), [("NHW", (5, 1, 6, 7)), ("NCHW", (5, 6, 7)), ("NHWC", (5, 6, 7)), ("NCHW", (5, 6))]
)
def test_images_that_contradict_the_named_layout_are_refused(npz, path, layout, shape):
    message = refusal(npz(layout, images=grey(shape=shape)).train)
    assert f"'images' in data.path={path}" in message
    assert f"shape {list(shape)}, which is not {layout} as data.layout says" in message


# --- arrays by other names, and factors


def dsprites(path: Path, count: int = 20, **changes) -> NPZSource:
    """A file laid out as that of dSprites."""
    rng = np.random.default_rng(0)
    arrays = {
        "imgs": rng.integers(0, 2, (count, HEIGHT, WIDTH), dtype=np.uint8),
        "latents_classes": rng.integers(0, 3, (count, 6)),
        "metadata": np.array({"pickled": "never read"}, dtype=object),
    }
    np.savez(path, **(arrays | changes))
    names = {"images": "imgs", "factors": "latents_classes"}
    return NPZSource(str(path), "NHW", names, max_value=1, test_size=5)


def test_a_file_of_dsprites_is_read_by_its_own_names(path: Path):
    source = dsprites(path)
    train, test = source.train(), source.test()
    assert torch.equal(test.pixels, dsprites(path).test().pixels)
    assert (len(train), len(test)) == (15, 5)
    assert train.is_binary()
    assert train.batch().images.max() == 1
    with np.load(path) as archive:
        both = zip(archive["imgs"], archive["latents_classes"], strict=True)
        rows = {(image.tobytes(), tuple(row)) for image, row in both}
    result = [
        (image.numpy().tobytes(), tuple(row.tolist()))
        for part in (train, test)
        for image, row in zip(part.pixels[:, 0], part.factors, strict=True)
    ]
    assert set(result) == rows
    assert len(result) == len(set(result)) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_classes": np.zeros((20,), dtype=int)}, "expected a row for each image, [20, factors]"),
        ({"latents_classes": np.zeros((20, 2))}, "is of type float64; expected integers"),
        ({"imgs": np.full((20, HEIGHT, WIDTH), 9, dtype=np.uint8)}, "up to 9; data.source.max_value=1 is less"),
        (
            {"imgs": np.zeros((5, HEIGHT, WIDTH), dtype=np.uint8), "latents_classes": np.zeros((5, 2), dtype=int)},
            "leaves none of the 5 images to train on",
        ),
    ],
)
def test_factors_and_whites_that_do_not_fit_are_refused(path: Path, changes, message: str):
    assert message in refusal(dsprites(path, **changes).train)
