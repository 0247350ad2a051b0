"""Charts of several runs in a browser, served and exported."""

import csv
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.colour_vision import LEAST_DISTANCE, VISIONS, distance
from tests.dashboard.records import append, history_record, make_run, stats_record, summary_record
from vae_exp.dashboard.web.app import _MAX_CURVES
from vae_exp.dashboard.web.export import export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds
PANELS = """() => Object.fromEntries([...document.querySelectorAll('.grid > .panel')]
    .filter((panel) => panel.querySelector('.chart').data)
    .map((panel) => [panel.querySelector('h2').textContent, panel.querySelector('.chart').data
        .filter((trace) => trace.name)
        .map(({name, x, y, line, text}) => ({name, x, y, text, colour: line.color, dash: line.dash}))]))"""
TYPES = """() => [...document.querySelectorAll('.chart')]
    .map(({layout: {xaxis, yaxis}}) => [xaxis.type, yaxis.type])"""
RANGES = """() => [...document.querySelectorAll('.chart')].filter((chart) => chart.data)
    .map(({_fullLayout: {xaxis, yaxis}}) => [xaxis.range, yaxis.range])"""


def make_sweep(root: Path, dims: int = 3) -> None:
    """Runs of `dims` latent sizes, two losses, two widths and two seeds."""
    product = itertools.product([2**n for n in range(1, dims + 1)], ["elbo", "iwae"], [200, 500], [0, 1])
    for number, (dim, loss, width, seed) in enumerate(product):
        config = {"model": {"latent_dim": dim, "width": width}, "loss": loss, "seed": seed}
        config |= {"trainer": {"batch_size": width}}
        rows = [
            {"val/elbo": -100.0 / epoch + dim + 2 * seed, "val/rate": 1.0 * epoch * dim, "a": 10.0**epoch}
            for epoch in range(1, 5)
        ]
        make_run(root, f"r{number:02d}", config, rows, started=1_700_000_000 + number)


