"""PNG files of pictures, with a line below that says what they show; text on Pillow images."""

from functools import cache
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

DPI = 150
_PNG_OPTIONS = {"compress_level": 1}
_FOOT_INCHES = 0.15
_FOOT_SIZE = 6  # points
_FOOT_COLOUR = "#737373"


def write_png(picture: Any, foot: str, file: IO[bytes]) -> None:
    """Write a picture as a PNG file, and clear it if it is a figure.

    Args:
        picture: A Pillow image, a matplotlib figure, or an object that has `savefig` and `clear`.
        foot: What it shows; written below Pillow images and matplotlib figures.
        file: Where it goes.
    """
    if isinstance(picture, Image.Image):
        _with_foot(picture, foot).save(file, "png", dpi=(DPI, DPI), **_PNG_OPTIONS)
        return
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    options: dict[str, Any] = {}
    if isinstance(picture, Figure):
        width, height = picture.get_size_inches()
        style: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": _FOOT_SIZE, "color": _FOOT_COLOUR}
        picture.text(1 - _FOOT_INCHES / 3 / width, 0, foot, **style)
        options["bbox_inches"] = Bbox.from_extents(0, -_FOOT_INCHES, width, height)
    picture.savefig(file, format="png", pil_kwargs=_PNG_OPTIONS, **options)
    picture.clear()  # a figure and its parts refer to one another: without this a sweep grows


def _with_foot(image: Image.Image, foot: str) -> Image.Image:
    extended = ImageOps.expand(image, (0, 0, 0, round(_FOOT_INCHES * DPI)), "white")
    right, below = image.width / DPI - _FOOT_INCHES / 3, image.height / DPI + 0.85 * _FOOT_SIZE / 72
    draw_text(extended, right, below, foot, _FOOT_SIZE, anchor="rs", colour=_FOOT_COLOUR)
    return extended


def draw_text(
    image: Image.Image, x: float, y: float, text: str, size: float, anchor: str = "ms", colour: str = "black"
) -> None:
    """Draw a line of text in the font of matplotlib.

    Args:
        image: What it is drawn on.
        x: Inches from the left.
        y: Inches from the top.
        text: The line.
        size: Points.
        anchor: Pillow's name of the point of the text that is there; by default the middle of the baseline.
        colour: Of the letters.
    """
    ImageDraw.Draw(image).text((round(x * DPI), round(y * DPI)), text, colour, _font(size), anchor)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size * DPI / 72, layout_engine=ImageFont.Layout.BASIC)
