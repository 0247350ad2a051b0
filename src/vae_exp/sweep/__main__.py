"""`python -m vae_exp.sweep COMMAND DIR`: show, plot, retry and clean up a sweep."""

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path

from rich.text import Text

from vae_exp.configuration.overrides import quote_value
from vae_exp.configuration.value_checks import is_sweep_name
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError, did_you_mean, exit_with_message
from vae_exp.storage.atomic_io import check_all_within, check_writable
from vae_exp.sweep.aggregate import (
    SeedGroup,
    best_jobs,
    combine_settings,
    default_keys,
    group_seeds,
    meaning,
    means_over_seeds,
    natural_sort_key,
    score,
    select_metric,
    sort_by_metric,
    to_cli_overrides,
)
from vae_exp.sweep.cleanup import find_removable, remove
from vae_exp.sweep.command_check import TRUST, check_command
from vae_exp.sweep.job_records import JobRecord, read_jobs, varying
from vae_exp.sweep.manifest import STUDY_FILE, portable_args, read_manifest
from vae_exp.sweep.tables import (
    console,
    group_rows,
    group_table,
    job_rows,
    job_table,
    print_status,
    print_warnings,
    shown_metrics,
    write_csv,
    write_parquet,
)

_STOPPED = (130, 143)
_POLL_SECONDS = 0.1
_OTHERS = (
    "how settings that differ in keys which are not shown are combined, after the mean over seeds (%(default)s)"
)


def main() -> None:
    """The command line."""
    with exit_with_message():
        parser, names = _parser()
        first = next(iter(sys.argv[1:]), "-h")
        if not first.startswith("-") and first not in names:
            raise UserError(f"{first} is not a command; {did_you_mean(first, names)}")
        args = parser.parse_args()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not a crash
        sys.exit(args.run(args))


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m vae_exp.sweep", description="Sweeps, while they run and afterwards."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.add_argument("sweep", type=Path, metavar="DIR", help="the sweep's directory, such as multirun/mine")
        added.set_defaults(run=run)
        return added

    command("status", _status, "progress, and failed jobs with their reasons")
    summary = command("summary", _summary, "a table; means and standard errors over seeds")
    summary.add_argument("--group-by", nargs="*", metavar="KEY", help="keys; by default all that vary but seeds")
    summary.add_argument("--others", choices=("mean", "best"), default="mean", help=_OTHERS)
    summary.add_argument("--jobs", action="store_true", help="a row per job, not per group")
    summary.add_argument(
        "--sort",
        metavar="NAME",
        help="a metric or a key; by default the main metric: val/elbo or the nearest to it",
    )
    summary.add_argument(
        "--metric", nargs="*", default=[], metavar="NAME", help="metrics to show beside the usual"
    )
    summary.add_argument(
        "--csv", type=Path, metavar="FILE", help="write all metrics of all jobs, or of the groups"
    )
    summary.add_argument("--parquet", type=Path, metavar="FILE", help="the same, as Parquet")
    plot = command("plot", _plot, "figures as PNG and SVG")
    plot.add_argument("--metric", metavar="NAME", help="by default the main one: val/elbo or the nearest to it")
    plot.add_argument("--others", choices=("mean", "best"), default="mean", help=_OTHERS)
    plot.add_argument("--to", type=Path, metavar="FOLDER", help="by default DIR/plots")
    best = command(
        "best", _best, "the overrides of the best job, ready to be pasted; of several metrics the front"
    )
    best.add_argument("--metric", nargs="*", default=[], metavar="NAME", help="by default the main one")
    best.add_argument("--over-seeds", action="store_true", help="by the means of jobs that differ in seeds alone")
    for shown in (summary, plot, best):
        shown.add_argument(
            "--by", choices=("best", "last"), default="best", help="the epoch whose metrics count (%(default)s)"
        )
    retry = command("retry", _retry, "run again what failed, was interrupted or is missing")
    retry.add_argument(
        "trusted_packages",
        nargs="?",
        default="trusted_packages=[]",
        metavar="trusted_packages=[NAME,…]",
        help="packages of yours that the jobs use; `features`; `command` for all that sweep.json says",
    )
    clean = command("clean", _clean, "list files that can be removed, ask, and remove them")
    clean.add_argument("--checkpoints", action="store_true", help="last.pt of finished jobs too")
    clean.add_argument("--yes", action="store_true", help="do not ask")
    return parser, [*commands.choices]


