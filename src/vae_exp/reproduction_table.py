"""The table of published rows beside ours, as it stands in a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import write_atomically

BEGIN, END = "<!-- reproduce: begin -->", "<!-- reproduce: end -->"
NOT_RUN = "not run"
_HEAD = "| name | what | published | tolerance | ours | verdict | how |\n|---|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """Something published, and how to run it.

    Args:
        name: What the command calls it.
        what: Model, data and metric in a few words.
        source: Where the expectation was read.
        train: Overrides of the training run.
        evaluate: Overrides of the evaluation; empty takes the metric from training.
        metric: Which one, with its split.
        expected: What was published; None judges nothing.
        tolerance: How far ours may be from it.
    """

    name: str
    what: str
    source: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    metric: str
    expected: float | None
    tolerance: float | None

    def verdict(self, found: float) -> str:
        """`within`, `outside`, or `measured` where there is nothing to compare with."""
        if self.expected is None or self.tolerance is None:
            return "measured"
        return "within" if abs(found - self.expected) <= self.tolerance else "outside"


@dataclass(frozen=True)
class ReproductionResult:
    """What came of a row.

    Args:
        found: The metric.
        how: Device, versions and time.
    """

    found: float
    how: str


def read_rows(path: Path) -> dict[str, Row]:
    """All rows of `conf/reproductions.yaml`, by name."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    return {
        name: Row(name=name, **{**entry, "train": tuple(entry["train"]), "evaluate": tuple(entry["evaluate"])})
        for name, entry in plain.items()
    }


def chosen(rows: Mapping[str, Row], names: Sequence[str]) -> list[Row]:
    """The rows of these names.

    Raises:
        UserError: names the first that is not one, and those that are.
    """
    for name in names:
        if name not in rows:
            raise UserError(f"{name} is not a reproduction; known are {', '.join(rows)}.")
    return [rows[name] for name in names]


def rewrite(page: Path, rows: Mapping[str, Row], outcomes: Mapping[str, ReproductionResult]) -> None:
    """Put the table into a page: what was run now, what the page has of other rows, and `not run` for the rest.

    Args:
        page: Markdown; the table stands between two comments, at the end if there are none yet.
        rows: All of them.
        outcomes: Of those that were run now.
    """
    before = page.read_text() if page.exists() else "# Reproductions\n"
    kept = _lines_by_name(before)
    lines = []
    for row in rows.values():
        fixed = _fixed(row)
        if row.name in outcomes:
            outcome = outcomes[row.name]
            lines.append(f"{fixed} {outcome.found:.2f} | {row.verdict(outcome.found)} | {outcome.how} |")
        elif kept.get(row.name, "").startswith(fixed):
            lines.append(kept[row.name])
        else:
            lines.append(f"{fixed} {NOT_RUN} | | |")
    table = f"{BEGIN}\n{_HEAD}" + "\n".join(lines) + f"\n{END}"
    if BEGIN in before and END in before:
        head, _, rest = before.partition(BEGIN)
        after = head + table + rest.partition(END)[2]
    else:
        after = f"{before.rstrip()}\n\n{table}\n"
    write_atomically(page, lambda file: file.write(after.encode()))


def _fixed(row: Row) -> str:
    """The part of a line that does not depend on any run."""
    published = "–" if row.expected is None else f"{row.expected:g}"
    tolerance = "–" if row.tolerance is None else f"{row.tolerance:g}"
    return f"| `{row.name}` | {row.what} ({row.source}) | {published} | {tolerance} |"


def _lines_by_name(page: str) -> dict[str, str]:
    table = page.partition(BEGIN)[2].partition(END)[0]
    found = [line for line in table.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in found}
