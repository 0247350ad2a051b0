"""One walk over the pages in a browser, served and exported."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import PNG, make_run, picture
from vae_exp.dashboard.web.export import export

MILLISECONDS = 20_000


@pytest.mark.parametrize("way", ["served", "exported"])
def test_the_pages_show_runs_and_send_no_foreign_request(watched: Watched, tmp_path: Path, way: str):
    """Of five runs, the last has data of its own; the root does not tell the data of the others apart."""
    for number in range(5):
        source = {"name": f"set{number // 2}", "root": f"/home/{number}"}
        config = {"x": number % 2, "data": {"source": source}, "run_directory": f"/runs/{number}"}
        rows = [
            {"val/elbo": number - 30.0},
            {"val/elbo": number - 20.0, "figures/a": picture("media/images/a.png")},
        ]
        path = make_run(tmp_path, f"r{number}", config, rows, started=1_700_000_000 + number)
        (path.parent / "files" / "media" / "images" / "a.png").write_bytes(PNG)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page = watched.page
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        page.goto(f"{address}#page=runs&sort=-val/elbo")
        table_rows = page.locator("table.runs tr[data-run]")
        expect(table_rows).to_have_count(5, timeout=MILLISECONDS)
        best = page.locator("table.runs tr.best")
        expect(best.first).to_contain_text("★ best r3of source.name=set1")
        assert [row.get_attribute("data-run") for row in best.all()] == ["r3", "r1"]
        page.get_by_label("Filter").fill("data.source.name=set0")
        expect(table_rows).to_have_count(2)
        expect(best).to_have_text(re.compile("★ best r1finished"))
        page.goto(f"{address}#page=charts")
        expect(page.locator(".chart .scatterlayer .trace")).to_have_count(5, timeout=MILLISECONDS)
        expect(page.locator("main [role=status]").first).to_contain_text("their values cannot be compared")
        page.goto(f"{address}#page=sweep&key=x&rows=x&cols=x")
        expect(page.locator("#caption-key")).to_contain_text(
            "mean over data.source.name (different data or likelihoods)"
        )
        expect(page.locator("main [role=status]").first).to_contain_text("their values cannot be compared")
        page.goto(f"{address}#page=images")
        expect(page.locator("figure img")).to_have_count(5, timeout=MILLISECONDS)
        expect(page.locator("figcaption").first).to_contain_text("· after epoch ")
        page.goto(f"{address}#page=run&run=r2")
        expect(page.get_by_role("region", name="Config")).to_contain_text("data.source", timeout=MILLISECONDS)
    assert all(url.startswith((address, "data:", "blob:")) for url in watched.requests)
    assert watched.complaints == []
