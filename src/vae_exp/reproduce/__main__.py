"""`python -m vae_exp.reproduce NAME…`: run rows, compare them with references, and write them into the table."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.overrides import override_key
from vae_exp.configuration.resolvers import OVERRIDABLE_ON_RESUME
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted, UserError, exit_with_message
from vae_exp.reproduce.runs import TargetRuns
from vae_exp.reproduce.table import NOT_RUN, describe, update_markdown_table, verdict
from vae_exp.reproduce.targets import ReproductionTarget, mean_text, read_targets, select_targets
from vae_exp.storage.atomic_io import check_writable

_PAGE = "reproductions.md"
_HARMLESS = tuple(key for key in OVERRIDABLE_ON_RESUME if key not in ("trainer.epochs", "trainer.early_stopping"))


def main() -> None:
    """The command line."""
    with exit_with_message():
        targets = read_targets(config_dir() / "reproduce" / "targets.yaml")
        args = _parser().parse_args()
        runs = {name: TargetRuns(target, args.root) for name, target in targets.items()}
        if not args.names:
            _list(runs, args.table)
            return
        _check_overrides(args.override)
        args.table = args.table or args.root / _PAGE
        _check_table(args.table)
        names = list(targets) if args.names == ["all"] else args.names
        selected = select_targets(targets, names)
        try:
            with GracefulShutdown(second_signal_kills=False) as shutdown:
                code = _reproduce(selected, runs, args, shutdown)
        except Interrupted as interrupted:
            update_markdown_table(args.table, runs)
            print(f"Interrupted {interrupted}; run the same command to continue.", file=sys.stderr)
            code = interrupted.exit_code
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.reproduce",
        description="Run rows, compare each with its reference, and write them into a table. Runs that were "
        "interrupted are resumed; finished ones are only evaluated.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        help="rows to run, or all; without any all are listed, each with what its run below ROOT has reached",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("reproductions"),
        help="folder of the runs and their checkpoints, which may outlive this machine (%(default)s)",
    )
    parser.add_argument(
        "--table",
        type=Path,
        help="the page whose table is rewritten, without names as well; by default ROOT/reproductions.md",
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for every training run, such as data.root=/data or trainer.device=cuda; may be given several times",
    )
    return parser


def _list(runs: Mapping[str, TargetRuns], table: Path | None) -> None:
    """Print every row with what it has reached, and write that into the table where one is named."""
    for name, target_runs in runs.items():
        print(f"{name:24} {describe(target_runs, runs)}")
        print(f"{'':24} {target_runs.target.what} ({target_runs.target.source})")
    if table is not None:
        _check_table(table)
        update_markdown_table(table, runs)


def _check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that change the recipe of a row."""
    for override in overrides:
        key = override_key(override)
        if not any(key == x or key.startswith(f"{x}.") for x in _HARMLESS):
            raise UserError(
                f"--override {override} may change the numbers of a row, which would then claim a recipe that it "
                f"has not been made by; only {', '.join(_HARMLESS)} may differ."
            )


def _check_table(table: Path) -> None:
    """Refuse a table that cannot be written, before any training."""
    if table.is_dir():
        raise UserError(f"--table={table} is a directory; name a page, such as {table / _PAGE}.")
    check_writable(table.absolute().parent, "--table")
    if table.exists():
        try:
            table.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--table={table} cannot be read: {error}.") from error


def _reproduce(
    selected: Sequence[ReproductionTarget],
    runs: Mapping[str, TargetRuns],
    args: argparse.Namespace,
    shutdown: GracefulShutdown,
) -> int:
    """Run the selected targets; the exit code is 1 if one is outside its tolerance or could not be run."""
    failures = 0
    for target in selected:
        target_runs = runs[target.name]
        print(f"{target.name}: {target.what}; {describe(target_runs, runs)}", flush=True)
        failed = target_runs.complete(args.override, shutdown)
        result = target_runs.result()
        if failed is not None or result is None:
            failures += 1
            reason = (
                f"{failed} failed, with the message above"
                if failed is not None
                else f"its evaluation has no {target.metric}"
            )
            print(f"{target.name}: {NOT_RUN}; {reason}", file=sys.stderr)
            continue
        update_markdown_table(args.table, runs)
        judgement = verdict(target, result, runs)
        failures += judgement == "outside"
        reference = f", reference {target.reference}" if target.reference != "–" else ""
        value = mean_text(result.values)
        print(f"{target.name}: {target.metric} {value}{reference}: {judgement}; written to {args.table}")
    return min(failures, 1)


if __name__ == "__main__":
    main()
