"""The pages in a browser: served, live and exported."""

import csv
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.conftest import start
from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import PNG, append, console_record, history_record, make_run, picture, summary_record
from vae_exp.dashboard.web.export import export
from vae_exp.sweep.aggregate import Others, SeedGroup, best_jobs, combine_settings, estimate, meaning
from vae_exp.sweep.job_records import read_jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TIMEOUT = 20_000  # milliseconds


def show(watched: Watched, address: str, **state: str) -> None:
    watched.page.goto(f"{address}#{urlencode(state)}")


def cells(watched: Watched, heading: str) -> list[str]:
    """The column of the table under a heading."""
    script = """(heading) => {
      const heads = [...document.querySelectorAll('table.runs thead th')];
      const index = heads.findIndex((head) => head.innerText.replace(/[▲▼]/g, '').trim() === heading);
      const rows = [...document.querySelectorAll('table.runs tr[data-run]')];
      return rows.map((row) => row.children[index]?.innerText.trim() ?? `no ${heading}`);
    }"""
    return watched.page.evaluate(script, heading)


def expect_cells(watched: Watched, heading: str, expected: list[str]) -> None:
    """Wait until the column under a heading has these texts."""
    until = time.monotonic() + TIMEOUT / 1000
    while cells(watched, heading) != expected and time.monotonic() < until:
        watched.page.wait_for_timeout(50)
    assert cells(watched, heading) == expected


def rows(watched: Watched):
    return watched.page.locator("table.runs tr[data-run]")


def check_all_views(watched: Watched, address: str) -> None:
    """Check the served or the exported pages of six digits jobs."""
    elbos = check_the_table(watched, address)
    check_the_charts(watched, address)
    check_the_sweep(watched, address, elbos)
    check_the_images(watched, address)
    check_a_run(watched, address)
    check_the_comparison(watched, address)


def check_the_table(watched: Watched, address: str) -> list[float]:
    page = watched.page
    show(watched, address, page="runs")
    expect(rows(watched)).to_have_count(6, timeout=TIMEOUT)
    expect_cells(watched, "state", ["finished"] * 6)
    page.get_by_role("button", name="model.latent_dim", exact=True).click()
    expect_cells(watched, "model.latent_dim", ["2", "2", "4", "4", "8", "8"])
    page.get_by_role("button", name=re.compile("^model.latent_dim")).click()
    expect_cells(watched, "model.latent_dim", ["8", "8", "4", "4", "2", "2"])
    elbos = [float(text) for text in cells(watched, "best/val/elbo")]
    best = page.locator("table.runs tr.best")
    expect(best).to_have_count(1)
    assert "★" in best.inner_text()
    expect(best).to_contain_text(str(max(elbos)))
    page.get_by_label("Filter").fill("model.latent_dim>=4 seed=1")
    expect(rows(watched)).to_have_count(2)
    assert "filter=model.latent_dim" in page.url
    page.reload()
    expect(rows(watched)).to_have_count(2, timeout=TIMEOUT)
    page.get_by_label("Filter").fill("")
    page.get_by_label("Group by").select_option("model.latent_dim")
    expect(page.locator("tr.group")).to_have_count(3)
    expect(page.locator("tr.group").first).to_contain_text("±")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    saved = Path(download.value.path()).read_text().splitlines()
    assert len(saved) == 7
    assert "model.latent_dim" in saved[0]

    return elbos


def check_the_charts(watched: Watched, address: str) -> None:
    page = watched.page
    show(watched, address, page="charts")
    charts = page.locator(".chart .scatterlayer")
    expect(charts).to_have_count(4, timeout=TIMEOUT)
    expect(charts.first.locator(".trace")).to_have_count(6)
    page.locator(".legend button").first.click()
    expect(charts.first.locator(".trace")).to_have_count(1)
    page.locator(".legend button").first.click()
    page.get_by_label("Group by").select_option("1")
    expect(charts.first.locator(".trace")).to_have_count(9)
    page.get_by_label("Log y").check()
    assert "log=1" in page.url


def check_the_sweep(watched: Watched, address: str, elbos: list[float]) -> None:
    page = watched.page
    show(watched, address, page="sweep", rows="model.latent_dim", cols="seed")
    titles = page.locator("#heat title")
    expect(titles).to_have_count(6, timeout=TIMEOUT)
    heat = dict(text.split(": ") for text in titles.all_text_contents())
    assert list(heat) == [f"model.latent_dim {dim}, seed {seed}" for dim in (2, 4, 8) for seed in (0, 1)]
    assert sorted(map(float, heat.values())) == sorted(elbos)
    expect(page.locator("#parallel path.run")).to_have_count(6)
    expect(page.locator("#importance")).to_contain_text("there are 6")
    check_the_plane(page)


