"""Images in rows → one picture; by Pillow, which takes a fifth of the time of matplotlib."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vae_exp.storage.pictures import DPI, draw_text

Array = npt.NDArray[Any]
_INCHES_PER_IMAGE = 0.6
_INCHES_PER_TILE = 0.3  # of a seamless grid
_MIN_WIDTH = 3.2
_MAX_INCHES = 60.0  # of a side of a grid; larger ones are shown smaller
_TITLE_SIZE = 10  # points
_FOOTER_SIZE = 8
_ROW_LABEL_SIZE = 8
_LINE = 1.2 / 72  # inches from line to line, for each point of the size
_LETTER_WIDTH = 0.56  # of an average letter, as a share of its size


def plot_image_grid(
    images: Array, title: str, row_labels: Sequence[str] = (), gap: int = 1, footer: str = ""
) -> Image.Image:
    """Images laid out in rows, pixels crisp.

    Args:
        images: `[rows, columns, channels, height, width]` in [0, 1].
        title: Above the grid.
        row_labels: Left of the rows; none, or one for each row.
        gap: Pixels of background between images; 0 for a seamless manifold.
        footer: Below the grid.
    """
    rows = len(images)
    canvas = _tiled(images, gap)
    inches = rows * (_INCHES_PER_IMAGE if gap else _INCHES_PER_TILE) / canvas.shape[0]  # per pixel of an image
    inches = min(inches, _MAX_INCHES / max(canvas.shape[:2]))
    height, width = canvas.shape[0] * inches, canvas.shape[1] * inches
    left = 0.1 + 0.075 * max((len(label) for label in row_labels), default=0)
    margin = max(0.1, (_MIN_WIDTH - width) / 2 - left + 0.1)
    room = width + 2 * min(left + margin - 0.1, margin)  # text is centred on the grid
    title, footer = _wrapped(title, room, _TITLE_SIZE), _wrapped(footer, room, _FOOTER_SIZE)
    below = 0.1 + 0.07 * bool(footer) + _text_height(footer, _FOOTER_SIZE)
    above = 0.18 + _text_height(title, _TITLE_SIZE)
    whole = (int((left + width + 2 * margin - 0.1) * DPI), int((below + height + above) * DPI))
    picture = Image.new("L" if canvas.ndim == 2 else "RGB", whole, "white")
    left += margin - 0.1
    pixels = _enlarged(canvas, round(height * DPI), round(width * DPI))
    picture.paste(Image.fromarray(pixels), (round(left * DPI), round(above * DPI)))
    for line, text in enumerate(reversed(title.splitlines())):
        draw_text(picture, left + width / 2, above - 6 / 72 - line * _LINE * _TITLE_SIZE, text, _TITLE_SIZE)
    for line, text in enumerate(footer.splitlines()):
        baseline = above + height + 4 / 72 + (0.63 + line) * _LINE * _FOOTER_SIZE
        draw_text(picture, left + width / 2, baseline, text, _FOOTER_SIZE)
    for row, text in enumerate(row_labels):
        middle = (row * (images.shape[3] + gap) + images.shape[3] / 2) * inches
        draw_text(picture, left - 3.5 / 72, above + middle, text, _ROW_LABEL_SIZE, anchor="rm")
    return picture


def _enlarged(canvas: Array, height: int, width: int) -> Array:
    """Each pixel the nearest one of `[H, W]` or `[H, W, 3]` in [0, 1], as bytes; what is no number is white."""
    levels = np.nan_to_num(255 * canvas, nan=255).round().clip(0, 255).astype(np.uint8)
    rows = np.arange(height) * canvas.shape[0] // height
    columns = np.arange(width) * canvas.shape[1] // width
    enlarged: Array = levels[:, columns][rows]
    return enlarged


def _wrapped(text: str, inches: float, size: int) -> str:
    """A text in lines that fit into a width."""
    return "\n".join(wrap(text, max(1, int(inches * 72 / (size * _LETTER_WIDTH)))))


def _text_height(text: str, size: int) -> float:
    """Inches."""
    return len(text.splitlines()) * size * _LINE


def _tiled(images: Array, gap: int) -> Array:
    """`[rows, columns, channels, height, width]` → `[H, W, 3]` for three channels, else their mean `[H, W]`."""
    rows, columns, channels, height, width = images.shape
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            canvas[top : top + height, left : left + width] = images[row, column].transpose(1, 2, 0)
    return canvas if channels == 3 else canvas.mean(axis=2)
