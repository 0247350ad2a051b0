"""`python -m vae_exp.reproduce NAME…`: run published rows, check them, and write them into the table."""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.overrides import override_key
from vae_exp.engine.progress import format_duration
from vae_exp.errors import UserError, exit_with_message
from vae_exp.storage.atomic_io import check_writable, write_atomically
from vae_exp.storage.run_directory import RunDirectory

BEGIN, END = "<!-- reproduce: begin -->", "<!-- reproduce: end -->"
_NOT_RUN = "not run"
_HEAD = "| name | what | published | tolerance | ours | verdict | how |\n|---|---|---|---|---|---|---|\n"
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


@dataclass(frozen=True)
class ReproductionTarget:
    """A published number, and how to reproduce it.

    Args:
        name: Its name on the command line.
        what: Model, data and metric in a few words.
        source: Where the number was published.
        train: Overrides of the training run.
        evaluate: Overrides of the evaluation; empty takes the metric from training.
        metric: Name of the metric, with its split.
        expected: The published value; None judges nothing.
        tolerance: Largest difference from it that counts as reproduced.
    """

    name: str
    what: str
    source: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    metric: str
    expected: float | None
    tolerance: float | None

    def verdict(self, value: float) -> str:
        """Return `within`, `outside`, or `measured` where there is nothing to compare with."""
        if self.expected is None or self.tolerance is None:
            return "measured"
        return "within" if abs(value - self.expected) <= self.tolerance else "outside"


@dataclass(frozen=True)
class ReproductionResult:
    """The reproduced number.

    Args:
        value: The metric.
        provenance: Device, versions and time.
    """

    value: float
    provenance: str


def read_targets(path: Path) -> dict[str, ReproductionTarget]:
    """Return all targets of `conf/reproduce/targets.yaml`, by name."""
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    return {
        name: ReproductionTarget(
            name=name, **{**entry, "train": tuple(entry["train"]), "evaluate": tuple(entry["evaluate"])}
        )
        for name, entry in plain.items()
    }


def select_targets(targets: Mapping[str, ReproductionTarget], names: Sequence[str]) -> list[ReproductionTarget]:
    """Return the targets of these names.

    Raises:
        UserError: names the first unknown name, and the known ones.
    """
    for name in names:
        if name not in targets:
            raise UserError(f"{name} is not a reproduction; known are {', '.join(targets)}.")
    return [targets[name] for name in names]


def update_markdown_table(
    page: Path, targets: Mapping[str, ReproductionTarget], results: Mapping[str, ReproductionResult]
) -> None:
    """Write the table into a page: new results, the page's results of other rows, `not run` for the rest.

    Args:
        page: Markdown; the table stands between two comments, at the end if there are none yet.
        targets: All of them.
        results: The new ones.
    """
    before = page.read_text() if page.exists() else "# Reproductions\n"
    table = before.partition(BEGIN)[2].partition(END)[0]
    previous = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    lines = []
    for target in targets.values():
        fixed = _fixed_columns(target)
        if target.name in results:
            result = results[target.name]
            lines.append(f"{fixed} {result.value:.2f} | {target.verdict(result.value)} | {result.provenance} |")
        elif previous.get(target.name, "").startswith(fixed):
            lines.append(previous[target.name])
        else:
            lines.append(f"{fixed} {_NOT_RUN} | | |")
    table = f"{BEGIN}\n{_HEAD}" + "\n".join(lines) + f"\n{END}"
    if BEGIN in before and END in before:
        head, _, rest = before.partition(BEGIN)
        after = head + table + rest.partition(END)[2]
    else:
        after = f"{before.rstrip()}\n\n{table}\n"
    write_atomically(page, lambda file: file.write(after.encode()))


def _fixed_columns(target: ReproductionTarget) -> str:
    """Return the part of a line that does not depend on any run."""
    published = "–" if target.expected is None else f"{target.expected:g}"
    tolerance = "–" if target.tolerance is None else f"{target.tolerance:g}"
    return f"| `{target.name}` | {target.what} ({target.source}) | {published} | {tolerance} |"


def main() -> None:
    """The command line."""
    with exit_with_message():
        targets = read_targets(config_dir() / "reproduce" / "targets.yaml")
        args = _parser().parse_args()
        if not args.names:
            for target in targets.values():
                print(f"{target.name:20} {target.what} ({target.source})")
            return
        _check_overrides(args.override)
        args.table = args.table or args.root / _PAGE
        _check_table(args.table)
        names = list(targets) if args.names == ["all"] else args.names
        try:
            sys.exit(_reproduce(select_targets(targets, names), targets, args))
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
    parser.add_argument(
        "--root", type=Path, default=Path("reproductions"), help="folder of the runs (%(default)s)"
    )
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
            table.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--table={table} cannot be read: {error}.") from error


def _reproduce(
    selected: Sequence[ReproductionTarget], targets: dict[str, ReproductionTarget], args: argparse.Namespace
) -> int:
    """Run the selected targets; the exit code is 1 if one is outside its tolerance or could not be run."""
    failures = 0
    for target in selected:
        print(f"{target.name}: {target.what}", flush=True)
        directory = RunDirectory(args.root / target.name)
        result = _run(target, directory, args.override)
        if result is None:
            failures += 1
            print(f"{target.name}: {_NOT_RUN}; see {directory.log}", file=sys.stderr)
            continue
        update_markdown_table(args.table, targets, {target.name: result})
        verdict = target.verdict(result.value)
        failures += verdict == "outside"
        published = "" if target.expected is None else f", published {target.expected:g} ± {target.tolerance:g}"
        print(f"{target.name}: {target.metric} {result.value:.2f}{published}: {verdict}; written to {args.table}")
    return min(failures, 1)


def _run(
    target: ReproductionTarget, directory: RunDirectory, overrides: Sequence[str]
) -> ReproductionResult | None:
    """Train and evaluate a target unless that has been done; None if it fails."""
    result = directory.read_result() or {}
    if result.get("status") != "completed":
        arguments = (
            [f"resume={directory.path}"]
            if directory.config.exists()
            else [*target.train, "tracker=none", "evaluator=[elbo]", f"hydra.run.dir={directory.path}", *overrides]
        )
        if _run_command("train", arguments) != 0:
            return None
        result = directory.read_result() or {}
    metrics: dict[str, Any] = result["metrics"]
    if target.evaluate:
        if _run_command("evaluate", [f"run={directory.path}", "checkpoint=last", *target.evaluate]) != 0:
            return None
        metrics = json.loads(directory.evaluation("test", "last").read_text())["metrics"]
    duration = format_duration(result["seconds"]["training"])
    provenance = f"{result['device']}, torch {result['versions']['torch']}, {duration}"
    return ReproductionResult(float(metrics[target.metric]), provenance)


def _run_command(name: str, arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", f"vae_exp.{name}", *arguments], check=False).returncode  # noqa: S603


if __name__ == "__main__":
    main()
