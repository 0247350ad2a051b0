"""Numbers as tables of commands and of the dashboard show them."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import make_run
from vae_exp.metrics import METRICS, decimals, format_value, higher_is_better, is_ranked

TIMEOUT = 20_000  # milliseconds
VALUES = (
    -101.23456,
    0.0,
    -0.0,
    7,
    0.51,
    0.00123456,
    3e-4,
    1e-5,
    -2e-8,
    9_999.6,
    25_432.71,
    1_234_567.0,
    98_765_432.1,
    3.2e9,
    0.1,
)
NAMES = ("val/elbo", "test/nll_low_ess_share", "val/active_units", "train/learning_rate", "val/mse", "train/a")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("val/elbo", -1234.5678, "-1,234.568"),
        ("best/test/bits_per_dim", 3.14159, "3.1416"),
        ("val/active_units", 8.0, "8"),
        ("train/epoch_seconds", 12.3456, "12.35"),
        ("val/probe_accuracy", 0.9, "0.9000"),
        ("train/learning_rate", 0.001, "0.001"),
        ("train/learning_rate", 3.14159e-7, "3.14e-7"),
        ("mine", 123.45678, "123.46"),
        ("mine", 12.0, "12"),
        ("mine", 98_765_432.1, "98,765,432"),
    ],
)
def test_a_metric_has_the_decimals_of_its_kind(name: str, value: float, shown: str):
    assert format_value(name, value) == shown


def test_means_of_counts_and_their_errors_have_a_decimal():
    numbers = [("val/active_units", 8.333), ("val/active_units", 0.333), ("val/elbo", 1.5), ("mine", 12.0)]
    assert [format_value(*number, is_mean=True) for number in numbers] == ["8.3", "0.3", "1.500", "12.0"]


def test_what_makes_no_run_a_better_one_is_not_ranked():
    ranked = [name for name in METRICS if is_ranked(f"val/{name}")]
    assert {"elbo", "nll", "loss", "active_units", "probe_accuracy", "fid", "psnr"} < set(ranked)
    assert {"rate", "distortion", "nll_se", "nll_images", "learning_rate", "grad_norm"}.isdisjoint(ranked)
    assert not is_ranked("mine")


def test_these_and_no_other_metrics_are_better_the_higher_they_are():
    of_the_latents = {"active_units", "mutual_information", "probe_accuracy", "knn_accuracy", "mig", "sap"}
    of_factors = {"dci_disentanglement", "dci_completeness", "dci_informativeness"}
    others = {"elbo", "nll_effective_samples", "psnr", "ssim", "codebook_used", "code_perplexity"}
    rising = of_the_latents | of_factors | others | {"images_per_second"}
    assert {name for name in METRICS if higher_is_better(f"val/{name}")} == rising


def column(page: Any, key: str) -> list[str]:
    """The texts of a column of the table, from its first row."""
    script = """(key) => {
      const heads = [...document.querySelectorAll('table.runs thead th')];
      const index = heads.findIndex((head) => head.dataset.column === key);
      return [...document.querySelectorAll('table.runs tr[data-run]')].map((row) => row.children[index].innerText);
    }"""
    return page.evaluate(script, key)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_page_shows_numbers_as_the_commands_do_and_alike_in_a_column(watched: Watched, tmp_path: Path):
    for number, (rate, own, units) in enumerate(((1e-3, 123.456789, 7), (3e-4, 0.5, 8), (1e-5, 2.0, 10))):
        row = dict.fromkeys(NAMES, 1.0) | {"train/learning_rate": rate, "a": own, "val/active_units": units}
        row["val/elbo"] = -9.5 * 10**number
        make_run(tmp_path, f"r{number}", {"x": rate, "seed": number}, [row], started=1_700_000_000 + number)
    page = watched.page
    with dashboard([tmp_path]) as address:
        keys = "%1F".join(["val/elbo", "val/active_units", "train/learning_rate", "a", "x"])
        page.goto(f"{address}#page=runs&sort=started&columns={keys}")
        expect(page.locator("tr[data-run]")).to_have_count(3, timeout=TIMEOUT)
        assert column(page, "val/elbo") == ["-9.500", "-95.000", "-950.000"]
        assert column(page, "val/active_units") == ["7", "8", "10"]
        assert column(page, "train/learning_rate") == ["0.00100", "0.00030", "0.00001"]
        assert column(page, "a") == ["123.46", "0.50", "2.00"]
        assert column(page, "x") == ["0.001", "0.0003", "1e-5"]
        for name in NAMES:
            script = "([name, values]) => values.map((value) => fixed(value, decimalsOf(name, [value])))"
            assert page.evaluate(script, [name, VALUES]) == [format_value(name, value) for value in VALUES], name
            assert page.evaluate("(name) => decimals.get(name) ?? null", name) == decimals(name)
        page.goto(f"{address}#page=runs&group=state&columns={keys}")
        mean = page.locator("tr.group th").nth(page.evaluate("() => [...document.querySelectorAll('thead th')]"
            ".findIndex((head) => head.dataset.column === 'val/active_units')"))  # fmt: skip
        expect(mean).to_have_text("8.3")
    assert watched.complaints == []