def check_the_plane(page: Any) -> None:
    """Every bar lies inside of the axes, and so do the few lines of equal sum."""
    plane = page.evaluate(
        """() => { const {data, layout} = document.getElementById('chart-plane');
        const points = data.at(-1);
        const ends = (at, {array}) => at.flatMap((value, index) => [value - array[index], value + array[index]]);
        return {x: layout.xaxis.range, y: layout.yaxis.range, lines: data.slice(0, -1).map(({x, y}) => [x, y]),
            across: ends(points.x, points.error_x), up: ends(points.y, points.error_y)}; }"""
    )
    for (low, high), ends in ((plane["x"], plane["across"]), (plane["y"], plane["up"])):
        assert low < min(ends) <= max(ends) < high
    assert 2 <= len(plane["lines"]) <= 7
    for x, y in plane["lines"]:
        assert x[0] + y[0] == pytest.approx(x[1] + y[1])
        assert plane["x"][0] <= x[0] < x[1] <= plane["x"][1]
        assert plane["y"][0] <= y[1] < y[0] <= plane["y"][1]


def check_the_images(watched: Watched, address: str) -> None:
    page = watched.page
    show(watched, address, page="images", picture="figures/samples")
    expect(page.locator("figure img")).to_have_count(6, timeout=TIMEOUT)
    page.wait_for_function(
        "() => [...document.querySelectorAll('figure img')].slice(0, 2).every((i) => i.naturalWidth > 0)"
    )
    before = page.locator("figure img").first.get_attribute("src")
    page.locator("#epoch-slider").focus()
    page.keyboard.press("Home")
    expect(page.locator("figure img").first).not_to_have_attribute("src", before or "")
    assert "epoch=1" in page.url
    page.get_by_label("All epochs side by side").check()
    expect(page.locator(".strip")).to_have_count(6)
    expect(page.locator(".strip").first.locator("img")).to_have_count(2)


def check_a_run(watched: Watched, address: str) -> None:
    page = watched.page
    show(watched, address, page="runs")
    rows(watched).first.get_by_role("link").click()
    expect(page.locator("h2").first).to_contain_text("latent_dim")
    expect(page.get_by_role("region", name="Config")).to_contain_text("model.latent_dim")
    expect(page.locator(".curves .scatterlayer")).to_have_count(6)


def check_the_comparison(watched: Watched, address: str) -> None:
    page = watched.page
    show(watched, address, page="runs")
    for number in (0, 3):
        rows(watched).nth(number).get_by_role("checkbox").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Keys that differ").locator("td.differs").first).to_be_visible()
    expect(page.locator(".scatterlayer").first.locator(".trace")).to_have_count(2, timeout=TIMEOUT)
    expect(page.get_by_role("region", name="Images").locator("figure img")).to_have_count(2)


@pytest.fixture(scope="module")
def six_jobs(tmp_path_factory: pytest.TempPathFactory, browser) -> Path:
    """The W&B files of six jobs, which must appear while the sweep runs."""
    root = tmp_path_factory.mktemp("six")
    (root / "wandb").mkdir()
    page = browser.new_page()
    with dashboard([root]) as address:
        page.goto(address)
        process = start(
            "train", "--multirun", "data=digits", "model.latent_dim=2,4,8", "seed=0,1", "trainer.epochs=2",
            "trainer.batch_size=4",  # or the jobs end before a page can show them
            "sweep.name=six", "evaluator.figures.every_n_epochs=1", cwd=root, env={"WANDB_SILENT": "true"},
        )  # fmt: skip
        expect(page.locator("td.running").first).to_be_visible(timeout=90_000)
        assert process.poll() is None, "the table was empty until the sweep had ended"
        first = page.locator("tr[data-run]").count()
        assert first < 6
        _, output = process.communicate(timeout=200)
        assert process.returncode == 0, output
        expect(page.locator("td.finished")).to_have_count(6, timeout=TIMEOUT)
    page.close()
    return root


def test_the_best_run_is_that_of_the_sweep_command(watched: Watched, six_jobs: Path):
    for by in ("best", "last"):
        [[job], _] = best_jobs(read_jobs(six_jobs / "multirun" / "six", by), [])
        with dashboard([six_jobs]) as address:
            show(watched, address, page="runs", by=by)
            expect(watched.page.locator("tr.best")).to_have_count(1, timeout=TIMEOUT)
            expect(watched.page.locator("tr.best a")).to_have_attribute("title", job.name)


