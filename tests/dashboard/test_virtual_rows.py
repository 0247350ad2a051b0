"""The table of many runs: only the rows near the visible part exist, and everything works as if all did."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
RUNS = 300
TIMEOUT = 20_000
LONG = "a text that makes its column wide"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("many")
    for number in range(RUNS):
        config = {"width": number % 4, "text": LONG if number == 250 else "short", "number": number}
        rows = [{"val/elbo": float(number)}]
        make_run(
            root, f"r{number:03d}", config, rows, started=1_700_000_000 + number, display_name=f"run {number}"
        )
    with dashboard([root]) as address:
        yield address


@pytest.fixture
def page(address: str, watched: Watched) -> Iterator[Page]:
    watched.page.goto(address)
    expect(watched.page.locator("#count")).to_have_text(f"{RUNS} of {RUNS} runs", timeout=TIMEOUT)
    yield watched.page
    assert watched.complaints == []


def names(page: Page) -> list[str]:
    """The names in the document, from above."""
    texts: list[str] = page.locator("tr[data-run] a").all_inner_texts()
    return texts


def scroll(page: Page, share: float) -> None:
    page.evaluate(
        """async (share) => {
          const scroll = document.querySelector('.scroll');
          scroll.scrollTop = share * scroll.scrollHeight;
          for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
        }""",
        share,
    )


def visible(page: Page) -> list[str]:
    """The names that can be seen, from above."""
    texts: list[str] = page.evaluate("""() => {
      const { top, bottom } = document.querySelector('.scroll').getBoundingClientRect();
      const head = document.querySelector('table.runs thead').getBoundingClientRect();
      return [...document.querySelectorAll('tr[data-run]')].filter((row) => {
        const middle = (row.getBoundingClientRect().top + row.getBoundingClientRect().bottom) / 2;
        return middle > Math.max(top, head.bottom) && middle < bottom;
      }).map((row) => row.querySelector('a').innerText);
    }""")
    return texts


def geometry(page: Page) -> dict[str, Any]:
    result: dict[str, Any] = page.evaluate("""() => {
      const scroll = document.querySelector('.scroll');
      const heads = [...document.querySelectorAll('table.runs thead th')].map((x) => x.getBoundingClientRect());
      return { height: scroll.scrollHeight, top: scroll.getBoundingClientRect().top, head: heads[0].top,
        widths: heads.map((head) => Math.round(head.width)) };
    }""")
    return result


def test_all_rows_can_be_reached_and_few_exist(page: Page):
    assert len(names(page)) < 80
    assert page.locator("table.runs").get_attribute("aria-rowcount") == str(RUNS + 1)
    before = geometry(page)
    seen: list[str] = []
    for step in range(31):
        scroll(page, step / 30)
        rows = visible(page)
        assert len(rows) >= 10, "a part of the table was empty"
        assert len(names(page)) < 80
        seen += [name for name in rows if name not in seen]
    assert seen == [f"run {number}" for number in reversed(range(RUNS))]
    after = geometry(page)
    assert after["height"] == pytest.approx(before["height"], abs=40)
    assert after["head"] == pytest.approx(after["top"], abs=3)
    scroll(page, 0)
    assert visible(page)[0] == f"run {RUNS - 1}"
    assert page.locator("tr[data-run]").nth(2).get_attribute("aria-rowindex") == "4"


def test_columns_do_not_become_narrower_while_the_table_is_scrolled(page: Page):
    scroll(page, (RUNS - 250) / RUNS)
    assert page.get_by_text(LONG).is_visible()
    wide = geometry(page)["widths"]
    scroll(page, 1)
    assert page.get_by_text(LONG).count() == 0
    assert all(now >= before - 1 for before, now in zip(wide, geometry(page)["widths"], strict=True))


def test_sorting_filters_groups_and_selection_are_of_all_runs(page: Page):
    page.get_by_role("button", name="val/elbo", exact=False).first.click()
    page.get_by_role("button", name="val/elbo", exact=False).first.click()
    expect(page.locator("tr[data-run] a").first).to_have_text("run 0", timeout=TIMEOUT)
    page.get_by_label("Select all runs shown").check()
    expect(page.locator("#count")).to_contain_text(f"{RUNS} selected", timeout=TIMEOUT)
    scroll(page, 1)
    assert page.locator("tr[data-run] input:not(:checked)").count() == 0
    page.get_by_label("Filter").fill("number>=290")
    expect(page.locator("tr[data-run]")).to_have_count(10, timeout=TIMEOUT)
    page.get_by_label("Filter").fill("")
    page.get_by_label("Group by").select_option("width")
    expect(page.locator("tr.group").first).to_contain_text("width 0", timeout=TIMEOUT)
    groups = set()
    for step in range(31):
        scroll(page, step / 30)
        groups |= set(page.locator("tr.group th[scope=rowgroup]").all_inner_texts())
    assert groups == {f"width {width} · {RUNS // 4} runs" for width in range(4)}


def test_the_focus_stays_and_moves_on_beyond_the_rows_that_exist(page: Page):
    box = page.get_by_label(f"Select run {RUNS - 2}", exact=True)
    box.focus()
    scroll(page, 0.9)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Select run {RUNS - 2}"
    assert f"run {RUNS - 2}" in names(page)
    assert f"run {RUNS - 60}" not in names(page)
    page.keyboard.press("Space")
    expect(page.locator("#count")).to_contain_text("1 selected", timeout=TIMEOUT)
    scroll(page, 0)
    for _ in range(200):
        page.keyboard.press("Tab")
    page.wait_for_timeout(100)
    row = page.evaluate("document.activeElement.closest('tr').dataset.run")
    assert row == f"r{RUNS - 2 - 100:03d}"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.closest('tr').dataset.run") == f"r{RUNS - 2 - 99:03d}"