def _jobs(sweep: Path, by: str = "best") -> list[JobRecord]:
    if not sweep.is_dir():
        raise UserError(f"{sweep} is not a directory; name a sweep's, such as multirun/mine.")
    jobs = read_jobs(sweep, by)
    if not jobs:
        raise UserError(f"{sweep} holds no jobs; name the directory of a sweep, such as multirun/mine.")
    return jobs


def _status(args: argparse.Namespace) -> int:
    print_status(_jobs(args.sweep), args.sweep.resolve().name, console())
    return 0


def _summary(args: argparse.Namespace) -> int:
    jobs = _jobs(args.sweep, args.by)
    metrics = list(dict.fromkeys([*shown_metrics(jobs), *(select_metric(jobs, name) for name in args.metric)]))
    out, name = console(), args.sweep.resolve().name
    keys = default_keys(jobs) if args.group_by is None else args.group_by
    has_completed = any(job.status == "completed" for job in jobs)
    per_job = args.jobs or not has_completed or (args.group_by is None and keys == varying(jobs))
    groups: list[SeedGroup] = []
    if per_job:
        out.print(job_table(_sorted_jobs(jobs, args.sort), f"Sweep {name}", metrics))
    else:
        settings = group_seeds(jobs, list(dict.fromkeys([*default_keys(jobs), *keys])))
        metric = select_metric(jobs, None if args.sort in keys else args.sort, "--sort")
        groups = _sorted_groups(combine_settings(settings, keys, args.others, metric), metric, args.sort)
        caption = meaning(settings, keys, args.others, metric)
        out.print(group_table(groups, f"Sweep {name}", metrics))
        out.print(Text(f"Completed jobs: {caption}; ± standard errors over seeds"), soft_wrap=True)
    print_warnings(jobs, out)
    table = job_rows(jobs) if per_job or args.group_by is None else group_rows(groups)
    for path, write in ((args.csv, write_csv), (args.parquet, write_parquet)):
        if path is not None:
            check_writable(path.absolute().parent, "folder")
            write(table, path)
            out.print(Text(f"Written to {path}"), soft_wrap=True)
    return 0


def _sorted_jobs(jobs: Sequence[JobRecord], name: str | None) -> list[JobRecord]:
    if name is not None and any(name in job.keys for job in jobs):
        return sorted(jobs, key=lambda job: natural_sort_key(job.keys.get(name, "")))
    has_metrics = any(job.metrics for job in jobs)
    return sort_by_metric(jobs, select_metric(jobs, name, "--sort")) if has_metrics or name else list(jobs)


def _sorted_groups(groups: Sequence[SeedGroup], metric: str, name: str | None) -> list[SeedGroup]:
    if name is not None and any(name in group.keys for group in groups):
        return sorted(groups, key=lambda group: natural_sort_key(group.keys[name]))
    having = [group for group in groups if metric in group.metrics]
    having.sort(key=lambda group: score(metric, group.metrics[metric].mean), reverse=True)
    return [*having, *(group for group in groups if metric not in group.metrics)]


def _plot(args: argparse.Namespace) -> int:
    from vae_exp.sweep.plots import draw

    folder = args.to or args.sweep / "plots"
    jobs = _jobs(args.sweep, args.by)
    check_writable(folder, "--to")
    for path in draw(jobs, args.metric, folder, args.others):
        print(path)
    return 0


def _best(args: argparse.Namespace) -> int:
    jobs = _jobs(args.sweep, args.by)
    candidates = means_over_seeds(jobs) if args.over_seeds else jobs
    best, metrics = best_jobs(candidates, args.metric or _objectives(args.sweep))
    of_test = [name for name in metrics if name.startswith("test/")]
    if of_test:
        print(
            f"Chosen by {', '.join(of_test)}: the best of many scores is optimistic; choose by a "
            f"validation metric, and report the test score of that model.",
            file=sys.stderr,
        )
    for job in best:
        values = ", ".join(f"{name} {job.metrics[name]:.4f}" for name in metrics)
        warned = f" ({', '.join(job.warnings)})" if job.warnings else ""
        print(f"# {values}: {args.sweep / job.name}{warned}")
        print(to_cli_overrides(job))
    return 0