def test_runs_are_ranked_by_their_best_epoch_and_show_test_scores(watched: Watched, tmp_path: Path):
    """The best run by the best epoch is not the one by the last, nor the one by the test score; one has none."""
    for number, (last, best, nll) in enumerate(((-5.0, -1.0, 3.0), (-2.0, -1.5, 2.0), (-3.0, None, None))):
        scores = {"status": "completed"}
        if best is not None:
            scores |= {"best/val/elbo": best, "best/epoch": 1, "test/nll": nll, "test/elbo": -nll, "test/epoch": 1}
        rows = [{"val/elbo": -9.0, "val/rate": 1.0}, {"val/elbo": last, "val/rate": 2.0}]
        more = [summary_record(scores)]
        make_run(tmp_path, f"r{number}", {"x": number}, rows, started=1_700_000_000 + number, more=more)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", sort="started")
        expect_cells(watched, "best/val/elbo", ["-1.000", "-1.500", "-3.000"])
        expect_cells(watched, "test/nll", ["3.000", "2.000", ""])
        expect_cells(watched, "val/rate", ["2.000"] * 3)
        expect_cells(watched, "best/epoch", ["1", "1", ""])
        best = watched.page.locator("tr.best")
        expect(best).to_have_attribute("data-run", "r0")
        expect(watched.page.get_by_title("-3, of the last epoch")).to_have_text("-3.000")
        watched.page.get_by_label("Best by").select_option("test/nll")
        expect(best).to_have_attribute("data-run", "r1")
        expect(watched.page.locator("#meaning")).to_contain_text("the best of many test scores is optimistic")
        watched.page.get_by_label("Filter").fill("val/elbo>=-1.2")
        expect(watched.page.locator("table.runs tr[data-run]")).to_have_count(1)
        with watched.page.expect_download() as download:
            watched.page.get_by_role("button", name="CSV").click()
        [row] = csv.DictReader(Path(download.value.path()).read_text().splitlines())
        values = {name: row[name] for name in ("val/elbo", "best/val/elbo", "best/epoch", "test/nll")}
        assert values == {"val/elbo": "-5", "best/val/elbo": "-1", "best/epoch": "1", "test/nll": "3"}
        show(watched, address, page="runs", sort="started", by="last")
        expect_cells(watched, "val/elbo", ["-5.000", "-2.000", "-3.000"])
        expect(best).to_have_attribute("data-run", "r1")
        check_pages_with_scores(watched, address)
    assert watched.complaints == []


def check_pages_with_scores(watched: Watched, address: str) -> None:
    """The sweep by the best epoch, and by the last; scores as points among the charts."""
    for by, title, values in (("", "best/val/elbo", [-1, -1.5, -3]), ("last", "val/elbo", [-5, -2, -3])):
        show(watched, address, page="sweep", by=by)
        expect(watched.page.locator("h2").first).to_have_text(f"{title} against x", timeout=TIMEOUT)
        points = watched.page.evaluate("() => document.getElementById('chart-key').data[1].y")
        assert sorted(points) == sorted(values)
    show(watched, address, page="charts", metrics="test/nll")
    expect(watched.page.locator(".chart .scatterlayer .trace")).to_have_count(2, timeout=TIMEOUT)
    points = watched.page.evaluate("() => document.querySelector('.chart').data.map((t) => [t.x[0], t.y[0]])")
    assert sorted(points) == [[1, 2], [1, 3]]


def test_a_sweep_is_watched_and_every_page_works_served(watched: Watched, six_jobs: Path):
    with dashboard([six_jobs]) as address:
        check_all_views(watched, address)
        assert all(url.startswith((address, "blob:", "data:")) for url in watched.requests)
    assert watched.complaints == []


def test_every_page_works_exported_without_requests(watched: Watched, six_jobs: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "vae_exp.dashboard", str(six_jobs), "--export", str(page)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.startswith("6 runs,")
    check_all_views(watched, page.as_uri())
    assert {url.partition("#")[0] for url in watched.requests if not url.startswith(("blob:", "data:"))} == {
        page.as_uri()
    }
    assert watched.complaints == []


def test_a_row_and_a_curve_grow_within_three_polls_unless_the_page_is_hidden(watched: Watched, tmp_path: Path):
    path = make_run(tmp_path, "one", rows=[{"val/elbo": -3.0}, {"val/elbo": -2.0}], exit_code=None)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="charts")
        points = "() => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.length ?? 0"
        watched.page.wait_for_function(f"{points[:6]} ({points[6:]}) === 2", timeout=TIMEOUT)
        count = len(watched.requests)
        values = {"val/elbo": -1.0, "epoch": 3}
        append(path, history_record(30, values), summary_record(values))
        watched.page.wait_for_function(f"{points[:6]} ({points[6:]}) === 3", timeout=TIMEOUT, polling=50)
        assert sum("/api/runs" in address for address in watched.requests[count:]) <= 3  # one a second
        show(watched, address, page="runs")
        watched.page.wait_for_function(
            "() => document.querySelector('tr[data-run]')?.innerText.includes('-1')", timeout=TIMEOUT
        )
        hide = "() => Object.defineProperty(document, 'hidden', { get: () => window.covered ?? true })"
        watched.page.evaluate(hide)
        watched.page.wait_for_timeout(1_500)
        count = len(watched.requests)
        watched.page.wait_for_timeout(2_500)
        assert len(watched.requests) == count
        watched.page.evaluate("window.covered = false; document.dispatchEvent(new Event('visibilitychange'))")
        watched.page.wait_for_timeout(1_500)
        assert len(watched.requests) > count
    assert watched.complaints == []


HOSTILE = "<img src=x onerror=\"window.broken='name'\"><b>bold</b></script><script>window.broken='script'</script>"


