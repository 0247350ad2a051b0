from io import BytesIO
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from PIL import Image

from vae_exp.data.image_decoding import Header, PixelFormat, decode, read_headers, write_rows

HEIGHT, WIDTH = 12, 20


def photo(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def as_it_is(channels: int = 3) -> PixelFormat:
    return PixelFormat(channels, HEIGHT, WIDTH, crop=True)


def content(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_give_the_pixels_that_were_written(kind: str, options: dict, tmp_path: Path):
    pixels = photo()
    path = tmp_path / "photo"
    path.write_bytes(content(Image.fromarray(pixels), kind, **options))
    for file in (str(path), path.read_bytes()):
        assert np.array_equal(decode(file, as_it_is()), pixels.transpose(2, 0, 1))
        assert read_headers([file]) == [Header(HEIGHT, WIDTH, is_grey=False)]


def test_jpeg_is_near_what_was_written_and_large_ones_are_reduced_while_decoding():
    ramp = np.linspace(0, 255, 640)[None, :, None] * np.ones((480, 1, 3))
    file = content(Image.fromarray(ramp.astype(np.uint8)), "JPEG", quality=95)
    assert np.abs(decode(file, PixelFormat(3, 480, 640, crop=True)) - ramp.transpose(2, 0, 1)).max() < 4
    small = decode(file, PixelFormat(1, 12, 16, crop=True))
    assert np.abs(small[0] - (np.arange(16) + 0.5) * 640 / 16 * 255 / 640).max() < 4


def test_reducing_a_large_jpeg_while_decoding_changes_nothing_that_can_be_seen():
    stripes = np.arange(512) // 8 % 2 * 255
    pixels = np.broadcast_to(stripes[None, :, None], (512, 512, 3)).astype(np.uint8)
    file = content(Image.fromarray(pixels), "JPEG", quality=95)
    whole = Image.open(BytesIO(file)).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    difference = decode(file, PixelFormat(3, 64, 64, crop=True)) - np.asarray(whole, float).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 2


def test_grey_and_colour():
    grey = photo(1)[:, :, 0]
    file = content(Image.fromarray(grey))
    assert read_headers([file])[0].is_grey
    assert np.array_equal(decode(file, as_it_is(1))[0], grey)
    assert np.array_equal(decode(file, as_it_is(3)), np.stack([grey] * 3))
    colour = photo()
    luminance = colour @ [0.299, 0.587, 0.114]
    assert np.abs(decode(content(Image.fromarray(colour)), as_it_is(1))[0] - luminance).max() <= 1


def test_transparency_palettes_and_single_bits():
    pixels = photo(4)
    assert np.array_equal(
        decode(content(Image.fromarray(pixels)), as_it_is()), pixels[:, :, :3].transpose(2, 0, 1)
    )
    palette = Image.fromarray(photo()).quantize(16)
    palette.info["transparency"] = bytes(range(16))
    expected = np.asarray(palette.convert("RGBA"))[:, :, :3].transpose(2, 0, 1)
    assert np.array_equal(decode(content(palette), as_it_is()), expected)
    bits = photo(1)[:, :, 0] > 127
    assert np.array_equal(decode(content(Image.fromarray(bits)), as_it_is(1))[0], bits * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str):
    wide = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH)).astype(np.uint16)
    wide[0, :2] = 0, 2**16 - 1
    file = content(Image.fromarray(wide), kind)
    assert read_headers([file])[0].is_grey
    assert np.abs(decode(file, as_it_is(1))[0] - wide / 257).max() <= 0.5


def tiff(grey: np.ndarray, bits: int, photometric: int) -> bytes:
    """An uncompressed file of one strip, by the tables of TIFF 6.0."""
    values = grey.flatten().tolist()
    if bits == 12:
        pairs = zip(values[::2], values[1::2], strict=True)
        data = b"".join(((first << 12) + second).to_bytes(3, "big") for first, second in pairs)
    else:
        data = grey.astype("<u2").tobytes()
    height, width = grey.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    entries = b"".join(pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return pack("<2sHI", b"II", 42, 8 + len(data)) + data + pack("<H", len(tags)) + entries + pack("<I", 0)


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 1), (16, 0)])
def test_the_levels_of_a_tiff_are_those_that_it_says(bits: int, photometric: int):
    """White may be 4095, or 0."""
    most = 2**bits - 1
    grey = np.linspace(0, most, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = grey if photometric else most - grey
    assert np.abs(decode(tiff(grey, bits, photometric), as_it_is(1))[0] - expected / most * 255).max() <= 0.5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_images_are_turned_upright(kind: str):
    pixels = photo()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    file = content(Image.fromarray(pixels), kind, exif=exif.tobytes())
    assert read_headers([file]) == [Header(WIDTH, HEIGHT, is_grey=False)]
    upright = decode(file, PixelFormat(3, WIDTH, HEIGHT, crop=True))
    if kind in ("PNG", "TIFF"):  # without loss
        assert np.array_equal(upright, np.rot90(pixels, -1).transpose(2, 0, 1))


def test_crop_takes_the_middle_and_resize_takes_all():
    pixels = photo()
    file = content(Image.fromarray(pixels))
    square = decode(file, PixelFormat(3, HEIGHT, HEIGHT, crop=True))
    assert np.array_equal(square, pixels[:, 4:16].transpose(2, 0, 1))
    halves = np.repeat(np.repeat(photo()[:4, :6], 2, axis=0), 2, axis=1)  # blocks of 2 × 2 equal pixels
    squeezed = decode(content(Image.fromarray(halves)), PixelFormat(3, 8, 6, crop=False))
    assert squeezed.shape == (3, 8, 6)
    assert np.abs(squeezed.mean(axis=(1, 2)) - halves.mean(axis=(0, 1))).max() < 4


def damaged() -> list[bytes]:
    whole = content(Image.fromarray(photo()))
    floats = content(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF")
    bitmap = content(Image.fromarray(photo()), "BMP")
    return [whole[: len(whole) // 2], b"no image", b"", whole[:8] + whole[12:], floats, bitmap]


def test_rows_of_a_file_are_written_and_those_that_cannot_be_read_are_named(tmp_path: Path):
    pixels, target = photo(), tmp_path / "rows"
    target.write_bytes(bytes(7 + 9 * pixels.nbytes))
    files = [content(Image.fromarray(pixels)), *damaged(), content(Image.fromarray(pixels))]
    problems = write_rows(str(target), 7, 1, files, as_it_is())
    assert [row for row, _ in problems] == [2, 3, 4, 5, 6, 7]
    assert all(reason for _, reason in problems)
    assert "data=arrays" in problems[4][1]
    rows = np.frombuffer(target.read_bytes()[7:], dtype=np.uint8).reshape(9, 3, HEIGHT, WIDTH)
    for row in (1, 8):
        assert np.array_equal(rows[row], pixels.transpose(2, 0, 1))
    assert not rows[[0, *range(2, 8)]].any()
