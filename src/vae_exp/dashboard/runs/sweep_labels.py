"""Labels of the jobs of sweeps: what differs between all jobs of a sweep that there are now."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from vae_exp.configuration.naming import job_label, short_keys, swept_keys
from vae_exp.dashboard.runs.run import Run


def label_jobs(runs: Iterable[Run]) -> Iterator[Run]:
    """Set labels and overrides of the jobs of sweeps; yields the runs in which they are new."""
    sweeps: dict[tuple[Path, str], list[Run]] = {}
    for run in runs:
        if run.sweep:
            sweeps.setdefault((run.segments[0].folder, run.sweep), []).append(run)
    for jobs in sweeps.values():
        yield from _label(jobs)


def _label(runs: list[Run]) -> Iterator[Run]:
    jobs = [run.trained.job for run in runs]
    values = [job.values or job.swept for job in jobs]
    swept = swept_keys(values, {key for job in jobs if job.values for key in job.swept})
    shorts = short_keys(dict.fromkeys(key for one in values for key in one)) | short_keys(swept)
    for run, own in zip(runs, values, strict=True):
        is_named = run.trained.config.get("tracker.name") is not None
        label = "" if is_named or not own else job_label(own, swept)
        overrides = {key: (shorts[key], value) for key, value in own.items()}
        if (label, overrides) != (run.label, run.overrides):
            run.label, run.overrides = label, overrides
            yield run
