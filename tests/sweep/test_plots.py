from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.sweep.sweeps import make_job, make_sweep
from vae_exp.errors import UserError
from vae_exp.sweep.aggregate import Others, SeedGroup, default_keys, group_seeds
from vae_exp.sweep.job_records import read_jobs
from vae_exp.sweep.plots import ParameterAxis, curve, draw, heat_map, rate_distortion


def _groups(folder: Path):
    jobs = read_jobs(make_sweep(folder))
    return group_seeds(jobs, default_keys(jobs))


def test_every_figure_is_written_as_png_and_svg(tmp_path: Path):
    written = draw(read_jobs(make_sweep(tmp_path / "s")), None, tmp_path / "plots")
    names = {path.stem for path in written}
    assert names == {
        "val-elbo-against-model.latent_dim",
        "val-elbo-against-model.hidden_dims",
        "val-elbo-over-model.latent_dim-model.hidden_dims",
        "val-rate-distortion",
    }
    assert len(written) == 8
    for path in written:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path)).std() > 1
        else:
            assert path.read_text().rstrip().endswith("</svg>")


def test_a_curve_has_the_means_in_the_order_of_the_numbers(tmp_path: Path):
    groups = _groups(tmp_path)
    [axes] = curve(groups, "val/elbo", "model.latent_dim").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "8", "16"]
    *lines, whole = axes.lines
    assert len(lines) == 2
    np.testing.assert_allclose(whole.get_ydata(), np.mean([line.get_ydata() for line in lines], axis=0))
    caption = "mean over 2 seeds; bands: standard errors over seeds; dotted: mean over model.hidden_dims"
    assert " ".join(axes.get_title().split()) == caption
    for line in lines:
        width = line.get_label().partition("=")[2]
        expected = {
            float(group.keys["model.latent_dim"]): group.metrics["val/elbo"].mean
            for group in groups
            if group.keys["model.hidden_dims"] == width
        }
        assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == expected


def test_one_key_is_one_line_with_a_band_of_standard_errors(tmp_path: Path):
    values = {2: (-30.0, -31.0, -33.5), 8: (-20.0, -22.0, -21.0), 32: (-21.0, -25.0, -23.0)}
    for latent, elbos in values.items():
        for seed, elbo in enumerate(elbos):
            make_job(tmp_path, [f"model.latent_dim={latent}", f"seed={seed}"], val__elbo=elbo)
    jobs = read_jobs(tmp_path)
    [axes] = curve(group_seeds(jobs, default_keys(jobs)), "val/elbo", "model.latent_dim").axes
    [line], [band] = axes.lines, axes.collections
    assert axes.get_ylabel() == "val/elbo (nats/image)"
    np.testing.assert_array_equal(line.get_xdata(), [2, 8, 32])
    means = np.array([np.mean(elbos) for elbos in values.values()])
    errors = np.array([np.std(elbos, ddof=1) / np.sqrt(3) for elbos in values.values()])
    np.testing.assert_allclose(line.get_ydata(), means)
    corners = band.get_paths()[0].vertices
    for x, mean, error in zip(values, means, errors, strict=True):
        heights = corners[corners[:, 0] == x, 1]
        assert [heights.min(), heights.max()] == pytest.approx([mean - error, mean + error])


def test_a_heat_map_has_a_cell_for_every_pair(tmp_path: Path):
    groups = _groups(tmp_path)
    axes = heat_map(groups, "val/elbo", "model.latent_dim", "model.hidden_dims").axes[0]
    cells = axes.images[0].get_array()
    assert cells.shape == (2, 3)
    corner = next(
        group for group in groups if group.keys == {"model.latent_dim": "2", "model.hidden_dims": "[50]"}
    )
    assert cells[0, 0] == corner.metrics["val/elbo"].mean


@pytest.mark.parametrize("others", ["mean", "best"])
def test_a_heat_map_combines_the_other_keys_as_asked_and_says_so(tmp_path: Path, others: Others):
    """Means over seeds first, then the plain mean or the best of them, by a loop over the jobs."""
    jobs = read_jobs(make_sweep(tmp_path))
    settings = [
        replace(group, keys={**group.keys, "loss.beta": "1"}) for group in group_seeds(jobs, default_keys(jobs))
    ]
    axes = heat_map(settings, "val/elbo", "model.latent_dim", "loss.beta", others).axes[0]
    for column, latent in enumerate(("2", "8", "16")):
        means = []
        for width in ("[400]", "[50]"):
            keys = {"model.latent_dim": latent, "model.hidden_dims": width}
            means.append(np.mean([job.metrics["val/elbo"] for job in jobs if keys.items() <= job.keys.items()]))
        expected = np.mean(means) if others == "mean" else max(means)
        assert axes.images[0].get_array()[0, column] == pytest.approx(expected)
    assert axes.get_title() == f"mean over 2 seeds; {others} over model.hidden_dims"


