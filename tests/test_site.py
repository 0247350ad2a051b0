"""docs/build_site.py: the site builds without a network, and each fault that it promises to notice is one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from tests.dashboard.browsers import Watched
from tests.dashboard.test_style import contrast
from tests.documentation_blocks import docs_script

pytest.importorskip("griffe")
pytest.importorskip("zensical")
SCRIPT = CHECKOUT / "docs" / "build_site.py"
build = docs_script("build_site").main
FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)="?(?:https?:)?//|url\(["']?https?://"""
)
TEXT = {
    "body": ".md-content :is(p, li, td)",
    "links": ".md-content :is(p, li, td) a",
    "code": ".md-content :is(code, code *)",
    "table heads": ".md-content th",
    "navigation": ":is(.md-tabs, .md-nav) :is(a, label, .md-ellipsis)",
    "anything": "body *",
}
COLOURS = """selector => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (fillStyle, globalAlpha = 1) => {
    Object.assign(context, { fillStyle, globalAlpha }).fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return "#" + (2 ** 24 + red * 2 ** 16 + green * 2 ** 8 + blue).toString(16).slice(1);
  };
  const colours = element => {
    const styles = [];
    for (; element; element = element.parentElement) styles.unshift(getComputedStyle(element));
    const opacity = styles.reduce((product, style) => product * style.opacity, 1);
    paint("white");
    return [styles.map(style => paint(style.backgroundColor)).at(-1), paint(styles.at(-1).color, opacity)];
  };
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const isSeen = element => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  return [...document.querySelectorAll(selector)].filter(e => hasText(e) && isSeen(e)).map(colours);
}"""  # the ground and the ink of each text, translucent ones painted over what is below
SMALL = {
    "zensical.toml": '[project]\nsite_name = "small"\nnav = ["index.md", { Reference = ["reference/api.md"] }]\n'
    '[project.plugins.mkdocstrings.handlers.python]\npaths = ["src"]\n',
    "docs/index.md": "# Small\n\n[the API](reference/api.md#small)\n",
    "docs/reference/api.md": "# Small\n\n::: vae_exp.load\n",
    "src/vae_exp/__init__.py": '"""A package."""\n\n__all__ = ["load"]\n\n\ndef load():\n    """Load."""\n',
}
FAULTS = {
    "a broken link": ("docs/index.md", "reference/api.md", "reference/other.md", "does not exist"),
    "a broken anchor": ("docs/index.md", "#small", "#large", "anchor"),
    "a page out of reach": ("zensical.toml", '"index.md", ', "", "docs/index.md is in no navigation"),
    "an entry without a page": ("zensical.toml", '"index.md"', '"index.md", "new.md"', "there is no docs/new.md"),
    "a name without an entry": ("src/vae_exp/__init__.py", '["load"]', '["load", "SMALL"]', "exports SMALL"),
    "a name without a docstring": ("src/vae_exp/__init__.py", '"""Load."""', "pass", "load is part of the public"),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in SMALL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of the checkout, built without a warning, and without a network where the system can hide it."""
    tried = subprocess.run("unshare -rn true", shell=True, capture_output=True, check=False)
    offline = ["unshare", "-rn"] if tried.returncode == 0 else []
    root = tmp_path_factory.mktemp("site")
    for name in ("docs", "src"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "zensical.toml", root)
    command = [*offline, sys.executable, SCRIPT, root]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stderr == "No issues found\n"
    return root / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(address: str, watched: Watched) -> Iterator[Any]:
    """A page of a browser, which has nothing to complain of and requests nothing from elsewhere."""
    yield watched.page
    assert watched.complaints == []
    assert [request for request in watched.requests if not request.startswith((address, "data:", "blob:"))] == []


def test_every_page_is_built_and_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == len(list((CHECKOUT / "docs").rglob("*.md"))) + 1  # 404.html
    texts = [*pages, *site.rglob("*.css")]
    assert [path.name for path in texts if FETCHED.search(path.read_text())] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_search_and_copying_work_in_a_browser(address, page, width):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/how_to/slurm.html")
    page.locator(".md-code__button").first.click()
    assert "hydra/launcher=slurm_gpu" in page.evaluate("navigator.clipboard.readText()")
    page.locator("label[for=__search]:visible, .md-search__button:visible").first.click()
    page.keyboard.type("find odd images")
    breadcrumbs = page.get_by_role("option").first.locator("menu")
    assert breadcrumbs.evaluate("menu => getComputedStyle(menu).color") == "rgba(0, 0, 0, 0.7)"  # 4.5 is 0.54
    page.get_by_role("option").filter(has_text="Find odd images").first.click()
    page.wait_for_url("**/how_to/find_odd_images.html*")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_navigation_leads_from_the_first_page_to_another(address, page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{address}/index.html")
    navigation = page.locator(".md-sidebar--primary")
    if width == 1280:
        page.locator(".md-tabs").get_by_role("link", name="How to").click()
        page.wait_for_url("**/how_to/install.html")
    else:
        page.locator(".md-header label[for=__drawer]").click()
        for section in ("How to", "Use a model"):
            navigation.locator("label.md-nav__link", has_text=section).click()
    navigation.get_by_role("link", name="Find odd images").click()
    page.wait_for_url("**/how_to/find_odd_images.html")
    assert page.locator("h1").inner_text().startswith("Find odd images")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_aa(address, page, scheme):
    page.emulate_media(color_scheme=scheme)
    for name, kinds in {"how_to/dashboard": TEXT, "reference/api": ["anything"]}.items():
        page.goto(f"{address}/{name}.html")
        [(ground, _), *_] = page.evaluate(COLOURS, "h1")
        assert (ground == "#ffffff") == (scheme == "light")
        for kind in kinds:
            colours = {tuple(pair) for pair in page.evaluate(COLOURS, TEXT[kind])}
            assert colours, kind
            assert [pair for pair in sorted(colours) if contrast(*pair) < 4.5] == [], kind


def test_a_site_without_faults_builds(small, capfd):
    assert build(small) == 0, capfd.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_build(small, capfd, fault):
    name, text, replacement, message = FAULTS[fault]
    content = (small / name).read_text()
    assert text in content
    (small / name).write_text(content.replace(text, replacement, 1))
    if fault == "a name without an entry":
        (small / name).write_text((small / name).read_text() + "\nSMALL = 1\n")
    assert build(small) != 0
    assert message in re.sub(r"\x1b\[[\d;]*m", "", "".join(capfd.readouterr()))
