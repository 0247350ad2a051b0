"""docs/build_site.py: the site builds without a network, and each fault that it promises to notice is one."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

pytest.importorskip("griffe")
pytest.importorskip("zensical")
SCRIPT = runpy.run_path(str(CHECKOUT / "docs" / "build_site.py"))
FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)="?(?:https?:)?//|url\(["']?https?://"""
)
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


def build(root: Path) -> int:
    return SCRIPT["main"](root)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name, text in SMALL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_site_of_the_checkout_builds_without_warnings_and_fetches_nothing(tmp_path, capfd):
    for name in ("docs", "src"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "zensical.toml", tmp_path)
    assert build(tmp_path) == 0
    printed = "".join(capfd.readouterr())
    assert "No issues found" in printed
    assert "warning" not in printed.lower()
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(list((CHECKOUT / "docs").rglob("*.md"))) + 1  # 404.html
    texts = [*pages, *(tmp_path / "site").rglob("*.css")]
    assert [path.name for path in texts if FETCHED.search(path.read_text())] == []


def test_a_site_without_faults_builds(small, capfd):
    assert build(small) == 0, capfd.readouterr()


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
