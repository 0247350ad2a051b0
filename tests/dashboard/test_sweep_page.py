"""The page of sweeps in a browser: which sweep, parallel coordinates with ranges, any metric against another."""

import re
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import make_run, summary_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds
MARKED = "#parallel path.run:not(.out)"
POINTS = """() => { const {data, layout} = document.getElementById('chart-plane');
    return [layout.xaxis.title.text, layout.yaxis.title.text, ...[...data.at(-1).x.keys()]
        .map((index) => [data.at(-1).x[index], data.at(-1).y[index]]).sort((a, b) => a[0] - b[0])]; }"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sweep of four latent sizes by two losses, and one of two learning rates."""
    for number in range(10):
        first = number < 8
        config = {"loss": ["elbo", "iwae"][number % 2], "model": {"latent_dim": 2 ** (number // 2)}}
        config = config if first else {"lr": 10.0**-number}
        row = {"val/elbo": -10.0 + number, "val/rate": 1.0 + number, "val/distortion": 9.0 - number, "a": 7.0}
        group = {"run_group": "widths" if first else "rates", "job_type": "sweep"}
        make_run(tmp_path, f"r{number}", config, [row], started=1_700_000_000 + number, **group)
    return tmp_path


def open_sweep(watched: Watched, address: str, **state: str) -> Page:
    page: Page = watched.page
    page.goto(f"{address}#{urlencode({'page': 'sweep', 'sweep': 'widths', **state})}")
    expect(page.locator("#parallel path.run")).to_have_count(8, timeout=TIMEOUT)
    return page


def test_a_sweep_is_picked(watched: Watched, root: Path):
    """Any, all or the runs without one; at first the latest of several jobs, or all of the selected runs."""
    make_run(root, "loose", {"lr": 7.0}, [{"val/elbo": -900.0}], started=1_700_000_100)
    with dashboard([root]) as address:
        watched.page.goto(f"{address}#page=sweep")
        picker = watched.page.get_by_role("combobox", name="Sweep", exact=True)
        options = ["all", "no group (1)", "rates (2)", "widths (8)"]
        expect(picker.locator("option")).to_have_text(options, timeout=TIMEOUT)
        expect(picker).to_have_value("rates")
        expect(watched.page.locator("#parallel path.run")).to_have_count(2)
        picker.select_option("all")
        expect(watched.page.locator("#parallel path.run")).to_have_count(11)
        expect(watched.page.locator("main p").first).to_contain_text("these are 3 sweeps or groups: choose one")
        picker.select_option("no group (1)")
        expect(watched.page.locator("main p").first).to_contain_text("1 of 1 runs have finished")
        watched.page.goto(f"{address}#page=sweep&selected=r1\x1floose")
        expect(picker).to_have_value("*")
        expect(watched.page.locator("main p").first).to_contain_text("2 of 2 runs have finished")
        watched.page.goto(f"{address}#page=sweep")
        picker.select_option("rates")
        expect(watched.page.locator("#parallel path.run")).to_have_count(2)
        expect(watched.page.locator("h2").first).to_have_text("val/elbo against lr")
        assert "sweep=rates" in watched.page.url
        watched.page.goto(f"{address}#page=sweep&sweep=removed")
        expect(watched.page.locator("main p").first).to_contain_text("There are no metrics yet.")
        picker.select_option("widths")
        expect(watched.page.locator("#parallel path.run")).to_have_count(8)
    assert watched.complaints == []


def test_ranges_on_axes_mark_runs(watched: Watched, root: Path):
    """By the pointer and by the keyboard; they are in the link, and their runs can be selected."""
    with dashboard([root]) as address:
        page = open_sweep(watched, address)
        strokes = page.locator("#parallel path.run").evaluate_all("(paths) => paths.map((x) => x.style.stroke)")
        assert len(set(strokes)) == 8
        page.locator("#parallel .area").last.scroll_into_view_if_needed()
        box = page.locator("#parallel .area").last.bounding_box()
        assert box is not None
        x = box["x"] + box["width"] / 2
        page.mouse.move(x, box["y"] + 8)
        page.mouse.down()
        page.mouse.move(x, box["y"] + 0.47 * box["height"], steps=3)
        page.mouse.up()
        expect(page.locator(MARKED)).to_have_count(4)
        assert "brush=val%2Felbo" in page.url
        least = page.get_by_role("slider", name="Least latent_dim")
        expect(least).to_have_attribute("aria-valuetext", "1")
        least.focus()
        for _ in range(9):
            page.keyboard.press("PageUp")
        expect(least).to_have_attribute("aria-valuenow", "90")
        expect(least).to_be_focused()
        expect(page.locator(MARKED)).to_have_count(2)
        page.reload()
        expect(page.locator(MARKED)).to_have_count(2, timeout=TIMEOUT)
        page.get_by_role("slider", name="Least latent_dim").press("Escape")
        expect(page.locator(MARKED)).to_have_count(4)
        page.get_by_role("button", name="Select these runs").click()
        expect(page.locator("#parallel path.run")).to_have_count(4)
        assert "brush" not in page.url
    assert watched.complaints == []


def test_any_metric_against_any_metric_or_number(watched: Watched, root: Path):
    with dashboard([root]) as address:
        page = open_sweep(watched, address)
        x, y, *points = page.evaluate(POINTS)
        assert (x, y) == ("val/rate (nats/image)", "val/distortion (nats/image)")
        assert points == [[1 + number, 9 - number] for number in range(8)]
        page.get_by_role("combobox", name="x", exact=True).select_option("model.latent_dim")
        page.get_by_role("combobox", name="y", exact=True).select_option("val/elbo")
        expect(page.locator("h2", has_text="val/elbo against model.latent_dim")).to_have_count(1)
        _, _, *points = page.evaluate(POINTS)
        assert sorted(points) == [[2 ** (number // 2), -10 + number] for number in range(8)]
        label = page.locator("#parallel text.quiet").first
        expect(label).to_have_css("stroke", "rgb(255, 255, 255)")
        expect(label).to_have_css("stroke-width", "7px")
        lines = save(page, "the scatter plot", "CSV").splitlines()
        save_every_panel(page)
        assert lines[0] == "line,model.latent_dim,val/elbo (nats/image),standard error,n"
        assert len(lines) == 9
    assert watched.complaints == []


def test_the_other_key_of_the_heat_map_has_colours_and_a_legend(watched: Watched, root: Path):
    with dashboard([root]) as address:
        page = open_sweep(watched, address, key="model.latent_dim")
        expect(page.locator("#legend-key span:not(.swatch)")).to_have_text(["loss=elbo", "loss=iwae"])
        traces = page.evaluate("() => document.getElementById('chart-key').data.map(({ x, y }) => [x, y])")
        assert traces[:2] == [[[1, 2, 4, 8], [-10, -8, -6, -4]], [[1, 2, 4, 8], [-9, -7, -5, -3]]]
        colours = page.evaluate("() => document.getElementById('chart-key').data.at(-1).marker.color")
        assert len(set(colours)) == 2
        labels = ["loss=elbo", "loss=iwae", "● latent_dim=1", "■ latent_dim=2", "◆ latent_dim=4", "▲ latent_dim=8"]
        expect(page.locator("#legend-plane span:not(.swatch)")).to_have_text(labels)
        symbols = page.evaluate("() => document.getElementById('chart-plane').data.at(-1).marker.symbol")
        assert sorted(set(symbols)) == ["circle", "diamond", "square", "triangle-up"]
    assert watched.complaints == []


def test_every_page_of_several_runs_has_the_filter(watched: Watched, root: Path):
    """One field, whose text stays from page to page and is in the link."""
    page = watched.page
    field, count = page.get_by_label("Filter"), page.locator("#count")
    with dashboard([root]) as address:
        for name in ("charts", "sweep", "images"):
            page.goto(f"{address}#page={name}&filter=nothing")
            expect(page.get_by_text("No run passes the filter.")).to_be_visible(timeout=TIMEOUT)
            expect(count).to_have_text("0 of 10 runs")
            expect(field).to_have_value("nothing")
        page.goto(f"{address}#page=sweep&selected=r1")
        expect(page.locator("#parallel")).to_contain_text("Two runs that differ are needed.", timeout=TIMEOUT)
        field.fill("loss=elbo latent>1")
        expect(count).to_have_text("0 of 10 runs, no run has “latent”", timeout=TIMEOUT)
        field.fill("loss=elbo latent_dim>1")
        expect(page.locator("#parallel path.run")).to_have_count(3)
        expect(field).to_be_focused()
        for name in ("Charts", "Compare", "Runs"):
            page.locator("nav a", has_text=name).click()
            expect(count).to_have_text("3 of 10 runs")
            assert "filter=loss" in page.url
        page.locator("nav a", has_text="Compare").click()
        expect(page.get_by_label("Add").locator("option")).to_have_count(2)
        field.fill("")
        expect(count).to_have_text("10 of 10 runs, 1 selected")
        page.goto(f"{address}#page=run&filter=nothing")
        expect(page.get_by_text("No run passes the filter.")).to_be_visible()
        expect(field).to_be_hidden()
    assert watched.complaints == []


def test_a_heat_map_of_many_values_groups_the_runs_once(watched: Watched, root: Path):
    script = """() => {
      const list = Array.from({ length: 60 }, (_, index) => ({ ...runs.get('r0'), key: `k${index}`,
        config: { a: index % 30, b: index }, given: { a: index % 30, b: index }, setting: undefined }));
      let [calls, usual] = [0, valueOf];
      valueOf = (...args) => { calls += 1; return usual(...args); };
      const { table } = drawHeat(document.getElementById('heat'), list, 'a', 'b', 'val/elbo');
      valueOf = usual;
      return [table.length, table[1].slice(0, 2), table[2].slice(0, 2), calls];
    }"""
    with dashboard([root]) as address:
        page = open_sweep(watched, address)
        rows, first, second, calls = page.evaluate(script)
        assert (rows, first, second) == (61, ["0", "0"], ["0", "30"])
        assert calls < 60 * 20
    assert watched.complaints == []


def test_figures_name_the_best_epoch_and_say_how_many_runs_they_draw(watched: Watched, root: Path):
    best = [summary_record({"best/val/elbo": -1.0, "best/epoch": 1})]
    for number in range(10):
        config = {"x": number % 3, "y": number % 4}
        row = [{"val/elbo": -2.0 - number}]
        make_run(root, f"b{number}", config, row, started=1_700_000_100 + number, more=best, run_group="best")
    script = """() => {
      const box = document.getElementById('parallel');
      const list = chosenRuns().filter(({ group }) => group === 'best');
      const many = Array.from({ length: 60 }, () => list).flat();
      const { title, table } = drawParallel(box, many, ['x', 'y'], 'val/elbo');
      return [title, table[0].at(-1), box.querySelector('p').textContent];
    }"""
    with dashboard([root]) as address:
        page = watched.page
        page.goto(f"{address}#page=sweep&sweep=best&up=val/elbo&across=x")
        expect(page.locator("#importance")).to_have_text(re.compile("^best/val/elbo is the same"), timeout=TIMEOUT)
        page.evaluate("() => { for (const run of runs.values()) run.summary['best/val/elbo'] = run.config.x; }")
        page.evaluate("refreshPage()")
        expect(page.locator("#importance")).to_contain_text("Variance of best/val/elbo")
        hover = page.evaluate("() => document.getElementById('chart-plane').data.at(-1).hovertemplate")
        assert "<br>best/val/elbo %{y" in hover
        title, name, message = page.evaluate(script)
        assert (title, name) == ("parallel coordinates of best/val/elbo", "best/val/elbo")
        assert message.startswith("500 of 600 runs are drawn. Drag along an axis")
    assert watched.complaints == []


def save(page: Page, name: str, kind: str) -> str:
    """What a button of a panel saves."""
    with page.expect_download() as saved:
        page.get_by_role("button", name=f"Save {name} as {kind}").click()
    return Path(saved.value.path()).read_text()


def save_every_panel(page: Page) -> None:
    """As images that stand alone, and as points."""
    for name, heading in (
        ("the metric against a key", ["line", "loss", "val/elbo (nats/image)", "standard error", "n"]),
        ("parallel coordinates", ["run", "loss", "model.latent_dim", "val/elbo"]),
    ):
        image = ElementTree.fromstring(save(page, name, "SVG"))
        space = {"s": "http://www.w3.org/2000/svg"}
        assert image.findall("s:rect", space)[0].attrib["fill"] == "#ffffff"
        assert len(image.findall(".//s:path", space)) >= 8
        assert "elbo" in [text.text for text in image.findall(".//s:text", space)]
        assert save(page, name, "CSV").splitlines()[0] == ",".join(heading)


def test_the_heat_map_and_the_importance_of_keys_are_saved(watched: Watched, root: Path):
    """As images on white whose texts and cells are those of the page, and as numbers."""
    with dashboard([root]) as address:
        watched.page.emulate_media(color_scheme="dark")
        watched.page.goto(f"{address}#page=sweep&sweep=*&rows=loss&cols=model.latent_dim")
        expect(watched.page.locator("#importance svg")).to_have_count(1, timeout=TIMEOUT)
        heat, share = (save(watched.page, name, "SVG") for name in ("the heat map", "the importance of keys"))
        assert sum(text in heat for text in ("-10.000", "loss", "iwae", "model.latent_dim", "-3.000")) == 5
        assert "rgb(13, 8, 135)" in heat, "the darkest cell has the light theme's colour"
        assert "model.latent_dim" in share
        rows = save(watched.page, "the heat map", "CSV").splitlines()
        assert rows[:2] == ["loss,model.latent_dim,val/elbo (nats/image),standard error", "elbo,1,-10,"]
        assert len(rows) == 9
        rows = save(watched.page, "the importance of keys", "CSV").splitlines()
        assert rows[0] == "key,share of the variance of val/elbo"
        assert {row.split(",")[0] for row in rows[1:]} == {"loss", "lr", "model.latent_dim"}
    assert watched.complaints == []


def test_importance_is_the_share_of_each_main_effect(watched: Watched, tmp_path: Path):
    """Omega squared of an analysis of variance with main effects alone, computed here by least squares.

    Keys that always change together count once.
    """
    runs = [(a, b, seed) for a in (2, 8, 20) for b in ("x", "y") for seed in (0, 1)]
    scores = [
        10.0 * a**0.5 + 6.0 * (b == "y") + 0.5 * (-1) ** (number // 3) for number, (a, b, _) in enumerate(runs)
    ]
    for number, ((a, b, seed), score) in enumerate(zip(runs, scores, strict=True)):
        config = {"a": a, "b": b, "b_too": b * 2, "c": [b], "seed": seed}
        make_run(tmp_path, f"r{number}", config, [{"val/elbo": score}], job_type="sweep")
    columns = (
        [[a == 8, a == 20] for a, _, _ in runs],
        [[b == "y"] for _, b, _ in runs],
        [[s == 1] for *_, s in runs],
    )
    parts = [np.array(part, float) for part in columns]

    def unexplained(*factors: np.ndarray) -> float:
        design = np.column_stack([np.ones(len(runs)), *factors])
        return float(np.linalg.lstsq(design, np.array(scores), rcond=None)[1][0])

    noise = unexplained(*parts) / (len(runs) - 5)
    total = float(np.var(scores) * len(runs))
    expected = [max(0.0, (total - unexplained(part) - part.shape[1] * noise) / total) for part in parts]
    assert 0.02 < expected[1] < 0.2
    with dashboard([tmp_path]) as address:
        watched.page.goto(f"{address}#page=sweep")
        chart = watched.page.locator("#importance svg")
        chart.wait_for(timeout=TIMEOUT)
        label = chart.get_attribute("aria-label")
        expect(watched.page.locator("#importance p").first).to_have_text("Always change together: b, b_too, c.")
        expect(watched.page.get_by_role("slider")).to_have_count(2 * 4)
        rows = save(watched.page, "the importance of keys", "CSV").splitlines()
        assert {row.rpartition(",")[0] for row in rows[1:]} == {"a", '"b, b_too, c"', "seed"}
    shares = {name: float(value) for name, value in re.findall(r"(\w+)(?:, …)? (\d+) %", label)}
    assert shares == pytest.approx(
        {key: 100 * share for key, share in zip("ab", expected, strict=False)} | {"seed": 100 * expected[2]},
        abs=0.51,
    )