@pytest.mark.parametrize("way", ["served", "exported"])
def test_names_and_texts_of_a_run_are_never_markup(watched: Watched, tmp_path: Path, way: str):
    """Nor properties of JavaScript's objects."""
    properties = {"constructor": 1.0, "toString": 2.0, "__proto__": 3.0}
    for number in range(12):
        config = {HOSTILE: f"{HOSTILE}{number}", "x": f"<b>{number % 3}", "seed": number % 2}
        row = {"val/elbo": -1.0 * number, HOSTILE: 1.0 * number, "val/rate": 1.0 + number, "val/distortion": 2.0}
        if number == 0:
            config |= properties
            row |= {**properties, "v": [1e308, -1e308, 0.0]}
        row |= {"figures/" + HOSTILE: picture("media/images/a.png")}
        texts = {"display_name": HOSTILE + str(number), "run_group": HOSTILE, "tags": [HOSTILE], "notes": HOSTILE}
        console = [console_record(f"WARNING {HOSTILE}\n")]
        path = make_run(
            tmp_path, f"r{number}", config, [row], started=1_700_000_000 + number, more=console, **texts
        )
        (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)

    def visit(address: str) -> None:
        columns = f"{HOSTILE}\x1fconstructor\x1f__proto__"
        for page in ("runs", "charts", "sweep", "images", "compare", "run", "constructor", "__proto__"):
            state = {"metric": HOSTILE, "metrics": f"{HOSTILE}\x1fval/elbo", "key": HOSTILE, "rows": "x"}
            state |= {"cols": HOSTILE, "picture": "figures/" + HOSTILE, "columns": columns, "sort": "started"}
            state |= {
                "compare": "r0\x1fr1\x1fr2",
                "panels": HOSTILE,
                "facet": "x",
                "tint": HOSTILE,
                "sweep": HOSTILE,
            }
            state |= {"group": "constructor" if page == "compare" else HOSTILE, "across": HOSTILE}
            show(watched, address, page=page, **state)
            watched.page.reload()
            watched.page.wait_for_function(
                "(n) => document.getElementById('status').innerText.includes('12 runs')", timeout=TIMEOUT
            )
            watched.page.wait_for_timeout(700)
            for hover in watched.page.locator(".scatterlayer .point").all()[:2]:
                hover.hover(force=True)
            assert watched.page.evaluate("() => window.broken") is None
            assert watched.page.locator("main b, main script, main img[src=x], svg b").count() == 0
            assert HOSTILE[:20] in watched.page.locator("main").inner_text() or page == "sweep"
            if page in ("runs", "constructor"):
                expect_cells(watched, "__proto__", ["3", *[""] * 11])
                expect_cells(watched, "constructor", ["1", *[""] * 11])

    if way == "served":
        with dashboard([tmp_path]) as address:
            visit(address)
    else:
        page = tmp_path / "page.html"
        export([tmp_path], page, private=True, max_megabytes=50)
        visit(page.as_uri())
    assert watched.complaints == []


@pytest.mark.parametrize("width", [320, 390])
def test_pages_are_as_wide_as_a_phone_and_as_a_screen_at_400_percent(watched: Watched, tmp_path: Path, width: int):
    """1280 pixels at 400 % are 320; what is wider than the page scrolls inside of its own frame."""
    for number in range(12):
        config = {"model": {"latent_dim": 2 ** (number % 3), "hidden_dims": [100 * (number % 2)]}, "seed": number}
        row = {"val/elbo": -1.0 * number, "val/rate": 1.0, "val/distortion": 1.0 * number}
        make_run(
            tmp_path,
            f"r{number}",
            config,
            [row | {"val/unit_rates": [1.0, 0.5]}],
            display_name="a_name_that_is_long_" * 4,
        )
    watched.page.set_viewport_size({"width": width, "height": 256})
    with dashboard([tmp_path]) as address:
        for page in ("runs", "charts", "sweep", "images", "compare", "run"):
            show(watched, address, page=page, compare="r0\x1fr1\x1fr2")
            watched.page.wait_for_function("() => document.getElementById('status').innerText.includes('12 runs')")
            watched.page.wait_for_timeout(800)
            assert watched.page.evaluate("() => document.documentElement.scrollWidth") <= width, page
    assert watched.complaints == []


def test_everything_is_reached_and_kept_by_the_keyboard(watched: Watched, tmp_path: Path):
    paths = [
        make_run(tmp_path, f"r{number}", {"x": number}, [{"val/elbo": 1.0 * number}], exit_code=None)
        for number in range(3)
    ]
    page = watched.page
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs")
        expect(rows(watched)).to_have_count(3, timeout=TIMEOUT)
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        page.get_by_role("button", name="x", exact=True).focus()
        page.keyboard.press("Enter")
        expect_cells(watched, "x", ["0", "1", "2"])
        box = page.get_by_role("checkbox", name="Select r1")
        box.focus()
        page.keyboard.press("Space")
        expect(page.locator("#count")).to_contain_text("1 selected")
        append(paths[1], history_record(20, {"val/elbo": 7.0}), summary_record({"val/elbo": 7.0}))
        expect(page.locator("tr[data-run=r1]")).to_contain_text("7", timeout=TIMEOUT)
        expect(page.locator("[data-key='box r1']")).to_be_focused()
        page.get_by_role("link", name="Charts").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".chart .scatterlayer .trace")).to_have_count(1, timeout=TIMEOUT)
        expect(page.get_by_role("link", name="Charts")).to_be_focused()
        page.locator("summary", has_text="Metrics").press("Enter")
        expect(page.locator("details.menu[open]")).to_have_count(1)
        page.keyboard.press("Escape")
        expect(page.locator("details.menu[open]")).to_have_count(0)
    assert watched.complaints == []


