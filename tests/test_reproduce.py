"""The table of reproductions."""

from pathlib import Path

import pytest

from tests.test_conf import composed
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.schema import EvaluateConfig, TrainConfig, parse_config
from vae_exp.errors import UserError
from vae_exp.reproduce import (
    BEGIN,
    END,
    ReproductionResult,
    ReproductionTarget,
    read_targets,
    select_targets,
    update_markdown_table,
)

TARGETS = read_targets(config_dir() / "reproduce" / "targets.yaml")
PUBLISHED = ReproductionTarget("known", "a net, NLL", "a paper", (), (), "test/nll", 86.76, 0.5)
UNPUBLISHED = ReproductionTarget("open", "another", "none", (), (), "test/nll", None, None)
TWO = {"known": PUBLISHED, "open": UNPUBLISHED}


@pytest.mark.parametrize("row", TARGETS.values(), ids=list(TARGETS))
def test_every_row_can_be_composed(row: ReproductionTarget):
    assert parse_config(composed("train", *row.train), TrainConfig).trainer.epochs >= 1
    assert parse_config(composed("evaluate", "run=somewhere", *row.evaluate), EvaluateConfig).evaluator
    assert (row.expected is None) == (row.tolerance is None)
    metric = row.metric.partition("/")[2]
    expected = {"nll": "nll", "negative_elbo": "elbo"}.get(metric)
    assert expected is None or any(
        expected in override for override in row.evaluate if override.startswith("evaluator=")
    )


def test_the_rows_of_burda_and_others_are_all_there():
    values = {name: row.expected for name, row in TARGETS.items() if name.startswith("burda") and row.expected}
    assert len(values) == 12
    assert values["burda_iwae_2l_k50"] == 82.90


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(86.76, "within"), (86.3, "within"), (87.2, "within"), (86.2, "outside"), (87.3, "outside")],
)
def test_the_verdict_is_by_the_tolerance(value: float, verdict: str):
    assert PUBLISHED.verdict(value) == verdict
    assert UNPUBLISHED.verdict(value) == "measured"


def test_rows_without_a_run_say_so(tmp_path: Path):
    page = tmp_path / "page.md"
    update_markdown_table(page, TWO, {})
    text = page.read_text()
    assert text.count("| not run | | |") == 2
    assert "| `known` | a net, NLL (a paper) | 86.76 | 0.5 | not run" in text
    assert "| `open` | another (none) | – | – | not run" in text


def test_a_row_that_was_run_stays_when_another_is(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"# Above\n\ntext\n\n{BEGIN}\nanything\n{END}\n\n## Below\n")
    update_markdown_table(page, TWO, {"known": ReproductionResult(86.5, "cuda, 2 h")})
    update_markdown_table(page, TWO, {"open": ReproductionResult(90.0, "cpu, 3 s")})
    text = page.read_text()
    assert "| 0.5 | 86.50 | within | cuda, 2 h |" in text
    assert "| – | 90.00 | measured | cpu, 3 s |" in text
    assert "anything" not in text
    assert text.startswith("# Above\n\ntext\n\n")
    assert text.endswith(f"{END}\n\n## Below\n")


def test_a_row_whose_expectation_has_changed_is_not_run_again(tmp_path: Path):
    page = tmp_path / "page.md"
    update_markdown_table(page, TWO, {"known": ReproductionResult(86.5, "cuda")})
    other = {**TWO, "known": ReproductionTarget("known", "a net, NLL", "a paper", (), (), "test/nll", 80.0, 0.5)}
    update_markdown_table(page, other, {})
    assert "| 80 | 0.5 | not run | | |" in page.read_text()


def test_an_unknown_name_names_those_that_are():
    with pytest.raises(UserError, match=r"^burda is not a reproduction; known are known, open\.$"):
        select_targets(TWO, ["known", "burda"])


def test_the_page_of_this_project_has_every_row():
    page = (Path(__file__).resolve().parents[1] / "docs" / "reproductions.md").read_text()
    for name in TARGETS:
        assert f"| `{name}` |" in page.partition(BEGIN)[2].partition(END)[0]
