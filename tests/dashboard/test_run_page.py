"""The page of one run in a browser, served and exported."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import alert_record, append, make_run, stats_record, summary_record
from vae_exp.dashboard.web.export import export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds
DRAWN = """() => Object.fromEntries([...document.querySelectorAll('.curves .panel')]
    .map((panel) => [panel.querySelector('h2').textContent, panel.querySelector('.chart')])
    .filter(([, chart]) => chart.data)
    .map(([name, chart]) => [name, chart.data.map((trace) => [trace.name, trace.x, trace.y])]))"""


@pytest.mark.parametrize("way", ["served", "exported"])
def test_training_and_validation_of_a_metric_share_a_panel(watched: Watched, tmp_path: Path, way: str):
    rows = [
        {"train/elbo": -9.0, "val/elbo": -8.0, "train/grad_norm": 2.0, "val/active_units": 1, "train/loss": 9.0},
        {"train/elbo": -7.0, "val/elbo": -6.0, "train/grad_norm": 1.0, "val/active_units": 2, "train/loss": 7.0},
    ]
    machine = [stats_record(1_700_000_001, {"a": 1.0, "gpu.0.gpu": 90.0, "gpu.0.memoryAllocatedBytes": 2.5e9})]
    make_run(tmp_path, "one", {}, rows, more=machine)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page = watched.page
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        page.goto(f"{address}#page=run&run=one")
        expect(page.locator(".curves .scatterlayer")).to_have_count(3, timeout=TIMEOUT)
        drawn = page.evaluate(DRAWN)
        assert list(drawn) == ["loss", "elbo", "grad_norm"]
        assert drawn["elbo"] == [["train/elbo", [1, 2], [-9, -7]], ["val/elbo", [1, 2], [-8, -6]]]
        page.get_by_label("Against").select_option("time")
        page.locator("summary", has_text="Curves").click()
        page.get_by_label("active_units", exact=True).check()
        for name in ("loss", "elbo", "grad_norm"):
            page.get_by_label(name, exact=True).uncheck()
        expect(page.locator(".curves .panel")).to_have_count(1)
        page.wait_for_function(f"() => ({DRAWN})().active_units?.[0][1][1] === 1")
        assert page.evaluate(DRAWN) == {"active_units": [["val/active_units", [0.5, 1], [1, 2]]]}
        assert "panels=active_units" in page.url
        expect(page.locator(".gpu h3")).to_have_text(["GPU 0: utilisation (%)", "GPU 0: memory (GB)"])
        drawn = "() => [...document.querySelectorAll('.gpu .chart')].map((chart) => chart.data[0].y)"
        assert page.evaluate(drawn) == [[90], [2.5]]
        page.locator("summary", has_text="Machine").click()
        expect(page.locator(".machine h3")).to_have_text(["a"])
    assert watched.complaints == []


def test_what_is_open_scrolled_and_focused_stays_while_the_run_grows(watched: Watched, tmp_path: Path):
    machine = [stats_record(1_700_000_001, {"a": 1.0})]
    config = {f"key{number}": number for number in range(100)}
    path = make_run(tmp_path, "one", config, [{"m": 1.0}], exit_code=None, more=machine)
    with dashboard([tmp_path]) as address:
        page = watched.page
        page.goto(f"{address}#page=run&run=one")
        page.locator("summary", has_text="Machine").click(timeout=TIMEOUT)
        region = page.get_by_role("region", name="Config")
        region.evaluate("(region) => { region.scrollTop = 120; region.focus({ preventScroll: true }); }")
        append(path, summary_record({"m": 7.0}), stats_record(1_700_000_020, {"a": 3.0}))
        expect(page.get_by_role("region", name="Summary")).to_contain_text("7", timeout=TIMEOUT)
        expect(page.locator("details.machine")).to_have_attribute("open", "")
        page.wait_for_function("() => document.querySelector('.machine .chart').data?.[0].y.length === 2")
        assert region.evaluate("(region) => region.scrollTop") == 120
        expect(region).to_be_focused()
        page.locator("summary", has_text="Machine").focus()
        append(path, summary_record({"m": 8.0}))
        expect(page.get_by_role("region", name="Summary")).to_contain_text("8", timeout=TIMEOUT)
        expect(page.locator("summary", has_text="Machine")).to_be_focused()
    assert watched.complaints == []


def test_a_constant_is_drawn_at_its_value(watched: Watched, tmp_path: Path):
    make_run(tmp_path, "one", {}, [{"train/learning_rate": 0.001}] * 3)
    with dashboard([tmp_path]) as address:
        watched.page.goto(f"{address}#page=run&run=one")
        expect(watched.page.locator(".curves .scatterlayer")).to_have_count(1, timeout=TIMEOUT)
        low, high = watched.page.evaluate("() => document.querySelector('.curves .chart')._fullLayout.yaxis.range")
        assert 0 < low < 0.001 < high < 0.002
    assert watched.complaints == []


def test_a_warning_is_in_the_table_with_its_text(watched: Watched, tmp_path: Path):
    make_run(tmp_path, "one", {}, [{"val/rate": 0.0}], more=[alert_record("posterior collapse", "rate below 0.1")])
    with dashboard([tmp_path]) as address:
        watched.page.goto(f"{address}#page=runs")
        mark = watched.page.locator("tr[data-run=one] .warning")
        expect(mark).to_have_text("⚠ posterior collapse", timeout=TIMEOUT)
        expect(mark).to_have_attribute("title", "posterior collapse: rate below 0.1")
    assert watched.complaints == []
