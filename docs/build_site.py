"""Build the documentation into site/, or say what is wrong with it.

    python docs/build_site.py [ROOT]

ROOT is the checkout, unless another folder with the same layout is named.
Zensical, in strict mode, fails on broken links and anchors. What it accepts is checked first: pages that the
navigation does not reach, entries of it without a page, and names of the public API without a docstring.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

CHECKOUT = Path(__file__).parent.parent
API = "docs/reference/api.md"


def main(root: Path = CHECKOUT) -> int:
    """Check and build the site below a root; the exit code."""
    problems = [*navigation_problems(root), *api_problems(root)]
    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
    if problems:
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=root, check=False).returncode  # noqa: S603


def navigation_problems(root: Path) -> Iterator[str]:
    """Pages without an entry in the navigation, and entries without a page."""
    listed = set(targets(tomllib.loads((root / "zensical.toml").read_text())["project"]["nav"]))
    pages = {str(path.relative_to(root / "docs")) for path in (root / "docs").rglob("*.md")}
    for page in sorted(pages - listed):
        yield f"docs/{page} is in no navigation: add it to nav in zensical.toml."
    for page in sorted(listed - pages):
        yield f"nav in zensical.toml names {page}, and there is no docs/{page}."


def targets(entry: Any) -> Iterator[str]:
    """The pages that an entry of the navigation leads to, at any depth."""
    if isinstance(entry, str):
        yield entry
        return
    for child in entry.values() if isinstance(entry, dict) else entry:
        yield from targets(child)


def api_problems(root: Path) -> Iterator[str]:
    """Exported names that the page on the API lacks, and public names on it without a docstring."""
    package = griffe.load("vae_exp", search_paths=[root / "src"])
    names = re.findall(r"^::: vae_exp\.(\S+)", (root / API).read_text(), re.MULTILINE)
    documented = [resolve(package[name]) for name in names]
    for name in sorted(set(package.exports or []) - {"__version__"}):
        if resolve(package[name]).name not in {item.name for item in documented}:
            yield f"vae_exp exports {name}: add it to {API}."
    for item in documented:
        for member in (item, *public_members(item)):
            if not member.has_docstring:
                yield f"{member.path} is part of the public API ({API}) and has no docstring."


def resolve(item: griffe.Object | griffe.Alias) -> griffe.Object:
    """The object itself, wherever it was imported from."""
    return item.final_target if isinstance(item, griffe.Alias) else item


def public_members(item: griffe.Object) -> list[griffe.Object | griffe.Alias]:
    """The public methods and properties of a class; its fields are described by its own docstring."""
    members = item.members.values() if item.is_class else []
    return [
        member
        for member in members
        if member.is_public and not member.is_special and (member.is_function or "property" in member.labels)
    ]


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