def heads(watched: Watched) -> list[str]:
    return watched.page.locator("table.runs thead th").all_inner_texts()[1:]


def arrange_columns(page: Any) -> None:
    """With the keyboard, the pointer and the menu."""
    page.get_by_role("button", name="val/elbo", exact=True).press("Alt+ArrowRight")
    expect(page.get_by_role("button", name="val/elbo", exact=True)).to_be_focused()
    expect(page.locator("#said")).to_have_text(re.compile("val/elbo: column 4 of"))
    page.locator("th[data-column=epoch]").hover()
    page.mouse.down()
    page.locator("th[data-column=y]").hover()
    page.mouse.up()
    page.locator("summary", has_text="Columns").click()
    page.get_by_role("checkbox", name="runtime", exact=True).uncheck()
    page.get_by_role("button", name="Pin test/elbo").click()
    page.keyboard.press("Escape")


def test_the_table_is_arranged_and_the_arrangement_is_kept(watched: Watched, tmp_path: Path):
    """In the address and, for addresses without an arrangement, by the browser."""
    page = watched.page
    for number in range(4):
        row = {"val/elbo": -1.0 * number, "test/elbo": -2.0 * number}
        config = {"x": number % 2, "y": number, "longer" * 20: number + 5}
        make_run(tmp_path, f"r{number}", config, [row], started=1_700_000_000 + number)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs")
        expect(rows(watched)).to_have_count(4, timeout=TIMEOUT)
        usual = [
            "name",
            "state",
            "val/elbo",
            "test/elbo",
            "x",
            "y",
            "longer" * 20,
            "epoch",
            "runtime",
            "started ▼",
        ]
        assert heads(watched) == usual
        arrange_columns(page)
        arranged = ["name", "test/elbo", "state", "val/elbo", "x", "epoch", "y", "longer" * 20, "started ▼"]
        assert heads(watched) == arranged
        page.locator(".scroll").evaluate("(scroll) => { scroll.scrollLeft = 200; }")
        left = "([a, b]) => a.getBoundingClientRect().right - b.getBoundingClientRect().left"
        cells = [page.locator(f"tr[data-run=r1] td:nth-child({index})").element_handle() for index in (2, 3)]
        assert page.evaluate(left, cells) == pytest.approx(0, abs=1)
        kept = page.url
        page.goto("about:blank")
        show(watched, address, page="runs")
        expect(rows(watched)).to_have_count(4, timeout=TIMEOUT)
        assert heads(watched) == arranged
        page.locator("summary", has_text="Columns").click()
        page.get_by_role("button", name="Usual columns").click()
        assert heads(watched) == usual
        page.goto(kept)
        assert heads(watched) == arranged
        page.get_by_role("button", name="x", exact=True).click()
        page.locator("th[data-column=y] button").press("Shift+Enter")
        page.locator("th[data-column=y] button").click(modifiers=["Shift"])
        expect_cells(watched, "state", ["finished"] * 4)
        assert [row.get_attribute("data-run") for row in rows(watched).all()] == ["r2", "r0", "r3", "r1"]
        assert {"x ▲1", "y ▼2"} <= set(heads(watched))
    assert watched.complaints == []


def test_everything_is_fetched_again_from_a_restarted_server(watched: Watched, tmp_path: Path):
    path = make_run(tmp_path, "one", rows=[{"a": 1.0}], exit_code=None)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs")
        expect(rows(watched)).to_have_count(1, timeout=TIMEOUT)
        for step in range(20, 26):  # the first server's cursor is ahead of the second's
            append(path, history_record(step, {"a": 1.0 * step}), summary_record({"a": 1.0 * step}))
            watched.page.wait_for_timeout(600)
        expect(rows(watched).first).to_contain_text("25", timeout=TIMEOUT)
    make_run(tmp_path, "two", rows=[{"a": 7.0}], started=1_700_000_500)
    with dashboard([tmp_path], "--port", address.rstrip("/").rpartition(":")[2]):
        expect(rows(watched)).to_have_count(2, timeout=TIMEOUT)
        expect(watched.page.locator("#status")).to_contain_text("2 runs")


def test_a_curve_is_fetched_again_from_a_restarted_server_whose_versions_are_the_same(
    watched: Watched, tmp_path: Path
):
    path = make_run(tmp_path, "one", rows=[{"a": 1.0}, {"a": 2.0}])
    points = "(count) => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.length === count"
    with dashboard([tmp_path]) as address:
        show(watched, address, page="charts")
        watched.page.wait_for_function(points, arg=2, timeout=TIMEOUT)
        version = watched.page.evaluate("runs.get('one').version")
    append(path, history_record(30, {"a": 3.0, "epoch": 3}))
    with dashboard([tmp_path], "--port", address.rstrip("/").rpartition(":")[2]):
        watched.page.wait_for_function(points, arg=3, timeout=TIMEOUT)
        assert watched.page.evaluate("runs.get('one').version") == version


