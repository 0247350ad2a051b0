"""The sdist is the checkout, the wheel is the package, and what both say of themselves is complete."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.metadata import Metadata

from tests.conftest import CHECKOUT


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> dict[str, bytes]:
    """The content of each file, by its path below the folder that the archive makes."""
    [path] = distributions.glob("vae_exp-*.tar.gz")
    files = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None, f"{member.name} is no file"
            files[member.name.partition("/")[2]] = file.read()
    return files


@pytest.mark.slow
@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="needs the Git checkout")
def test_the_sdist_is_what_git_has(sdist: dict[str, bytes]):
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, check=True).stdout.decode().split("\0")
    tracked = {name for name in listed if (CHECKOUT / name).is_file()}
    assert len(tracked) > 500
    assert set(sdist) == tracked | {"PKG-INFO"}


def test_the_sdist_has_what_its_tests_and_its_makefile_need(sdist: dict[str, bytes]):
    folders = {name.partition("/")[0] for name in sdist if "/" in name}
    assert {"benchmarks", "conf", "docs", "notebooks", "src", "tests", ".ci"} <= folders
    assert {"Makefile", "constraints.txt", "pyproject.toml", "CITATION.cff", "LICENSE"} <= set(sdist)
    assert {"tests/conftest.py", "tests/golden/digits_twenty_steps.json", ".ci/run"} <= set(sdist)


def test_the_wheel_is_the_package_and_its_configs(distributions: Path):
    [wheel] = distributions.glob("vae_exp-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path for folder in ("src", "conf") for path in (CHECKOUT / folder).rglob("*") if path.is_file()}
    files = {path.relative_to(CHECKOUT).as_posix() for path in files if "__pycache__" not in path.parts}
    moved = {re.sub("^conf/", "vae_exp/conf/", name.removeprefix("src/")) for name in files}
    assert len(names) > 250
    assert names == moved


def test_the_metadata_are_valid_and_complete(sdist: dict[str, bytes], project: dict[str, Any]):
    metadata = Metadata.from_email(sdist["PKG-INFO"], validate=True)
    assert (metadata.name, str(metadata.version)) == ("vae-exp", project["version"])
    assert metadata.license_expression == "MIT"
    assert metadata.description_content_type == "text/markdown"
    assert (metadata.description or "").strip() == (CHECKOUT / "README.md").read_text(encoding="utf-8").strip()
    kinds = {classifier.partition(" :: ")[0] for classifier in metadata.classifiers or []}
    assert {
        "Development Status",
        "Intended Audience",
        "Operating System",
        "Programming Language",
        "Topic",
    } <= kinds
    assert set(metadata.keywords or []) == set(project["keywords"])


def test_the_citation_is_of_this_version(project: dict[str, Any]):
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", project["version"])
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    assert set(citation["keywords"]) <= set(project["keywords"])