@pytest.fixture(params=["served", "exported"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The page of 24 runs in 12 settings."""
    make_sweep(tmp_path)
    if request.param == "served":
        with dashboard([tmp_path]) as address:
            yield address
    else:
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
        yield (tmp_path / "page.html").as_uri()


@contextmanager
def served(root: Path) -> Iterator[str]:
    make_sweep(root)
    with dashboard([root]) as address:
        yield address


def show(watched: Watched, address: str, panels: int, **state: str) -> dict[str, list[dict[str, Any]]]:
    """Open the charts; the lines by panel, when as many panels are drawn."""
    watched.page.goto(f"{address}#{urlencode({'page': 'charts', **state})}")
    watched.page.reload()
    expect(watched.page.locator(".grid .scatterlayer")).to_have_count(panels, timeout=TIMEOUT)
    lines: dict[str, list[dict[str, Any]]] = watched.page.evaluate(PANELS)
    return lines


def download(watched: Watched, name: str) -> str:
    with watched.page.expect_download() as saved:
        watched.page.get_by_role("button", name=name).click()
    return Path(saved.value.path()).read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("group", "count"), [("", 24), ("1", 12)])
def test_every_two_lines_differ_for_the_colour_blind(
    watched: Watched, tmp_path: Path, scheme: Any, group: str, count: int
):
    """By their dash or by the distance of their colours; the legend draws them alike."""
    watched.page.emulate_media(color_scheme=scheme)
    with served(tmp_path) as address:
        lines = show(watched, address, 1, metrics="val/elbo", group=group)["val/elbo"]
        assert len(lines) == count
        for one, other in itertools.combinations(lines, 2):
            if one["dash"] == other["dash"]:
                least = min(distance(one["colour"], other["colour"], vision) for vision in VISIONS)
                assert least >= LEAST_DISTANCE, (one["name"], other["name"])
        samples = watched.page.evaluate(
            "() => [...document.querySelectorAll('.legend button .swatch')].map((sample) => [sample.className,"
            " getComputedStyle(sample).color])"
        )
        assert len({tuple(sample) for sample in samples}) == count
    assert watched.complaints == []


def test_keys_decide_groups_colours_dashes_and_panels(watched: Watched, address: str):
    state = {"metrics": "val/elbo", "group": "model.latent_dim", "tint": "model.latent_dim", "dash": "loss"}
    panels = show(watched, address, 2, **state, facet="model.width")
    assert list(panels) == ["val/elbo, width=200", "val/elbo, width=500"]
    for lines in panels.values():
        assert len(lines) == 6
        assert len({(line["colour"], line["dash"]) for line in lines}) == 6
        assert len({line["colour"] for line in lines}) == 3
        [line] = (x for x in lines if x["name"].startswith("latent_dim=2 loss=elbo"))
        assert line["y"] == pytest.approx([-97, -47, 3 - 100 / 3, -22])
        assert line["text"][0] == " ± 1.4 sd (n = 2)"
    expect(watched.page.locator(".legend button")).to_have_text(
        [f"latent_dim={dim} loss={loss}" for dim in (2, 4, 8) for loss in ("elbo", "iwae")]
    )
    ranges = watched.page.evaluate(RANGES)
    assert ranges[0][1] == ranges[1][1]
    watched.page.get_by_role("button", name="latent_dim=4 loss=iwae").click()
    expect(watched.page.locator(".chart").first.locator(".scatterlayer .trace")).to_have_count(3)
    watched.page.get_by_role("button", name="latent_dim=4 loss=iwae").click()
    watched.page.get_by_label("Panels by").select_option("seed")
    expect(watched.page.locator("h2")).to_have_text(["val/elbo, seed=0", "val/elbo, seed=1"])
    assert "facet=seed" in watched.page.url
    assert watched.complaints == []


def test_the_table_and_the_charts_have_the_same_groups(watched: Watched, tmp_path: Path):
    """The page Compare draws single runs all the same."""
    page = watched.page
    with served(tmp_path) as address:
        page.goto(f"{address}#page=runs&metrics=val/elbo&filter=model.latent_dim=2")
        page.get_by_label("Group by").select_option("all but seeds", timeout=TIMEOUT)
        expect(page.locator("tr.group")).to_have_count(4)
        expect(page.locator("tr.group").first).to_have_text(
            re.compile(r"^width=500 loss=iwae batch_size=500 · 2 runs-22\.000 ± 1\.000")
        )
        page.get_by_role("link", name="Charts").click()
        expect(page.locator(".legend button")).to_have_count(4, timeout=TIMEOUT)
        page.get_by_label("Group by").select_option("loss")
        expect(page.locator(".legend button")).to_have_text(["loss=elbo (4)", "loss=iwae (4)"])
        page.get_by_role("link", name="Runs").click()
        expect(page.locator("tr.group th[scope]")).to_have_text(["loss iwae · 4 runs", "loss elbo · 4 runs"])
        page.goto(f"{page.url}&page=compare&compare=r00%1Fr01")
        expect(page.locator(".legend button")).to_have_text(["r00", "r01"], timeout=TIMEOUT)
    assert watched.complaints == []


def test_smoothed_curves_have_the_raw_ones_behind_and_a_pointer_lists_six(watched: Watched, tmp_path: Path):
    """Up to twelve curves; more than six are listed by their distance."""
    page = watched.page
    raw = "() => document.querySelector('.chart').data.filter(({name}) => !name).map(({y}) => y)"
    with served(tmp_path) as address:
        state = {"metrics": "val/elbo\x1fval/rate", "smooth": "0.9"}
        [line, *_] = show(watched, address, 2, **state, filter="model.latent_dim=2 seed=0")["val/elbo"]
        assert line["y"][-1] < -40
        assert page.evaluate(raw) == [pytest.approx([-98, -48, 2 - 100 / 3, -23])] * 4
        image = download(watched, "Save val/elbo as SVG")
        assert image.count('stroke-opacity="0.3"') == 4
        show(watched, address, 2, **state)
        assert page.evaluate(raw) == []
        show(watched, address, 2, metrics=state["metrics"])
        x, y = page.evaluate(
            """() => { const {left, top} = document.querySelector('.chart .nsewdrag').getBoundingClientRect();
            const {xaxis, yaxis} = document.querySelector('.chart')._fullLayout;
            return [left + xaxis.d2p(2), top + yaxis.d2p(-48)]; }"""
        )
        page.mouse.move(x - 2, y + 1)
        labels = page.locator(".chart").first.locator(".hovertext .nums")
        expect(labels).to_have_text(["-48.000 at 2"] * 4 + ["-46.000 at 2"] * 2)
        expect(page.locator(".chart").last.locator(".hovertext")).to_have_count(6)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_function("() => location.hash.includes('isolate=')")
        expect(page.locator(".chart").first.locator(".scatterlayer .trace")).to_have_count(1)
    assert watched.complaints == []


@pytest.mark.parametrize("way", ["served", "exported"])
def test_values_of_gpus_are_drawn_where_runs_have_them(watched: Watched, tmp_path: Path, way: str):
    """Against epochs too: a value stands where the run was when it was measured."""
    start = 1_700_000_000
    for number in range(2):
        rows = [{"val/elbo": 1.0 * epoch, "_timestamp": start + 10 * epoch} for epoch in (1, 2)]
        values = {"gpu.0.memoryAllocatedBytes": 2.5e9 + 1e9 * number, "gpu.0.temp": 50.0}
        machine = [stats_record(start + seconds, values) for seconds in (5, 15)] if number else []
        make_run(tmp_path, f"r{number}", {"x": number}, rows, more=machine)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page = watched.page
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        show(watched, address, 1)
        page.locator("summary", has_text="Metrics").click()
        expect(page.locator("details.menu[open] label")).to_have_text(["val/elbo", "GPU 0: memory (GB)"])
        page.get_by_label("GPU 0: memory (GB)").check()
        expect(page.locator(".grid .scatterlayer")).to_have_count(2)
        [line] = page.evaluate(PANELS)["GPU 0: memory (GB)"]
        assert (line["name"], line["x"], line["y"]) == ("r1", [0.5, 1.5], [3.5, 3.5])
        page.get_by_label("Against").select_option("step")
        page.wait_for_function("() => document.querySelectorAll('.chart')[1].data[0].x[0] === 5")
        expect(page.get_by_label("Against").locator("option")).to_have_count(5)
    assert watched.complaints == []


def test_axes(watched: Watched, address: str):
    """Images seen are steps × batch size; a metric against another; logarithmic axes; one range for all."""
    lines = show(watched, address, 1, metrics="val/elbo", against="images", filter="seed=0 model.latent_dim=2")
    assert {tuple(line["x"]) for line in lines["val/elbo"]} == {
        (2000, 4000, 6000, 8000),
        (5000, 10000, 15000, 20000),
    }
    state = {"metrics": "val/elbo\x1fa", "against": "metric:val/rate", "log": "1", "logx": "1", "range": "all"}
    lines = show(watched, address, 2, **state, group="1", filter="model.latent_dim=4 loss=iwae")
    assert lines["a"][0]["x"] == [4, 8, 12, 16]
    assert lines["a"][0]["y"] == [10, 100, 1000, 10000]
    expect(watched.page.locator(".panel p").first).to_have_text("Linear axis: there are no positive values.")
    assert watched.page.evaluate(TYPES) == [["log", "linear"], ["log", "log"]]
    show(watched, address, 2, metrics="val/elbo\x1fval/rate")
    watched.page.get_by_label("Range of y").select_option("all")
    watched.page.wait_for_function(f"() => new Set(({RANGES})().map(([, y]) => String(y))).size === 1")
    low, high = watched.page.evaluate(RANGES)[0][1]
    assert low < -98
    assert high > 32
    assert watched.complaints == []


def test_a_panel_is_saved_as_an_image_and_as_points(watched: Watched, address: str):
    state = {"metrics": "val/elbo", "group": "model.latent_dim", "smooth": "0"}
    show(watched, address, 1, **state)
    image = ElementTree.fromstring(download(watched, "Save val/elbo as SVG"))
    space = {"s": "http://www.w3.org/2000/svg"}
    texts = [text.text for text in image.findall(".//s:text", space)]
    assert {"val/elbo", "epoch", "val/elbo (nats/image)", "latent_dim=2 (8)", "1", "2", "3", "4"} <= set(texts)
    assert "1.5" not in texts, "no epoch"
    ticks = watched.page.locator(".chart .xtick text")
    expect(ticks).to_have_text(["1", "2", "3", "4"])
    watched.page.get_by_label("Log x").check()
    expect(ticks).to_have_text(["1", "2", "3", "4"])
    watched.page.get_by_label("Log x").uncheck()
    assert len(image.findall(".//s:path", space)) == 4  # three lines and the axes
    assert len(image.findall(".//s:polygon", space)) == 3
    [background] = image.findall("s:rect", space)
    assert background.attrib["fill"] == "#ffffff"
    numbers = "".join(path.attrib["d"] for path in image.findall(".//s:path", space))
    assert "NaN" not in numbers
    assert "undefined" not in numbers
    rows = list(csv.DictReader(download(watched, "Save val/elbo as CSV").splitlines()))
    assert len(rows) == 12
    assert {name: rows[0][name] for name in ("line", "epoch", "n")} == {
        "line": "latent_dim=2 (8)", "epoch": "1", "n": "8",
    }  # fmt: skip
    assert float(rows[0]["val/elbo (nats/image)"]) == -97
    assert float(rows[0]["sd"]) == pytest.approx(1.0690, abs=1e-4)
    assert watched.complaints == []


def test_a_zoom_stays_when_the_runs_grow_and_is_in_the_link(watched: Watched, tmp_path: Path):
    path = make_run(
        tmp_path, "one", rows=[{"val/elbo": float(n), "val/rate": 1.0} for n in range(9)], exit_code=None
    )
    page = watched.page
    with dashboard([tmp_path]) as address:
        show(watched, address, 2, metrics="val/elbo\x1fval/rate")
        chart = page.locator(".chart").first
        box = chart.locator(".nsewdrag").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
        page.mouse.up()
        page.wait_for_function("() => location.hash.includes('zoom=')")
        zoomed = page.evaluate(RANGES)[0]
        assert zoomed[0] == pytest.approx([1 + 8 * 0.2, 1 + 8 * 0.5], abs=0.1)
        expect(chart.locator(".xtick text")).to_have_text(["3", "4", "5"])
        append(path, history_record(100, {"val/elbo": 50.0, "epoch": 10}), summary_record({"val/elbo": 50.0}))
        page.wait_for_function("() => document.querySelector('.chart').data[0].x.length === 10", timeout=TIMEOUT)
        assert page.evaluate(RANGES)[0] == [pytest.approx(axis, rel=1e-4) for axis in zoomed]
        assert page.evaluate(RANGES)[1][0][1] == 9, "the other panel is not zoomed"
        page.reload()
        expect(page.locator(".grid .scatterlayer")).to_have_count(2, timeout=TIMEOUT)
        assert page.evaluate(RANGES)[0] == [pytest.approx(axis, rel=1e-4) for axis in zoomed]
        chart.locator(".nsewdrag").dblclick()
        page.wait_for_function("() => !location.hash.includes('zoom=')")
        page.wait_for_function(f"() => ({RANGES})()[0][0][1] > 9")
        chart.press("+")
        page.wait_for_function(f"() => ({RANGES})()[0][0][1] < 9.5")
        chart.press("Escape")
        page.wait_for_function(f"() => ({RANGES})()[0][0][1] > 9")
    assert watched.complaints == []


def test_curves_are_fetched_in_parts_and_again_if_a_run_has_grown_meanwhile(watched: Watched, tmp_path: Path):
    script = """async () => {
      const list = [...Array(500).keys()].map((number) => ({ key: `r${number}`, keys: [], version: 1 }));
      const metrics = [...Array(20).keys()].map(String);
      const sizes = [];
      served.curves = async (keys, names) => {
        sizes.push(keys.length * names.length);
        if (keys.includes('r0')) runs.set('r0', { ...list[0], version: 2 });
        return keys.flatMap((run) => names.map((metric) => ({ run, metric, version: 1, x: [1], y: [1] })));
      };
      const cache = new Map();
      await fetchCurves(list, metrics, cache);
      const first = [...sizes];
      await fetchCurves([runs.get('r0'), ...list.slice(1)], metrics, cache);
      return [first, sizes.slice(first.length)];
    }"""
    with served(tmp_path) as address:
        watched.page.goto(address)
        first, second = watched.page.evaluate(script)
    assert sum(first) == 500 * 20
    assert max(first) <= _MAX_CURVES
    assert second == [20]
