"""One name, one meaning; plain words; short functions."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
MODULES = sorted((CHECKOUT / "src").rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
# A model and its distribution, a metric and its loss, a config and a training run share a word of the field.
SHARED_MODULE_NAMES = {"__init__", "__main__", "elbo", "flows", "hierarchical", "validation", "vq"}
LONGEST_FUNCTION = 60
LITERARY = re.compile(r"\b(told|anew|mend(s|ed|ing)?|astray|somebody|nobody|goes on)\b", re.IGNORECASE)
VAGUE_VARIABLES = {"told", "found", "asked", "place"}


def duplicates(names):
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_every_class_name_has_one_meaning():
    classes = [node.name for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    assert duplicates(name for name in classes if not name.startswith("_")) == []


def test_every_module_name_has_one_meaning():
    assert duplicates(path.stem for path in MODULES if path.stem not in SHARED_MODULE_NAMES) == []


def test_functions_are_short():
    functions = [
        (f"{path.stem}.{node.name}", node.end_lineno - node.lineno + 1)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, length) for name, length in functions if length > LONGEST_FUNCTION] == []


def test_variables_are_named_after_what_they_hold():
    stored = [
        f"{path.stem}: {node.id}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE_VARIABLES
    ]
    assert stored == []


@pytest.mark.parametrize("folder", ["src", "conf", "docs", "."])
def test_texts_use_plain_words(folder):
    pattern = "*.md" if folder == "." else "**/*"
    files = [
        path
        for path in (CHECKOUT / folder).glob(pattern)
        if path.suffix in {".py", ".yaml", ".md", ".js", ".html"}
    ]
    lines = [
        f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if LITERARY.search(line)
    ]
    assert lines == []


@pytest.mark.parametrize("package", ["data", "model", "objective", "distributions"])
def test_the_science_imports_nothing_of_the_machinery(package):
    machinery = ("engine", "configuration", "runs", "cli", "sweep")
    imports = re.compile(rf"^\s*(from|import) vae_exp(\.| import )({'|'.join(machinery)})\b", re.MULTILINE)
    modules = (CHECKOUT / "src/vae_exp" / package).rglob("*.py")
    assert [path.name for path in modules if imports.search(path.read_text())] == []
