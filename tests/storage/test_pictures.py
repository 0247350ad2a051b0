from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vae_exp.storage.pictures import DPI, draw_text, write_png


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_an_image_is_written_whole_with_a_line_below(mode):
    image = Image.effect_noise((300, 100), 50).convert(mode)
    file = BytesIO()
    write_png(image, "val images, epoch 3 (best)", file)
    written = Image.open(file)
    assert written.format == "PNG"
    assert written.mode == mode
    assert written.crop((0, 0, 300, 100)).tobytes() == image.tobytes()
    foot = np.asarray(written.convert("L"))[100:]
    assert foot.shape == (22, 300)
    assert 0x73 <= foot.min() < 200
    ink = np.flatnonzero((foot < 255).any(axis=0))
    assert 100 < ink[0] < ink[-1] < 300


def test_a_figure_is_written_with_a_line_below():
    figure, file = Figure(figsize=(2, 1), dpi=160), BytesIO()  # 1.15 · 160 is whole, also as floats
    write_png(figure, "val images, epoch 3 (best)", file)
    pixels = np.asarray(Image.open(file).convert("L"))
    assert pixels.shape == (184, 320)
    assert (pixels[:160] == 255).all()
    assert pixels[160:].min() < 200
    assert not figure.texts


def test_text_stands_at_its_point_in_its_size():
    """A capital of DejaVu Sans is 0.729 of the size high."""
    image = Image.new("L", (2 * DPI, DPI), "white")
    draw_text(image, 1, 0.5, "H", 72 * 0.4)
    rows, columns = (np.flatnonzero((np.asarray(image) < 128).any(axis=axis)) for axis in (1, 0))
    assert rows[-1] + 1 == pytest.approx(DPI / 2, abs=1)
    assert len(rows) == pytest.approx(0.729 * 0.4 * DPI, abs=1)
    assert columns.mean() == pytest.approx(DPI, abs=1)
