"""The page that compares runs in a browser, served and exported."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import PNG, append, make_run, picture, summary_record
from vae_exp.dashboard.web.export import export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds


def texts(page: Any, title: str) -> list[list[str]]:
    """The rows of a table."""
    script = """(title) => [...document.querySelectorAll(`[role=region][aria-label="${title}"] tbody tr`)]
        .map((row) => [...row.children].map((cell) => cell.textContent.trim()))"""
    return page.evaluate(script, title)


def make_runs(root: Path) -> None:
    """Seven runs that differ in x, their directory, and the number of latent units."""
    for number in range(7):
        config = {"x": number, "part": {"x": number}, "same": "a", "run_directory": f"runs/{number}"}
        rates = [0.5, 2.0 + number] if number < 2 else [1.0]
        rows = [
            {"val/elbo": -9.0 + number},
            {"val/elbo": -8.0 + number, "val/unit_rates": rates, "figures/a": picture("media/images/a.png")},
        ]
        best = summary_record({"best/val/elbo": -8.0 + number, "best/epoch": 2})
        path = make_run(root, f"r{number}", config, rows, started=1_700_000_000 + number, more=[best])
        (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)


@pytest.mark.parametrize("way", ["served", "exported"])
def test_selected_runs_are_compared(watched: Watched, tmp_path: Path, way: str):
    make_runs(tmp_path)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page = watched.page
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        page.goto(f"{address}#page=runs&sort=x")
        button = page.get_by_role("button", name="Compare")
        page.get_by_role("checkbox", name="Select r0").check(timeout=TIMEOUT)
        expect(button).to_be_disabled()
        before = page.locator("main > .controls").bounding_box()
        page.get_by_role("checkbox", name="Select r1").check()
        expect(button).to_be_enabled()
        assert page.locator("main > .controls").bounding_box() == before
        button.click()
        expect(page.locator("section .scatterlayer .trace")).to_have_count(2, timeout=TIMEOUT)
        assert texts(page, "Keys that differ") == [["x", "0", "1"]]
        page.locator("summary", has_text="Keys that follow those above (1)").click()
        assert texts(page, "Keys that follow those above") == [["part.x", "0", "1"]]
        page.locator("summary", has_text="Equal keys (1)").click()
        assert texts(page, "Equal keys") == [["same", "a", "a"]]
        metrics = {name: cells for name, *cells in texts(page, "Metrics")}
        assert metrics["best/val/elbo"] == ["-8.000", "-7.000+1.000"]
        expect(page.locator("section[aria-label=Images] figure img")).to_have_count(2)
        bars = page.locator("section[aria-label='val/unit_rates'] figure")
        expect(bars.nth(1).locator("rect").first).to_have_attribute("width", "250")
        assert float(bars.nth(0).locator("rect").first.get_attribute("width") or 0) == pytest.approx(250 * 2 / 3)
        page.get_by_label("Differences from").select_option("r1")
        expect(page.locator(".difference").first).to_have_text("-1.000")
        page.get_by_label("Add").select_option("r4")
        expect(page.locator("section .scatterlayer .trace")).to_have_count(3)
        page.reload()
        expect(page.locator("section .scatterlayer .trace")).to_have_count(3, timeout=TIMEOUT)
        assert texts(page, "Keys that differ") == [["x", "1", "0", "4"]]
        page.get_by_role("button", name="Remove r0").click()
        expect(page.locator("section .scatterlayer .trace")).to_have_count(2)
        page.go_back()
        expect(page.locator("section .scatterlayer .trace")).to_have_count(3)
    assert watched.complaints == []


def test_two_runs_are_suggested_and_one_or_seven_are_not_compared(watched: Watched, tmp_path: Path):
    make_runs(tmp_path)
    page = watched.page
    with dashboard([tmp_path]) as address:
        message, chosen = page.locator("main [role=status]").first, page.locator(".of-runs [data-run]")
        page.goto(f"{address}#page=compare&filter=x<6")
        expect(message).to_contain_text("The best run by best/val/elbo and the latest other one", timeout=TIMEOUT)
        expect(chosen).to_have_text(["r5 ×", "r4 ×"])
        expect(page.locator("section .scatterlayer .trace")).to_have_count(2)
        page.get_by_label("Add").select_option("r0")
        expect(message).to_have_text("")
        expect(chosen).to_have_count(3)
        page.goto(f"{address}#page=compare&compare=r0")
        expect(message).to_contain_text("Select two to six runs")
        page.goto(f"{address}#page=runs")
        expect(page.locator("tr[data-run]")).to_have_count(7, timeout=TIMEOUT)
        page.get_by_role("checkbox", name="Select all").check()
        expect(page.locator("#count")).to_contain_text("7 selected")
        expect(page.get_by_role("button", name="Compare")).to_be_disabled()
        expect(page.get_by_label("Best by")).to_have_value("val/elbo")
        page.get_by_label("Filter").fill("nothing")
        expect(page.get_by_label("Best by")).to_have_count(0)
    assert watched.complaints == []


def test_choices_scrolled_tables_and_the_focus_stay_while_a_run_grows(watched: Watched, tmp_path: Path):
    rows = [{f"metric{number}": 1.0 * number for number in range(100)}]
    paths = [make_run(tmp_path, name, {"x": name}, rows, exit_code=None) for name in ("one", "two", "three")]
    page = watched.page
    with dashboard([tmp_path]) as address:
        page.goto(f"{address}#page=compare&compare=one%1Ftwo")
        region = page.get_by_role("region", name="Metrics").locator("[role=region]")
        region.evaluate("(region) => { region.scrollTop = 120; }", timeout=TIMEOUT)
        page.get_by_label("Add").focus()
        page.evaluate("() => { window.before = document.activeElement; }")
        append(paths[0], summary_record({"metric1": -500.25}))
        expect(region).to_contain_text("-500.25", timeout=TIMEOUT)
        assert page.evaluate("() => document.activeElement === window.before")
        assert region.evaluate("(region) => region.scrollTop") == 120
        region.focus()
        append(paths[1], summary_record({"metric1": -600.25}))
        expect(region).to_contain_text("-600.25", timeout=TIMEOUT)
        expect(region).to_be_focused()
        page.get_by_label("Add").select_option("three")
        expect(page.locator(".of-runs [data-run]")).to_have_count(3)
    assert watched.complaints == []
