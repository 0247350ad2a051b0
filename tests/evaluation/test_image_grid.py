from io import BytesIO

import numpy as np
import pytest

from vae_exp.evaluation.image_grid import _enlarged, _tiled, plot_image_grid
from vae_exp.storage.pictures import DPI, write_png


def test_a_grid_places_images_by_row_and_column():
    images = np.zeros((2, 3, 1, 4, 5))
    images[1, 2] = 0.5
    canvas = _tiled(images, gap=1)
    assert canvas.shape == (2 * 5 - 1, 3 * 6 - 1)
    assert (canvas[5:9, 12:17] == 0.5).all()
    assert (canvas == 0.5).sum() == 20


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_pixels_are_enlarged_without_interpolation(shape):
    levels = np.random.default_rng(0).integers(0, 256, shape)
    blocks = np.ones((3, 2, 1)[: len(shape)], int)
    np.testing.assert_array_equal(_enlarged(levels / 255, 12, 10), np.kron(levels, blocks))


def test_values_outside_the_range_of_pixels_are_clipped_and_what_is_no_number_is_white():
    canvas = np.array([[-0.5, 0.0, 1.0, 7.0, np.inf, np.nan]])
    assert _enlarged(canvas, 1, 6).tolist() == [[0, 0, 255, 255, 255, 255]]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB")])
@pytest.mark.parametrize("gap", [0, 1])
def test_the_picture_has_every_image_in_its_place(channels, mode, gap):
    levels = np.arange(6).reshape(2, 3) * 40
    images = np.broadcast_to(levels[..., None, None, None] / 255, (2, 3, channels, 20, 20))
    picture = plot_image_grid(images, "", gap=gap)
    assert picture.mode == mode
    pixels = np.asarray(picture.convert("L"))
    rows, columns = (np.flatnonzero((pixels < 255).any(axis=axis)) for axis in (1, 0))
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    centres = pixels[np.ix_(top + height * np.array([1, 3]) // 4, left + width * np.array([1, 3, 5]) // 6)]
    np.testing.assert_array_equal(centres, levels)


@pytest.mark.parametrize("columns", [1, 2, 5, 10])
@pytest.mark.parametrize("row_labels", [(), ["original", "reconstruction"]])
def test_title_and_footer_lie_inside_the_picture(columns, row_labels):
    title, footer = (
        "Originals and their reconstructions from E[z|x]",
        "other units at E[z|x] of one image; class 3",
    )
    grey = np.full((2, columns, 1, 8, 8), 0.9)
    pixels = np.asarray(plot_image_grid(grey, title, row_labels, footer=footer))
    above, below = np.flatnonzero((pixels < 30).any(axis=1))[[0, -1]]
    grid = np.flatnonzero((pixels == round(0.9 * 255)).sum(axis=1) > columns * 50)
    assert above < grid[0] - 10
    assert below > grid[-1] + 10
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


@pytest.mark.parametrize("shape", [(1, 1, 100_000), (1, 100_000, 1)])
def test_a_picture_of_very_wide_or_high_images_is_of_a_bounded_size(shape):
    picture = plot_image_grid(np.zeros((8, 8, *shape)), "title")
    assert max(picture.size) < 61 * DPI
    write_png(picture, "foot", BytesIO())
