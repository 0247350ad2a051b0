"""The best value of each column in a browser."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import make_run, summary_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds


def marks(page: Any, rows: str = "tr[data-run]") -> list[list[str]]:
    """For each row, the columns with a mark."""
    script = """(rows) => {
      const heads = [...document.querySelectorAll('table.runs thead th')].map((head) => head.dataset.column);
      return [...document.querySelectorAll(`table.runs ${rows}`)].map((row) =>
        [...row.children].flatMap((cell, index) => (cell.matches('.top') ? [heads[index]] : [])));
    }"""
    return page.evaluate(script, rows)


def add(root: Path, name: str, config: dict[str, Any], exit_code: int | None = 0, **metrics: float) -> None:
    number = len(list(root.rglob("*.wandb")))
    row = {f"val/{metric}": value for metric, value in metrics.items()}
    more = [summary_record({"status": "completed"})]
    config = {"data": {"name": "digits"}, "loss": "elbo", **config}
    make_run(root, name, config, [row], exit_code, started=1_700_000_000 + number, more=more)


def test_the_best_of_each_column_is_marked(watched: Watched, tmp_path: Path):
    """Of finished last attempts at the same data; what has no better direction, or is equal, has no mark."""
    add(tmp_path, "first", {"run_directory": "/runs/a"}, elbo=50.0, nll=1.0, rate=1.0)  # replaced
    add(
        tmp_path, "a", {"run_directory": "/runs/a", "x": 1}, elbo=-9.0, nll=8.0, rate=3.0, active_units=2, loss=9.0
    )
    add(tmp_path, "b", {"x": 1}, elbo=-8.0, nll=7.0, rate=2.0, active_units=2, loss=8.0)
    add(tmp_path, "c", {"x": 2}, elbo=-8.0, nll=9.0, rate=2.0, active_units=2, loss=8.5)
    add(tmp_path, "d", {"x": 2, "loss": "iwae"}, elbo=-9.5, nll=9.0, rate=2.0, active_units=2, loss=1.0)
    add(tmp_path, "failed", {"x": 1}, exit_code=1, elbo=1.0, nll=1.0, rate=1.0, active_units=9)
    page = watched.page
    with dashboard([tmp_path]) as address:
        columns = "%1F".join(f"val/{name}" for name in ("elbo", "nll", "rate", "active_units", "loss"))
        page.goto(f"{address}#page=runs&sort=id&columns={columns}")
        expect(page.locator("tr[data-run]")).to_have_count(5, timeout=TIMEOUT)
        assert marks(page) == [[], ["val/elbo", "val/nll", "val/loss"], ["val/elbo"], [], []]
        shown = "() => getComputedStyle(document.querySelector('[data-run=c] td.top'), '::before').content"
        assert "★" in page.evaluate(shown)
        title = "-8, the best of 4 finished runs with the same data and likelihood"
        expect(page.locator("[data-run=c] td.top")).to_have_attribute("title", title)
        page.goto(f"{address}#page=runs&sort=id&columns={columns}&filter=id=a")
        expect(page.locator("tr[data-run]")).to_have_count(1)
        assert marks(page) == [[]]
        page.goto(f"{address}#page=runs&sort=id&columns={columns}&group=x")
        expect(page.locator("tr.group")).to_have_count(2)
        assert marks(page, "tr.group") == [["val/elbo", "val/nll"], []]
        page.goto(f"{address}#page=compare&compare=a%1Fb%1Fd")
        expect(page.locator("section[aria-label=Metrics] td.top")).to_have_count(3, timeout=TIMEOUT)
        add(tmp_path, "other", {"x": 2, "data": {"name": "mnist"}}, elbo=-1.0, nll=1.0)
        page.goto(f"{address}#page=runs&sort=id&columns={columns}&group=x")
        expect(page.locator("tr[data-run]")).to_have_count(6, timeout=TIMEOUT)
        assert marks(page, "tr.group") == [[], []]
        assert marks(page, "tr[data-run=other]") == [[]]
    assert watched.complaints == []