def test_a_problem_of_the_page_stays_until_it_draws_and_is_not_one_of_the_server(watched: Watched, tmp_path: Path):
    path = make_run(tmp_path, "one", rows=[{"a": 1.0}], exit_code=None)
    status = watched.page.locator("#status")
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs")
        expect(status).to_have_text("1 run, 1 running", timeout=TIMEOUT)
        watched.page.evaluate(
            "() => { window.usual = served.curves; served.curves = () => { throw Error('x'); }; }"
        )
        show(watched, address, page="charts")
        expect(status).to_have_text("Could not be drawn: x", timeout=TIMEOUT)
        watched.page.wait_for_timeout(2_500)
        expect(status).to_have_text("Could not be drawn: x")
        watched.page.evaluate("() => { served.curves = window.usual; }")
        append(path, history_record(20, {"a": 2.0}))
        expect(status).to_have_text("1 run, 1 running", timeout=TIMEOUT)
        watched.page.evaluate("() => { dataListeners.push(() => { throw Error('y'); }); }")
        version = watched.page.evaluate("runs.get('one').version")
        append(path, history_record(30, {"a": 3.0}))
        watched.page.wait_for_function("(old) => runs.get('one').version > old", arg=version, timeout=TIMEOUT)
        watched.page.wait_for_timeout(500)
        expect(status).not_to_contain_text("The server does not answer", timeout=500)
    expect(status).to_contain_text("The server does not answer", timeout=TIMEOUT)


def test_words_for_numbers_that_are_not_finite_are_sorted_as_numbers(watched: Watched, tmp_path: Path):
    for number, value in enumerate((-98.0, "NaN", "Infinity", -90.0, "-Infinity")):
        make_run(tmp_path, f"r{number}", {"x": number}, [{"m": value}], started=1_700_000_000 + number)
    make_run(tmp_path, "r5", {"x": 5}, started=1_700_000_005)
    with dashboard([tmp_path]) as address:
        for sort, order in (("m", "403215"), ("-m", "230415")):
            show(watched, address, page="runs", sort=f"{sort}\x1fx")
            expect(rows(watched)).to_have_count(6, timeout=TIMEOUT)
            expect(rows(watched).first).to_have_attribute("data-run", f"r{order[0]}")
            assert [row.get_attribute("data-run") for row in rows(watched).all()] == [f"r{n}" for n in order]
    assert watched.complaints == []


def test_the_table_that_is_saved_holds_no_formula(watched: Watched, tmp_path: Path):
    values = ["=1+1", "@SUM(1)", "-1+cmd|' /C calc'!A0", "\r=1+1", "-1.5", "plain"]
    make_run(tmp_path, "one", {"=HYPERLINK(1)": values[0], **{f"k{n}": value for n, value in enumerate(values)}})
    make_run(tmp_path, "two", {"=HYPERLINK(1)": "", **{f"k{n}": "other" for n in range(6)}}, started=1_700_000_500)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", sort="started")
        expect(rows(watched)).to_have_count(2, timeout=TIMEOUT)
        with watched.page.expect_download() as download:
            watched.page.get_by_role("button", name="CSV").click()
        with Path(download.value.path()).open(newline="") as file:
            heads, row = list(csv.reader(file))[:2]
    assert "'=HYPERLINK(1)" in heads
    assert [row[heads.index(f"k{n}")] for n in range(6)] == [
        "'=1+1", "'@SUM(1)", "'-1+cmd|' /C calc'!A0", "'\r=1+1", "-1.5", "plain",
    ]  # fmt: skip


def test_only_a_finished_run_is_the_best_and_columns_differ(watched: Watched, tmp_path: Path):
    """The columns are those of the runs that have the key: a run without any adds none."""
    for number, (elbo, code) in enumerate(((-5.0, 0), (-4.0, 0), (-3.0, 130), (-2.0, None), (-1.0, 1))):
        config = {"model": {"latent_dim": number, "activation": "relu"}}
        make_run(tmp_path, f"r{number}", config, [{"val/elbo": elbo}], code, started=1_700_000_000 + number)
    make_run(tmp_path, "foreign", {"text": "x"}, [{"val/elbo": 0.0}], 3, started=1_700_000_500)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", sort="started")
        states = ["finished", "finished", "interrupted", "running", "failed (1)", "failed (3)"]
        expect_cells(watched, "state", states)
        expect(watched.page.locator("tr.best")).to_have_count(1)
        expect(watched.page.locator("tr.best")).to_have_attribute("data-run", "r1")
        heads = [head.strip() for head in watched.page.locator("table.runs thead th").all_inner_texts()]
        assert heads == ["", "name", "state", "val/elbo", "model.latent_dim", "epoch", "runtime", "started ▲"]
    assert watched.complaints == []


