"""One look at the page in a browser, served and exported."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import make_run
from vae_exp.dashboard.web.export import export

MILLISECONDS = 20_000


@pytest.mark.parametrize("way", ["served", "exported"])
def test_the_page_shows_runs_and_curves_and_asks_nobody_else(watched: Watched, tmp_path: Path, way: str):
    for number in range(3):
        rows = [{"val/elbo": -3.0 - number}, {"val/elbo": -2.0 - number}]
        make_run(tmp_path, f"r{number}", {"x": number}, rows, started=1_700_000_000 + number)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        watched.page.goto(f"{address}#page=runs&sort=-val/elbo")
        rows_shown = watched.page.locator("table.runs tr[data-run]")
        expect(rows_shown).to_have_count(3, timeout=MILLISECONDS)
        expect(rows_shown.first).to_contain_text("★ best")
        watched.page.goto(f"{address}#page=charts")
        traces = watched.page.locator(".chart .scatterlayer .trace")
        expect(traces).to_have_count(3, timeout=MILLISECONDS)
    assert all(url.startswith((address, "data:")) for url in watched.requests)
    assert watched.complaints == []
