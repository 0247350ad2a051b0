"""Image files as arrays of pixels; imported by the processes that decode, so without torch."""

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from vae_exp.errors import Interrupted
from vae_exp.storage.atomic_io import open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")  # other decoders may start programs
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112  # EXIF
_PNG_EXIF = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_GREY_MODES = ("1", "L", "LA", "La")
_WIDE_GREY = "I;16"  # 16 bits, in any byte order
_WITHOUT_RANGE = ("I", "F")

ImageFile = str | bytes  # a path, or the content of a file


@dataclass(frozen=True)
class PixelFormat:
    """What images become.

    Args:
        channels: 1 for grey, 3 for RGB.
        height: Rows of pixels.
        width: Columns of pixels.
        crop: Whether an image of another aspect ratio is cut at two sides, or squeezed.
    """

    channels: int
    height: int
    width: int
    crop: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """`[channels, height, width]`."""
        return self.channels, self.height, self.width


class Header(NamedTuple):
    """What the head of a file says; `problem` is the reason why it cannot be read, else empty."""

    height: int
    width: int
    is_grey: bool
    problem: str = ""


def read_headers(files: Sequence[ImageFile]) -> list[Header]:
    """The size of each image, upright, and whether it is grey."""
    return [_read_header(file) for file in files]


def decode(file: ImageFile, pixel_format: PixelFormat) -> npt.NDArray[np.uint8]:
    """The pixels of an image, `[channels, height, width]`: upright, without transparency, the first of several.

    An image of another size is cut in the middle to the aspect ratio, or not, and resized with antialiasing.

    Raises:
        Exception: of any kind, if the file is damaged.
    """
    size = pixel_format.width, pixel_format.height
    with warnings.catch_warnings(), _open(file) as image:
        warnings.simplefilter("ignore")  # of odd metadata
        image.draft("RGB", (2 * max(size), 2 * max(size)))  # a large JPEG is not decoded in full
        levels = _wide_levels(image)
        upright = ImageOps.exif_transpose(image)
        plain = _convert(upright, "L" if pixel_format.channels == 1 else "RGB", levels)
        if plain.size != size:
            bilinear = Image.Resampling.BILINEAR
            plain = ImageOps.fit(plain, size, bilinear) if pixel_format.crop else plain.resize(size, bilinear)
        return _channels_first(plain)


def to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of an open image, `[channels, height, width]`: one channel where it is grey, else RGB.

    Raises:
        ValueError: if its values have no known range.
    """
    return _channels_first(_convert(image, "L" if _is_grey(image) else "RGB"))


def write_rows(
    target: str, offset: int, first: int, files: Sequence[ImageFile], pixel_format: PixelFormat
) -> list[tuple[int, str]]:
    """Decode images into consecutive rows of a file; a row of an image that cannot be read stays zero.

    Args:
        target: The file.
        offset: Where row 0 begins, in bytes.
        first: The row of the first image.
        files: The images.
        pixel_format: What they become.

    Returns:
        The rows that cannot be read, each with the reason.

    Raises:
        OSError: if the file cannot be written.
    """
    problems = []
    rows = np.zeros((len(files), *pixel_format.shape), dtype=np.uint8)
    for number, file in enumerate(files):
        try:
            rows[number] = decode(file, pixel_format)
        except Interrupted:
            raise
        except Exception as error:  # damaged files raise errors of any kind
            problems.append((first + number, _reason(error)))
    write_at(Path(target), offset + first * rows[0].nbytes, rows)
    return problems


def write_at(target: Path, position: int, rows: npt.NDArray[np.generic]) -> None:
    """Write an array into a file that exists, from a position in bytes on."""
    with target.open("r+b", buffering=0) as file:
        file.seek(position)
        rest = memoryview(rows.tobytes())
        while rest:
            rest = rest[file.write(rest) :]


def _read_header(file: ImageFile) -> Header:
    try:
        with warnings.catch_warnings(), _open(file) as image:
            warnings.simplefilter("ignore")
            _check_mode(image)
            has_exif = image.format != "PNG" or _PNG_EXIF & image.info.keys()  # else it is decoded to look for it
            turned = bool(has_exif) and image.getexif().get(_ORIENTATION, 1) >= 5
            is_grey = _is_grey(image)
            if turned and image.format == "TIFF":  # some versions of Pillow give its size upright
                width, height = ImageOps.exif_transpose(image).size
            else:
                width, height = reversed(image.size) if turned else image.size
            return Header(height, width, is_grey)
    except Interrupted:
        raise
    except Exception as error:  # damaged files raise errors of any kind
        return Header(0, 0, False, _reason(error))


@contextmanager
def _open(file: ImageFile) -> Iterator[Image.Image]:
    with (
        BytesIO(file) if isinstance(file, bytes) else open_regular(Path(file)) as stream,
        Image.open(stream, formats=FORMATS) as image,
    ):
        yield image


def _check_mode(image: Image.Image) -> None:
    if image.mode in _WITHOUT_RANGE:
        raise ValueError("its values have 32 bits and no known range; save such images as arrays, data=arrays")


def _wide_levels(image: Image.Image) -> tuple[int, int]:
    """The numbers of black and white in an image of more than 8 bits: a TIFF may have 12, and white first."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))
    white = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    return (white, 0) if tags.get(_PHOTOMETRIC) == 0 else (0, white)


def _convert(image: Image.Image, mode: str, levels: tuple[int, int] | None = None) -> Image.Image:
    _check_mode(image)
    if image.mode.startswith(_WIDE_GREY):
        black, white = levels or _wide_levels(image)
        most = abs(white - black)
        grey = np.abs(np.asarray(image).astype(np.int64) - black).clip(max=most)
        image = Image.fromarray(((2 * 255 * grey + most) // (2 * most)).astype(np.uint8))  # rounded
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY_MODES or image.mode.startswith(_WIDE_GREY)


def _channels_first(image: Image.Image) -> npt.NDArray[np.uint8]:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no PNG, JPEG, WebP or TIFF image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def ignore_interrupts() -> None:
    """Prepare a process that decodes: Ctrl-C reaches all processes, and the main one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
