"""A headless browser, where there is one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.browsers import NAMES, SILENT, Watched


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser; without one on the path the test is skipped."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(SILENT))
        yield found
        found.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A fresh page."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    found = Watched(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on(
        "console", lambda message: message.type in ("error", "warning") and found.complaints.append(message.text)
    )
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (found.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    yield found
    context.close()
