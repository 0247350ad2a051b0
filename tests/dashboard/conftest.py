"""A headless browser, where there is one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.browsers import NAMES, SILENT, Watched, watch


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers of these tests leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser; without one on the path the test is skipped."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(SILENT))
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A fresh page."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    yield watch(context.new_page())
    context.close()