def test_columns_and_labels_name_what_tells_the_shown_runs_apart(watched: Watched, tmp_path: Path):
    for number in range(12):
        path = {f"a{key}": f"a text of run {number // 4}" for key in range(8)}
        config = {**path, "x": number % 4, "y": number // 4, "seed": number % 2}
        make_run(tmp_path, f"r{number}", config, [{"val/elbo": -1.0}], started=1_700_000_000 + number)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", filter="y=1")
        expect(rows(watched)).to_have_count(4, timeout=TIMEOUT)
        heads = [head.strip() for head in watched.page.locator("table.runs thead th").all_inner_texts()]
        assert heads == ["", "name", "state", "val/elbo", "x", "seed", "epoch", "runtime", "started ▼"]
        show(watched, address, page="charts")
        legend = watched.page.locator(".legend button")
        expect(legend).to_have_count(12, timeout=TIMEOUT)
        texts = legend.all_inner_texts()
        assert len(set(texts)) == 12
        assert all(len(text) < 48 for text in texts)
    assert watched.complaints == []


def test_the_jobs_of_a_sweep_have_the_names_of_the_sweep_command(watched: Watched, tmp_path: Path):
    for number in range(4):
        width = number % 2 + 1
        config = {
            "run_directory": f"/multirun/mine/data-digits_{number}",
            "model": {"latent_dim": number, "hidden_dims": [8], "decoder": {"hidden_dims": [width]}},
            "seed": number // 2,
            "overrides": {"data": "digits", "model.decoder.hidden_dims": f"[{width}]", "seed": str(number // 2)},
        }
        fields = {"job_type": "sweep", "display_name": f"data-digits_{number}", "started": 1_700_000_000 + number}
        make_run(tmp_path, f"r{number}", config, [{"val/elbo": -1.0}], **fields)
    names = [f"decoder.hidden_dims=[{n % 2 + 1}] seed={n // 2}" for n in range(4)]
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", sort="started")
        links = watched.page.locator("table.runs tr[data-run] a")
        expect(links).to_have_text(names, timeout=TIMEOUT)
        expect(links.nth(1)).to_have_attribute("title", "data-digits_1")
        watched.page.get_by_label("Filter").fill("data-digits_1")
        expect(links).to_have_text(names[1:2])
        show(watched, address, page="charts", filter="seed=0")
        legend = watched.page.locator(".legend button")
        expect(legend).to_have_text(names[1::-1], timeout=TIMEOUT)
        show(watched, address, page="run", run="r3")
        expect(watched.page.locator("main h2").first).to_have_text(f" {names[3]}", timeout=TIMEOUT)
    assert watched.complaints == []


def test_a_run_has_one_label_on_all_pages(watched: Watched, tmp_path: Path):
    """Its group or its id where others would have the same one."""
    for number in range(6):
        sweep, seed = ["one", "two", ""][number // 2], number % 2
        config = {"run_directory": f"/outputs/{number}", "seed": seed, "overrides": {}}
        fields = {"display_name": "digits-mlp"}
        if sweep:
            config |= {"run_directory": f"/multirun/{sweep}/{seed}", "overrides": {"seed": str(seed)}}
            fields = {"display_name": f"seed-{seed}", "job_type": "sweep", "run_group": sweep}
        row = {"val/elbo": -1.0, "figures/a": picture("media/images/a.png")}
        path = make_run(tmp_path, f"r{number}", config, [row], started=1_700_000_000 + number, **fields)
        (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    labels = [f"{sweep}: seed={seed}" for sweep in ("one", "two") for seed in (0, 1)]
    labels += [f"digits-mlp ({run})" for run in ("r4", "r5")]
    with dashboard([tmp_path]) as address:
        for page, place in {
            "runs": "tr[data-run] a",
            "charts": ".legend button span:not(.swatch)",
            "images": "figcaption a",
            "compare": ".of-runs a",
        }.items():
            show(watched, address, page=page, sort="started", compare="\x1f".join(f"r{n}" for n in range(6)))
            expect(watched.page.locator(place)).to_have_text(labels, timeout=TIMEOUT)
        show(watched, address, page="run", run="r2")
        expect(watched.page.locator("main h2").first).to_have_text(f" {labels[2]}", timeout=TIMEOUT)
    assert watched.complaints == []


def test_a_job_that_was_retried_has_one_row(watched: Watched, tmp_path: Path):
    make_run(tmp_path, "first", {"run_directory": "/runs/a"}, [{"val/elbo": -2.0}], 1)
    make_run(tmp_path, "second", {"run_directory": "/runs/a"}, [{"val/elbo": -1.0}], started=1_700_000_300)
    page = tmp_path / "page.html"
    export([tmp_path], page, private=False, max_megabytes=50)
    with dashboard([tmp_path]) as address:
        for url in (address, page.as_uri()):
            show(watched, url, page="runs")
            expect(rows(watched)).to_have_count(1, timeout=TIMEOUT)
            expect_cells(watched, "state", ["finished, attempt 2"])
            expect(watched.page.locator("#status")).to_have_text("1 run")
            show(watched, url, page="run", run="first")
            expect(watched.page.locator("main")).to_contain_text("replaced by a later attempt", timeout=TIMEOUT)
    assert watched.complaints == []


@pytest.mark.parametrize("others", ["mean", "best"])
def test_pages_combine_settings_as_the_sweep_command_does(watched: Watched, tmp_path: Path, others: Others):
    """Against `vae_exp.sweep.aggregate` on the same numbers; a failed run counts nowhere."""
    source, settings, number = np.random.default_rng(0), [], 0
    for latent, beta, seeds in ((2, 1, 2), (2, 4, 3), (8, 1, 2), (8, 4, 2)):
        values = source.normal(-30, 5, seeds).round(3).tolist()
        keys = {"model.latent_dim": str(latent), "loss.beta": str(beta)}
        settings.append(SeedGroup(keys, seeds, {"val/elbo": estimate(values)}))
        for seed, value in enumerate([*values, 0.0]):
            config = {"model": {"latent_dim": latent}, "loss": {"beta": beta}, "seed": seed}
            code = 0 if seed < seeds else 1
            make_run(tmp_path, f"r{number}", config, [{"val/elbo": value}], code, started=1_700_000_000 + number)
            number += 1
    rows = combine_settings(settings, ["model.latent_dim"], others, "val/elbo")
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", group="model.latent_dim", sort="model.latent_dim", others=others)
        group = watched.page.locator("tr.group")
        expect(group).to_have_count(2, timeout=TIMEOUT)
        for number, row in enumerate(rows):
            value = row.metrics["val/elbo"]
            expect(group.nth(number)).to_contain_text(f"{value.mean:.3f} ± {value.error:.3f}", timeout=TIMEOUT)
        text = meaning(settings, ["model.latent_dim"], others, "val/elbo")
        expect(watched.page.locator("#meaning")).to_contain_text(f"groups: {text}; ± standard errors over seeds")
        show(watched, address, page="sweep", key="loss.beta", rows="model.latent_dim", cols="seed", others=others)
        expect(watched.page.locator("#caption-key")).to_have_text(
            "points: mean over 2 to 3 seeds; bars: standard errors over seeds; "
            f"line: {others} over model.latent_dim",
            timeout=TIMEOUT,
        )
        expect(watched.page.locator("#caption-heat")).to_have_text(f"one seed each; {others} over loss.beta")
        expect(watched.page.locator("#chart-key .scatterlayer .trace")).to_have_count(2)
        line, points = watched.page.evaluate("() => document.getElementById('chart-key').data.map((t) => t.y)")
        expected = combine_settings(settings, ["loss.beta"], others, "val/elbo")
        assert line == pytest.approx([x.metrics["val/elbo"].mean for x in expected])
        assert sorted(points) == pytest.approx(sorted(x.metrics["val/elbo"].mean for x in settings))
        watched.page.get_by_label("Other keys").select_option("best" if others == "mean" else "")
        expect(watched.page.locator("#caption-heat")).not_to_contain_text(others)
    assert watched.complaints == []


def test_runs_are_filtered_by_swept_overrides(watched: Watched, tmp_path: Path):
    for number, (loss, target) in enumerate((("iwae", "a.b.IWAE"), ("elbo", "a.b.ELBO"), ("elbo", "a.b.ELBO"))):
        config = {
            "run_directory": f"x{number}",
            "loss": {"_target_": target, "num_samples": 5 if loss == "iwae" else None},
            "model": {"latent_dim": 2 * number, "encoder": {"latent_dim": 2 * number}},
            "a": {"width": 1},
            "b": {"width": 2},
            "swept": {"loss": loss, "model.latent_dim": str(2 * number)},
        }
        make_run(tmp_path, f"r{number}", config, [{"val/elbo": -1.0}], started=1_700_000_000 + number)
    with dashboard([tmp_path]) as address:
        show(watched, address, page="runs", sort="started")
        expect(rows(watched)).to_have_count(3, timeout=TIMEOUT)
        expect_cells(watched, "loss", ["iwae", "elbo", "elbo"])
        assert watched.page.get_by_role("button", name="loss.num_samples").count() == 0
        count = watched.page.locator("#count")
        for text, status in (
            ("loss=elbo", "2 of 3 runs"),
            ("loss!=elbo", "1 of 3 runs"),
            ("loss._target_=IWAE", "1 of 3 runs"),
            ("loss._target_~b.EL", "2 of 3 runs"),
            ("latent_dim>=2 loss=elbo", "2 of 3 runs"),
            ("latent=2", "0 of 3 runs, no run has “latent”"),
            ("width=1", "0 of 3 runs, “width” is a.width or b.width"),
            ("latent_dim>>2", "0 of 3 runs, “>2” is no number to compare latent_dim with"),
        ):
            watched.page.get_by_label("Filter").fill(text)
            expect(count).to_have_text(status, timeout=TIMEOUT)
    assert watched.complaints == []
