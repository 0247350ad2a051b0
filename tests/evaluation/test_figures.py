from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests.model.test_conditional import conditional_vae, labelled
from vae_exp.data.images import ImageSet
from vae_exp.evaluation import figures
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


@pytest.mark.quick(24)
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


def test_reconstructions_stand_below_their_originals(generator, monkeypatch):
    grids = []
    monkeypatch.setattr(figures, "plot_image_grid", lambda rows, _, row_labels: grids.append((rows, row_labels)))
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), None, 1)
    model = vae(2, (1, 8, 8))
    picture = next(draw_figures(model, images, generator, 4, 3))
    originals = images.batch().images
    torch.testing.assert_close(picture.arrays["originals"], originals)
    [(rows, labels)] = grids
    assert labels == ["original", "reconstruction"] * 2
    for row, images_of_row in enumerate((originals[:4], model.reconstruct(originals[:4]), originals[4:])):
        np.testing.assert_allclose(rows[row], images_of_row.detach(), rtol=1e-5)


def test_the_legend_of_the_latent_space_has_the_names_of_classes(generator):
    names = ("circle", "_square", "$x", "a name that is longer than a legend")
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), torch.arange(8) % 4, 1, classes=names)
    *_, scatter = draw_figures(vae(2, (1, 8, 8)), images, generator, 4, 3)
    assert isinstance(scatter.figure, Figure)
    legend = scatter.figure.axes[0].get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["circle", " _square", r"\$x", "a name that is longer t…"]


def test_the_evaluator_yields_the_same_pictures(generator):
    images = ImageSet(torch.rand(8, 1, 8, 8, generator=generator), None, 1)
    pictures = dict(FiguresEvaluator(4, 3, every_n_epochs=None).run(vae(2, (1, 8, 8)), images, generator))
    assert list(pictures) == ["reconstructions", "samples", "manifold", "interpolations", "latent_scatter"]


def test_images_in_the_order_of_their_classes_are_all_shown(generator):
    """As those of a folder are: ten classes of 40 images, whose number is their pixel."""
    classes = torch.arange(400) // 40
    images = ImageSet(classes.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 3).contiguous(), classes)
    arrays = {each.name: each.arrays for each in draw_figures(vae(2, (1, 2, 3)), images, generator, 10, 3)}
    for name, array, least in (("reconstructions", "originals", 10), ("interpolations", "first", 4)):
        assert len(arrays[name][array].flatten(1)[:, 0].unique()) >= least
    assert len(arrays["reconstructions"]["originals"]) == 40


def test_pictures_of_a_class_conditional_model_say_which_class_they_show(generator, monkeypatch):
    footers: list[str] = []

    def plot(rows: object, title: str, *, footer: str = "", **_: object) -> None:
        footers.append(footer)

    monkeypatch.setattr(figures, "plot_image_grid", plot)
    images = labelled()
    assert images.labels is not None
    list(draw_figures(conditional_vae().eval(), images, generator, 4, 3))
    assert footers[1] == "classes 0 to 3 in turn"
    assert footers[2].endswith(f"; class {images.labels[0]}")
    footers.clear()
    list(draw_figures(vae(2, (1, 2, 3)), images, generator, 4, 3))
    assert footers[1] == ""
    assert "class" not in footers[2]


@pytest.mark.parametrize(("columns", "side"), [(1, 3), (101, 3), (4, 1), (4, 101)])
def test_a_grid_that_no_page_shows_is_refused(columns: int, side: int):
    with pytest.raises(ValueError, match="must be"):
        FiguresEvaluator(columns, side, every_n_epochs=None)
