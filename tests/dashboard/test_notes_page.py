"""Notes beside runs in a browser: served with and without permission to save them, and exported."""

import csv
import io
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import append, history_record, make_run
from vae_exp.dashboard.web.export import export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TIMEOUT = 20_000  # milliseconds
HOSTILE = '<img src=x onerror="window.broken=1">\nsecond line'


def make_runs(root: Path) -> dict[str, Path]:
    """Two runs with a directory, and one without; the files of notes by run."""
    notes = {}
    for number, name in enumerate(("one", "two", "other")):
        config = {"x": number}
        if name != "other":
            (root / name / ".hydra").mkdir(parents=True)
            (root / name / ".hydra" / "config.yaml").write_text("{}")
            config["run_directory"] = str(root / name)
            notes[name] = root / name / "notes.md"
        make_run(root, name, config, [{"a": 1.0}], started=1_700_000_000 + number, notes="of W&B")
    return notes


def test_a_note_is_written_on_the_page_and_by_an_editor(watched: Watched, tmp_path: Path):
    notes = make_runs(tmp_path)
    page = watched.page
    with dashboard([tmp_path], "--allow-notes") as address:
        page.goto(f"{address}#page=run&run=one")
        area, status = page.get_by_label("Notes on this run"), page.locator("[aria-label=Notes] [role=status]")
        area.fill(HOSTILE, timeout=TIMEOUT)
        expect(status).to_have_text("Not saved yet")
        page.locator("main select").first.select_option("two")
        expect(page.locator("h2").first).to_contain_text("two")
        expect(area).to_have_value("")
        page.locator("main select").first.select_option("one")
        expect(area).to_have_value(HOSTILE)
        area.press("Control+Enter")
        expect(status).to_have_text("Saved")
        assert notes["one"].read_text() == HOSTILE
        expect(page.get_by_text("Notes in W&B: of W&B")).to_be_visible()
        notes["one"].write_text("by an editor")
        expect(area).to_have_value("by an editor", timeout=TIMEOUT)
        area.fill("mine")
        notes["one"].write_text("again by an editor")
        expect(page.get_by_label("The changed note")).to_have_text("again by an editor", timeout=TIMEOUT)
        expect(area).to_have_value("mine")
        page.get_by_role("button", name="Save", exact=True).click()
        expect(status).to_have_text("Saved")
        expect(page.get_by_label("The changed note")).to_have_count(0)
        assert notes["one"].read_text() == "mine"
        notes["two"].write_text("line 1\nline 2")
        page.goto(f"{address}#page=runs&sort=x")
        cells = page.locator("td.notes")
        expect(cells).to_have_text(["mine", "line 1", ""], timeout=TIMEOUT)
        expect(cells.nth(1)).to_have_attribute("title", "line 1\nline 2")
        page.get_by_label("Filter").fill("notes~line")
        expect(page.locator("tr[data-run]")).to_have_count(1)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        [row] = csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode(), newline=""))
        assert row["notes"] == "line 1\nline 2"
        page.goto(f"{address}#page=compare&compare=one%1Ftwo")
        expect(page.locator("td .lines")).to_have_text(["mine", "line 1\nline 2"])
        page.goto(f"{address}#page=run&run=other")
        expect(page.get_by_text("Not edited here: this run has no run directory")).to_be_visible()
    assert watched.complaints == []


def test_what_is_typed_stays_while_the_run_grows_or_the_server_refuses(watched: Watched, tmp_path: Path):
    notes = make_runs(tmp_path)
    [log] = tmp_path.rglob("run-one.wandb")
    page = watched.page
    with dashboard([tmp_path], "--allow-notes") as address:
        page.goto(f"{address}#page=run&run=one")
        area, status = page.get_by_label("Notes on this run"), page.locator("[aria-label=Notes] [role=status]")
        area.press_sequentially("half of a", timeout=TIMEOUT)
        append(log, history_record(20, {"b": 1.0, "epoch": 2}))
        expect(page.locator(".curves h2")).to_have_count(2, timeout=TIMEOUT)
        expect(area).to_be_focused()
        area.press_sequentially(" note")
        expect(area).to_have_value("half of a note")
        (tmp_path / "one" / ".hydra" / "config.yaml").rename(tmp_path / "config.yaml")
        (tmp_path / "one" / ".hydra").rmdir()
        page.get_by_role("button", name="Save", exact=True).click()
        expect(status).to_contain_text("Not saved: ")
        expect(status).to_contain_text("holds no run here")
        expect(area).to_have_value("half of a note")
        assert not notes["one"].exists()
        area.fill("a" * 10_001)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(status).to_have_text("Not saved: a note has at most 10,000 characters.")
        expect(area).to_have_value("a" * 10_001)
    assert all("400" in complaint for complaint in watched.complaints)


def test_the_run_that_the_page_has_chosen_stays_when_another_starts(watched: Watched, tmp_path: Path):
    notes = make_runs(tmp_path)
    [log] = tmp_path.rglob("run-other.wandb")
    shutil.rmtree(log.parent)
    page = watched.page
    with dashboard([tmp_path], "--allow-notes") as address:
        page.goto(f"{address}#page=run")
        area = page.get_by_label("Notes on this run")
        area.press_sequentially("on two", timeout=TIMEOUT)
        assert "run=two" in page.url
        make_run(tmp_path, "three", {}, [{"a": 1.0}], started=1_700_000_900)
        expect(page.locator("#status")).to_have_text("3 runs", timeout=TIMEOUT)
        page.wait_for_timeout(500)
        expect(page.locator("h2").first).to_contain_text("two")
        area.press("Control+Enter")
        expect(page.locator("[aria-label=Notes] [role=status]")).to_have_text("Saved")
        assert notes["two"].read_text() == "on two"
    assert watched.complaints == []


@pytest.mark.parametrize("way", ["served", "exported"])
def test_without_permission_a_note_is_text(watched: Watched, tmp_path: Path, way: str):
    notes = make_runs(tmp_path)
    notes["one"].write_text(HOSTILE)
    if way == "exported":
        export([tmp_path], tmp_path / "page.html", private=False, max_megabytes=50)
    page = watched.page
    with dashboard([tmp_path]) if way == "served" else nullcontext((tmp_path / "page.html").as_uri()) as address:
        page.goto(f"{address}#page=run&run=one")
        expect(page.locator("[aria-label=Notes] p")).to_have_text(HOSTILE, timeout=TIMEOUT)
        expect(page.locator("textarea")).to_have_count(0)
        page.goto(f"{address}#page=run&run=two")
        expect(page.locator("h2").first).to_contain_text("two")
        expect(page.locator("[aria-label=Notes]")).to_have_count(0)
        page.goto(f"{address}#page=runs&sort=x")
        expect(page.locator("td.notes").first).to_have_text(f"{HOSTILE[:31]}…")
        assert page.evaluate("() => window.broken ?? 'whole'") == "whole"
    assert watched.complaints == []