def test_settings_of_a_search_are_points_without_lines(tmp_path: Path):
    """Two of them share the other key by chance."""
    for trial in range(12):
        make_job(tmp_path, [f"a={trial}", f"b={max(trial, 1)}.5"], val__nll=90.0 + trial)
    [axes] = curve(group_seeds(read_jobs(tmp_path), ["a", "b"]), "val/nll", "a").axes
    assert {line.get_linestyle() for line in axes.lines} == {"None"}


def test_a_short_logarithmic_axis_has_plain_numbers_and_no_others(tmp_path: Path):
    for trial in range(12):
        make_job(tmp_path, [f"a={2 + 5 * trial}"], val__nll=90.0 + trial)
    figure = curve(group_seeds(read_jobs(tmp_path), ["a"]), "val/nll", "a")
    figure.draw_without_rendering()
    [axes] = figure.axes
    low, high = axes.get_xlim()
    shown = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert [label.get_text() for label in shown] == ["2", "5", "10", "20", "50"]
    assert not axes.get_xticklabels(minor=True)


def test_settings_in_the_plane_are_named_by_their_keys_in_a_legend(tmp_path: Path):
    groups = _groups(tmp_path)
    figure = rate_distortion(groups, "val/rate", "val/distortion")
    for bar, group in zip(figure.axes[0].containers, groups, strict=True):
        rate, distortion = group.metrics["val/rate"], group.metrics["val/distortion"]
        [[x], [y]] = bar.lines[0].get_data()
        assert (x, y) == (rate.mean, distortion.mean)
        across, up = (np.array(each.get_segments()[0]) for each in bar.lines[2])
        np.testing.assert_allclose(across[:, 0], [x - rate.error, x + rate.error])
        np.testing.assert_allclose(up[:, 1], [y - distortion.error, y + distortion.error])
    [legend] = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {f"latent_dim={n} hidden_dims={w}" for n in (2, 8, 16) for w in ("[50]", "[400]")}
    markers = {(bar.lines[0].get_color(), bar.lines[0].get_marker()) for bar in figure.axes[0].containers}
    assert len(markers) == 6


def test_the_grey_lines_of_the_plane_have_one_elbo_each(tmp_path: Path):
    [axes] = rate_distortion(_groups(tmp_path), "val/rate", "val/distortion").axes
    grey = [line for line in axes.lines if line.get_color() == "0.85"]
    assert len(grey) > 2
    for line in grey:
        sums = line.get_xdata() + line.get_ydata()
        assert sums[0] == pytest.approx(sums[-1])


@pytest.mark.slow
def test_words_can_be_drawn_and_two_keys_of_many_values_have_no_heat_map(tmp_path: Path):
    for name in ("relu", "tanh"):
        make_job(tmp_path / "words", [f"model.activation={name}"], val__nll=90.0)
    written = draw(read_jobs(tmp_path / "words"), "val/nll", tmp_path / "plots")
    assert {path.stem for path in written} == {"val-nll-against-model.activation"}
    for trial in range(12):
        make_job(tmp_path / "s", [f"optimizer.lr={1e-4 * 1.7**trial:.6g}", f"a={trial}"], val__nll=90.0 + trial)
    written = draw(read_jobs(tmp_path / "s"), "val/nll", tmp_path / "plots")
    assert {path.stem for path in written} == {"val-nll-against-optimizer.lr", "val-nll-against-a"}


def test_without_completed_jobs_nothing_is_drawn(tmp_path: Path):
    make_job(tmp_path, ["a=1"], "failed")
    with pytest.raises(UserError, match="nothing to draw"):
        draw(read_jobs(tmp_path), None, tmp_path / "plots")


@pytest.mark.parametrize(
    ("values", "positions", "labels", "is_log"),
    [
        (["16", "2", "8"], [2.0, 8.0, 16.0], ["2", "8", "16"], True),
        (["5", "4"], [4.0, 5.0], ["4", "5"], False),
        (["100", "-1"], [-1.0, 100.0], ["-1", "100"], False),
        (["0", "100"], [0.0, 100.0], ["0", "100"], False),
        (["elbo", "3", "iwae"], [0.0, 1.0, 2.0], ["elbo", "iwae", "3"], False),
        (["2", "59", "61", "61.5"], [2.0, 59.0, 61.0, 61.5], None, True),
    ],
)
def test_numbers_stand_at_their_values_and_words_one_after_the_other(
    values: list[str], positions: list[float], labels: list[str] | None, is_log: bool
):
    """Labels that would overlap are left to matplotlib."""
    axis = ParameterAxis([SeedGroup({"key": value}, 1, {}) for value in values], "key")
    assert [axis.position(value) for value in axis.values] == positions
    assert axis.is_log == is_log
    axes = Figure().subplots()
    axis.apply_to(axes)
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == labels if labels else "61" not in shown
