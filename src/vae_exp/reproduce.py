"""`python -m vae_exp.reproduce NAME…`: run published rows, check them, and write them into the table."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_exp.cli.command_line import config_directory
from vae_exp.errors import UserError, exit_with_message
from vae_exp.reproduction_table import NOT_RUN, ReproductionResult, Row, chosen, read_rows, rewrite
from vae_exp.storage.atomic_io import check_writable
from vae_exp.storage.run_directory import RunDirectory

_PAGE = "reproductions.md"
_HARMLESS = (
    "data.root",
    "data.path",
    "data.preload_to_device",
    "trainer.device",
    "trainer.execution",
    "tracker",
    "checkpoint",
)


def main() -> None:
    """The command line."""
    with exit_with_message():
        rows = read_rows(config_directory() / "reproductions.yaml")
        asked = _parser().parse_args()
        if not asked.names:
            for row in rows.values():
                print(f"{row.name:20} {row.what} ({row.source})")
            return
        _check_overrides(asked.override)
        asked.table = asked.table or asked.root / _PAGE
        _check_table(asked.table)
        names = list(rows) if asked.names == ["all"] else asked.names
        try:
            sys.exit(_reproduce(chosen(rows, names), rows, asked))
        except KeyboardInterrupt:
            print("Interrupted; run the same command to continue.", file=sys.stderr)
            raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.reproduce",
        description="Run published rows, check each against its tolerance, and write them into a table. Runs that "
        "were interrupted are resumed; finished ones are only evaluated.",
    )
    parser.add_argument("names", nargs="*", help="rows to run, or all; without any they are listed")
    parser.add_argument("--root", type=Path, default=Path("reproductions"), help="where runs go (%(default)s)")
    parser.add_argument(
        "--table",
        type=Path,
        help="the page whose table is rewritten; by default ROOT/reproductions.md",
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for every training run, such as data.root=/data or trainer.device=cuda; may be given several times",
    )
    return parser


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what would let a row stand for another recipe than its own."""
    for override in overrides:
        key = re.split(r"[=@]", override.lstrip("+~"))[0].replace("/", ".")
        if not any(key == each or key.startswith(f"{each}.") for each in _HARMLESS):
            raise UserError(
                f"--override {override} may change the numbers of a row, which would then claim a recipe that it "
                f"has not been made by; only {', '.join(_HARMLESS)} may differ."
            )


def _check_table(table: Path) -> None:
    """Hours of training should not end with a table that cannot be written."""
    if table.is_dir():
        raise UserError(f"--table={table} is a directory; name a page, such as {table / _PAGE}.")
    check_writable(table.absolute().parent, "--table")
    if table.exists():
        try:
            table.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--table={table} cannot be read: {error}.") from error


def _reproduce(wanted: Sequence[Row], rows: dict[str, Row], asked: argparse.Namespace) -> int:
    """How many rows are outside their tolerance, or could not be run, as an exit code."""
    bad = 0
    for row in wanted:
        print(f"{row.name}: {row.what}", flush=True)
        directory = RunDirectory(asked.root / row.name)
        outcome = _run(row, directory, asked.override)
        if outcome is None:
            bad += 1
            print(f"{row.name}: {NOT_RUN}; see {directory.log}", file=sys.stderr)
            continue
        rewrite(asked.table, rows, {row.name: outcome})
        verdict = row.verdict(outcome.found)
        bad += verdict == "outside"
        published = "" if row.expected is None else f", published {row.expected:g} ± {row.tolerance:g}"
        print(f"{row.name}: {row.metric} {outcome.found:.2f}{published}: {verdict}; written to {asked.table}")
    return min(bad, 1)


def _run(row: Row, directory: RunDirectory, overrides: Sequence[str]) -> ReproductionResult | None:
    """Train and evaluate a row, as far as that has not been done; None if it fails."""
    result = directory.read_result() or {}
    if result.get("status") != "completed":
        command = (
            [f"resume={directory.path}"]
            if directory.config.exists()
            else [*row.train, "tracker=none", "evaluator=[elbo]", f"hydra.run.dir={directory.path}", *overrides]
        )
        if _command("train", command) != 0:
            return None
        result = directory.read_result() or {}
    metrics: dict[str, Any] = result["metrics"]
    if row.evaluate:
        if _command("evaluate", [f"run={directory.path}", "checkpoint=last", *row.evaluate]) != 0:
            return None
        metrics = json.loads(directory.evaluation("test", "last").read_text())["metrics"]
    how = f"{result['device']}, torch {result['versions']['torch']}, {_duration(result['seconds']['training'])}"
    return ReproductionResult(float(metrics[row.metric]), how)


def _command(name: str, arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", f"vae_exp.{name}", *arguments], check=False).returncode  # noqa: S603


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
