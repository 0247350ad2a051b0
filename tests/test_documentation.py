"""What the documents promise is what the code has."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml

from tests.conftest import CHECKOUT
from tests.documentation_blocks import docs_script, python_code
from vae_exp.configuration.instantiate import build_evaluators
from vae_exp.errors import UserError
from vae_exp.metrics import METRICS
from vae_exp.reproduce.targets import VERDICTS

SUFFIXES = (".py", ".md", ".yaml", ".ipynb", ".toml")
PAGES_ON_TRAINING = ("train", "own_images", "resume")
# What a schedule passes through, what the sweeper sets, and what is not used: any number will do.
ANY_NUMBER = {f"loss.{schedule}.{end}" for schedule in ("KEY", "capacity") for end in ("start", "end")}
ANY_NUMBER |= {"sweep.trial.number", "+model.likelihood.momentum"}
OF_OTHER_PACKAGES = {"hydra.sweeper.sampler.seed"}
OTHER_LAUNCHERS = re.compile("### `hydra/launcher=(ray|slurm|slurm_gpu)`")
WITH_WORDS = {
    *("data.fit", "data.labels", "data.layout", "data.source.dataset", "evaluator.elbo.bits", "loss.over"),
    *("loss.position_reduction", "loss.KEY.unit", "model.activation", "model.posterior"),
    *("hydra.launcher.mps", "hydra.sweeper.pruner.name", "hydra.sweeper.sampler.name"),
}
README = (CHECKOUT / "README.md").read_text()
INSTALLING = (CHECKOUT / "docs" / "how_to" / "install.md").read_text()
TRAINING = "\n".join((CHECKOUT / "docs" / "how_to" / f"{name}.md").read_text() for name in PAGES_ON_TRAINING)


@pytest.mark.parametrize("name", ["config.md", "metrics.md", "commands.md"])
def test_the_pages_of_reference_are_those_that_the_code_gives_now(name, reference_pages):
    committed = (CHECKOUT / "docs" / "reference" / name).read_text()
    assert committed == reference_pages[name], "run: python docs/write_reference.py"


@pytest.fixture(scope="module")
def reference_pages():
    return docs_script("write_reference").make_pages()


@pytest.fixture(scope="module")
def config_values(reference_pages):
    """Every row of the page of config keys, without the launchers of other packages: key and values."""
    sections = re.split(
        r"^(?=##)", reference_pages["config.md"].partition("## `experiment`")[0], flags=re.MULTILINE
    )
    ours = "".join(section for section in sections if not OTHER_LAUNCHERS.match(section))
    rows = [re.split(r" *(?<!\\)\| *", row) for row in re.findall(r"^\| `.*$", ours, re.MULTILINE)]
    return [(key.strip("`"), values) for _, key, _, values, _, _ in rows]


def test_every_number_of_the_config_shows_its_range(config_values):
    numbers = [(key, values) for key, values in config_values if re.match("int|float", values)]
    without = {key for key, values in numbers if re.fullmatch(r"(int|float)( or \w+)*", values)}
    assert len(numbers) > 150
    assert without == ANY_NUMBER | OF_OTHER_PACKAGES


def test_the_range_of_an_evaluators_number_is_where_its_constructor_refuses(config_values):
    shown = [
        (*key.split("."), float(least[1]))
        for key, values in config_values
        if key.startswith("evaluator.") and (least := re.search(r"(?:at least|from) ([\d.]+)", values))
    ]
    assert len(shown) > 30
    for _, name, argument, least in shown:
        evaluators = yaml.safe_load((CHECKOUT / "conf" / "evaluator" / f"{name}.yaml").read_text())
        kind = type(evaluators[name][argument] or 1)
        build_evaluators(evaluators | {name: evaluators[name] | {argument: kind(least)}})
        with pytest.raises(UserError, match=rf"evaluator\.{name}\.{argument}={least - 1:g}"):
            build_evaluators(evaluators | {name: evaluators[name] | {argument: kind(least - 1)}})


def test_every_key_of_the_config_shows_its_type_or_its_words(config_values):
    assert [key for key, values in config_values if not values] == []
    assert {key for key, values in config_values if values.startswith(("`", "a list of `"))} >= WITH_WORDS


def test_every_metric_says_what_it_is_and_what_reports_it():
    for name, metric in METRICS.items():
        assert metric.meaning, name
        assert metric.logged, name
        for evaluator in re.findall(r"evaluator=\[(\w+)\]", metric.logged):
            assert (CHECKOUT / "conf" / "evaluator" / f"{evaluator}.yaml").exists()


def test_every_metric_of_a_run_is_in_the_table(digits_run):
    [last] = (digits_run / "metrics.jsonl").read_text().splitlines()[-1:]
    names = {key.rpartition("/")[2] for key in json.loads(last)} - {"step", "epoch", "crc32"}
    assert names
    assert names <= set(METRICS)


def test_nothing_tells_users_to_install_a_name_that_is_not_published():
    folders = ("src", "conf", "docs", "notebooks", "tests")
    files = [path for folder in folders for path in (CHECKOUT / folder).rglob("*") if path.suffix in SUFFIXES]
    told = [
        f"{path.relative_to(CHECKOUT)}: {line.strip()}"
        for path in [*CHECKOUT.glob("*.md"), *files]
        for line in path.read_text(errors="replace").splitlines()
        if re.search(r"pip3? install [^#]*\bvae[-_]exp\b(?!\[?\w*\]? @ git\+)", line)
    ]
    assert told == []
    assert "pip install 'vae-exp[slurm] @ git+" in INSTALLING
    assert "pip install -e '.[optuna]'" in INSTALLING


def test_the_page_on_training_names_every_option_of_every_group():
    groups = TRAINING.partition("## Groups")[2].partition("\n## ")[0]
    folders = {path.name for path in (CHECKOUT / "conf").iterdir() if path.is_dir()} - {"_shared", "reproduce"}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", groups, re.MULTILINE))
    assert folders == set(rows)
    for group in folders - {"hydra"}:
        for option in (CHECKOUT / "conf" / group).glob("[!_]*.yaml"):
            assert re.search(rf"\b{option.stem}\b", rows[group]), f"{group}={option.stem}"


def test_links_lead_somewhere():
    pages = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) >= 8
    for page, link in links:
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_example_of_a_trained_model_runs(digits_run, tmp_path, monkeypatch):
    [code] = python_code("docs/how_to/use_a_trained_model.md")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_run, tmp_path / "outputs" / "DIR")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["z"].shape == (360, 2)
    assert names["rebuilt"].shape == (360, 1, 8, 8)
    assert names["scores"].shape == (360,)


def test_the_example_of_the_readme_runs(digits_run, tmp_path, monkeypatch):
    [code] = python_code("README.md")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_run, tmp_path / "outputs" / "DIR")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["codes"].shape == (10, 2)
    assert names["samples"].shape == (16, 1, 8, 8)


def test_the_readme_is_short_and_counts_the_rows_that_were_run():
    assert len(README.split()) <= 950
    page = (CHECKOUT / "docs" / "reproductions.md").read_text()
    table = page.partition("<!-- reproduce: begin -->")[2].partition("<!-- reproduce: end -->")[0]
    rows = re.findall(r"^\| `\w+` \|.*$", table, re.MULTILINE)
    within, outside, measured = (sum(f"| {verdict} |" in row for row in rows) for verdict in VERDICTS)
    figures = f"{len(rows)} rows: {within} within, {outside} outside, {measured} measured"
    assert f"[{figures}, the rest not finished](docs/reproductions.md)" in README


def test_the_page_on_architecture_names_modules_that_exist():
    page = (CHECKOUT / "docs/explanation/architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", page))
    roots = [CHECKOUT / "src/vae_exp", CHECKOUT]
    assert len(named) > 30
    assert [name for name in sorted(named) if not any((root / name).exists() for root in roots)] == []