def _objectives(sweep: Path) -> Sequence[str]:
    """The objectives of the search that made a sweep; none where there was no search."""
    if not (sweep / STUDY_FILE).is_file():
        return ()
    try:
        from vae_exp.sweep.search.study import load_study
    except ImportError as error:
        raise UserError(
            f"{sweep / STUDY_FILE} has the objectives, and needs Optuna ({error}): pip install optuna, or name a "
            f"metric with --metric."
        ) from error

    return tuple(load_study(sweep / STUDY_FILE).user_attrs.get("objectives", ()))


def _retry(args: argparse.Namespace) -> int:
    commands = read_manifest(args.sweep).commands
    if not commands:
        raise UserError(f"{args.sweep} does not say how it was started: there is no sweep.json to go by.")
    trust = _trusted(args.trusted_packages)
    if TRUST not in trust:
        check_all_within(args.sweep)
    for command in commands:
        folder, argv = Path(command["folder"]), portable_args(command["words"])
        if not folder.is_dir():
            words = " ".join(_directory_args(args.sweep.resolve(), Path.cwd()))
            raise UserError(
                f"{args.sweep} was started in {folder}, which is no longer there; give your command again, in the "
                f"folder where the project is now, with {words}."
            )
        if TRUST not in trust:
            check_command(argv, folder, args.sweep)
    checked = [] if TRUST in trust else ["sweep.checked=true"]
    if named := [name for name in trust if name != TRUST]:
        checked.append(f"trusted_packages=[{','.join(named)}]")
    worst = 0
    for command in commands:
        folder = Path(command["folder"])
        argv = [*portable_args(command["words"]), *_directory_args(args.sweep.resolve(), folder), *checked]
        code = _run([sys.executable, "-m", "vae_exp.train", *argv], folder)
        worst = max(worst, code)
        if code in _STOPPED:
            break
    return worst


def _trusted(word: str) -> list[str]:
    names = re.fullmatch(r"(?:trust|trusted_packages)=\[?([\w.,\s]*)\]?", word)
    if not names:
        raise UserError(f"{word} is not an argument of retry; expected trusted_packages=[NAME,…].")
    return [name for name in re.split(r"[,\s]+", names[1]) if name]


def _directory_args(sweep: Path, folder: Path) -> list[str]:
    """The arguments that make a command of a folder write to this sweep, which may have been moved."""
    name = [f"sweep.name={quote_value(sweep.name)}"] if is_sweep_name(sweep.name) else []
    usual = folder.resolve() / "multirun" / sweep.name
    return name if name and sweep == usual else [*name, f"hydra.sweep.dir={quote_value(str(sweep))}"]


def _run(argv: Sequence[str], folder: Path) -> int:
    """Run a command to its end, however long that takes after Ctrl-C, which the terminal sends to both."""
    with GracefulShutdown(second_signal_kills=False) as stop:
        process = subprocess.Popen(argv, cwd=folder)  # noqa: S603 - what was run before
        announced = False
        while process.poll() is None:
            if stop.signal_number == signal.SIGTERM and not announced:
                announced = True
                process.terminate()
            time.sleep(_POLL_SECONDS)
    code = process.returncode
    return code if code >= 0 else 128 - code


def _clean(args: argparse.Namespace) -> int:
    _jobs(args.sweep)
    removable = find_removable(args.sweep, checkpoints=args.checkpoints)
    if not removable:
        print("Nothing to clean up.")
        return 0
    for entry in removable:
        print(f"{entry.size / 2**20:8.1f} MiB  {entry.path}  ({entry.reason})")
    total = sum(entry.size for entry in removable) / 2**20
    if not args.yes and not _agreed(f"Remove these {len(removable)}, {total:.1f} MiB? [y/N] "):
        print("Nothing was removed.")
        return 1
    problems = remove(removable, checkpoints=args.checkpoints)
    print(f"Removed {len(removable) - len(problems)} of {len(removable)}.")
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, RuntimeError):  # standard input is closed
        return False


if __name__ == "__main__":
    main()
