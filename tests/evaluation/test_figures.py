from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from tests.model.test_conditional import conditional_vae, labelled
from vae_exp.data.images import ImageSet
from vae_exp.evaluation import plotting
from vae_exp.evaluation.figures import FiguresEvaluator, draw_figures
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE


def vae(latent_dim: int, shape: tuple[int, int, int]) -> VAE:
    torch.manual_seed(0)
    return VAE(
        MLPEncoder(shape, latent_dim, [8], "relu"),
        MLPDecoder(shape, latent_dim, [8], "relu"),
        StandardNormalPrior(latent_dim),
    ).eval()


@pytest.mark.parametrize("latent_dim", [1, 2, 5, 40])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 9)])
@pytest.mark.parametrize("count", [1, 3, 50])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_model_and_any_number_of_images_is_drawn(latent_dim, shape, count, labelled, generator):
    pixels = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(count) % 12 if labelled else None, 255)
    pictures = {each.name: each for each in draw_figures(vae(latent_dim, shape), images, generator, 4, 3)}
    space = "manifold" if latent_dim == 2 else "traversals"
    assert set(pictures) == {"reconstructions", "samples", space, "interpolations", "latent_scatter"}
    for picture in pictures.values():
        arrays = BytesIO()
        picture.write_npz(arrays)
        arrays.seek(0)
        with np.load(arrays, allow_pickle=False) as stored:
            assert set(stored) == set(picture.arrays)
            assert all(np.isfinite(stored[name]).all() for name in stored)


def test_a_picture_is_a_png_with_both_original_and_reconstruction(generator):
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), None, 1)
    picture = next(draw_figures(vae(2, (1, 8, 8)), images, generator, 4, 3))
    file = BytesIO()
    picture.figure.savefig(file, format="png")
    file.seek(0)
    assert imread(file, format="png").ndim == 3
    torch.testing.assert_close(picture.arrays["originals"], images.batch().images)


def test_a_grid_places_images_by_row_and_column():
    images = np.zeros((2, 3, 1, 4, 5))
    images[1, 2] = 0.5
    canvas = plotting._tiled(images, gap=1)
    assert canvas.shape == (2 * 5 - 1, 3 * 6 - 1)
    assert (canvas[5:9, 12:17] == 0.5).all()
    assert (canvas == 0.5).sum() == 20


@pytest.mark.parametrize("columns", [2, 5, 10])
@pytest.mark.parametrize("row_labels", [(), ["original", "reconstruction"]])
def test_title_and_footer_lie_inside_the_figure(columns, row_labels):
    title, footer = (
        "Originals and their reconstructions from E[z|x]",
        "other units at E[z|x] of one image; class 3",
    )
    figure = plotting.plot_image_grid(np.zeros((2, columns, 1, 8, 8)), title, row_labels, footer=footer)
    FigureCanvasAgg(figure).draw()
    for text in (figure.axes[0].title, figure.axes[0].xaxis.label):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height


def test_the_legend_of_the_latent_space_has_the_names_of_classes(generator):
    names = ("circle", "_square", "$x", "a name that is longer than a legend")
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), torch.arange(8) % 4, 1, classes=names)
    *_, scatter = draw_figures(vae(2, (1, 8, 8)), images, generator, 4, 3)
    legend = scatter.figure.axes[0].get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["circle", " _square", r"\$x", "a name that is longer t…"]


@pytest.mark.parametrize("shape", [(1, 1, 100_000), (1, 100_000, 1)])
def test_a_figure_of_very_wide_or_high_images_is_of_a_bounded_size(shape):
    figure = plotting.plot_image_grid(np.zeros((8, 8, *shape)), "title")
    assert max(figure.get_size_inches()) < 61
    file = BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    assert max(imread(file, format="png").shape) < 61 * figure.dpi


def test_the_evaluator_yields_the_same_pictures(generator):
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), None, 1)
    figures = dict(FiguresEvaluator(4, 3, every_n_epochs=None).run(vae(2, (1, 8, 8)), images, generator))
    assert list(figures) == ["reconstructions", "samples", "manifold", "interpolations", "latent_scatter"]


def test_images_in_the_order_of_their_classes_are_all_shown(generator):
    """As those of a folder are: ten classes of 40 images, whose number is their pixel."""
    classes = torch.arange(400) // 40
    images = ImageSet(classes.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous(), classes)
    figures = {each.name: each.arrays for each in draw_figures(vae(2, (1, 2, 3)), images, generator, 10, 3)}
    for name, array, least in (("reconstructions", "originals", 10), ("interpolations", "first", 4)):
        assert len(figures[name][array].flatten(1)[:, 0].unique()) >= least
    assert len(figures["reconstructions"]["originals"]) == 40


def test_pictures_of_a_class_conditional_model_say_which_class_they_show(generator):
    images = labelled()
    pictures = {each.name: each for each in draw_figures(conditional_vae().eval(), images, generator, 4, 3)}
    footers = {name: each.figure.axes[0].get_xlabel() for name, each in pictures.items()}
    assert footers["samples"] == "classes 0 to 3 in turn"
    assert images.labels is not None
    assert footers["manifold"].endswith(f"; class {images.labels[0]}")
    plain = {each.name: each for each in draw_figures(vae(2, (1, 2, 3)), images, generator, 4, 3)}
    assert plain["samples"].figure.axes[0].get_xlabel() == ""
    assert "class" not in plain["manifold"].figure.axes[0].get_xlabel()


@pytest.mark.parametrize(("columns", "side"), [(1, 3), (101, 3), (4, 1), (4, 101)])
def test_a_grid_that_no_page_shows_is_refused(columns: int, side: int):
    with pytest.raises(ValueError, match="must be"):
        FiguresEvaluator(columns, side, every_n_epochs=None)
