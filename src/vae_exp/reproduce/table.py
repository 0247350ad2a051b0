"""References beside reproduced figures: on the terminal, and as the table of a Markdown page."""

from collections.abc import Mapping
from pathlib import Path

from vae_exp.errors import quantity
from vae_exp.reproduce.runs import ReproductionResult, TargetRuns
from vae_exp.reproduce.targets import VERDICTS, ReproductionTarget, mean_text
from vae_exp.storage.atomic_io import write_atomically

BEGIN, END = "<!-- reproduce: begin -->", "<!-- reproduce: end -->"
NOT_RUN, UNFINISHED = "not run", "unfinished"
_HEAD = "| name | what | reference | reproduced | verdict |\n|---|---|---|---|---|\n"


def update_markdown_table(page: Path, runs: Mapping[str, TargetRuns]) -> None:
    """Write the table into a page: what the runs have reached, the page's figure where these have none.

    Args:
        page: Markdown; the table stands between two comments, at the end if there are none yet.
        runs: Of all targets, by name.
    """
    before = page.read_text(encoding="utf-8") if page.exists() else "# Reproductions\n"
    table = before.partition(BEGIN)[2].partition(END)[0]
    previous = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    lines = [_line(target_runs, runs, previous.get(name, "")) for name, target_runs in runs.items()]
    table = f"{BEGIN}\n{_HEAD}" + "\n".join(lines) + f"\n{END}"
    if BEGIN in before and END in before:
        head, _, rest = before.partition(BEGIN)
        after = head + table + rest.partition(END)[2]
    else:
        after = f"{before.rstrip()}\n\n{table}\n"
    write_atomically(page, lambda file: file.write(after.encode()))


def verdict(target: ReproductionTarget, result: ReproductionResult, all_runs: Mapping[str, TargetRuns]) -> str:
    """How the figure of a target compares with its reference: a number, or the target that it must be below."""
    other = all_runs[target.below].result() if target.below is not None else None
    return target.verdict(result.values, other.values if other is not None else ())


def describe(runs: TargetRuns, all_runs: Mapping[str, TargetRuns]) -> str:
    """What a target has reached: its figure and verdict, or its epoch and the time left, or `not run`."""
    result = runs.result()
    if result is not None:
        return f"{runs.target.metric} {mean_text(result.values)}, {verdict(runs.target, result, all_runs)}"
    progress = runs.progress()
    if not progress:
        return NOT_RUN
    locked = sum(directory.is_locked() for directory in runs.directories)
    return f"{progress}{runs.time_left()}" + (f", {quantity(locked, 'run')} in training" if locked else "")


def _line(runs: TargetRuns, all_runs: Mapping[str, TargetRuns], previous: str) -> str:
    target = runs.target
    figure = "" if target.reference == "–" else f"{target.reference}<br>"
    fixed = f"| `{target.name}` | {target.what} | {figure}{target.source} |"
    result = runs.result()
    if result is not None:
        values = mean_text(result.values)
        return f"{fixed} {values}<br>{result.provenance} | {verdict(target, result, all_runs)} |"
    if previous.startswith(fixed) and previous.endswith(tuple(f"| {word} |" for word in VERDICTS)):
        return previous
    progress = runs.progress()
    return f"{fixed} {progress} | {UNFINISHED} |" if progress else f"{fixed} | {NOT_RUN} |"
