"""Records of the jobs of a sweep, read from their directories."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vae_exp.configuration.naming import identifying_values, job_label, swept_keys
from vae_exp.configuration.renames import rename_override
from vae_exp.errors import UserError
from vae_exp.runs.scores import read_test_scores
from vae_exp.storage.atomic_io import read_yaml
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.manifest import job_key, read_manifest
from vae_exp.tracking.metrics_file import read_row

_TAIL_BYTES = 16_384
_BEST = re.compile("best/(val|train)/")
NOT_STARTED = "not started"
RUNNING = "running"


@dataclass(frozen=True)
class JobRecord:
    """One job of a sweep.

    Args:
        name: Its directory's name; empty if it has none yet.
        status: `completed`, `pruned`, `failed`, `interrupted` or `diverged`, as its result says;
            `running`, `not started`, `killed` where it has no result; `unreadable` where that cannot be read.
        overrides: The overrides it was started with.
        metrics: Those of its best epoch, or the last ones; and `test/…` where `evaluate` has scored it.
        monitor: The metric that chose its best checkpoint.
        error: Why it did not complete; empty if it did.
        epochs: How many epochs it has been trained.
        seconds: How long it took; None until it has ended.
        warnings: Messages of its result by name, such as `posterior collapse`.
        label: What differs from the other jobs of its sweep: `latent_dim=2 seed=0`.
    """

    name: str
    status: str
    overrides: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: str = ""
    error: str = ""
    epochs: int = 0
    seconds: float | None = None
    warnings: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def title(self) -> str:
        """Its label, and the hash in the name of its directory: `latent_dim=2 seed=0 · c04f2e13`."""
        identity = re.search("(?<=_)[0-9a-f]{8}$", self.name)
        return " · ".join(filter(None, (self.label, identity[0] if identity else self.name)))

    @cached_property
    def keys(self) -> dict[str, str]:
        """The overrides that affect its result, by key; a number is the same text however it was written."""
        return {key: _number_text(value) for key, value in identifying_values(self.overrides).items()}


def _number_text(value: str) -> str:
    """`0.001` for `1e-3` and `0.0010`; other texts as they are."""
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", value, re.IGNORECASE):
        return value
    return value if re.fullmatch(r"-?\d+", value) else f"{float(value):.12g}"


def read_jobs(sweep: Path, by: str = "best") -> list[JobRecord]:
    """Read all jobs of a sweep, also those not started; best first by the metric they monitored.

    Args:
        sweep: Its directory.
        by: The epoch whose metrics a job has, `best` or `last`.
    """
    jobs = [read_job(RunDirectory(path.parent), by) for path in sorted(sweep.glob("*/.hydra"))]
    started_keys = {job_key(job.overrides) for job in jobs}
    manifest = read_manifest(sweep)
    waiting = [job for job in manifest.jobs if job_key(job) not in started_keys]
    jobs += [JobRecord("", NOT_STARTED, tuple(overrides)) for overrides in waiting]
    swept = swept_keys((job.keys for job in jobs), manifest.searched)
    return sorted((replace(job, label=job_label(job.keys, swept)) for job in jobs), key=_rank)


def _rank(job: JobRecord) -> tuple[bool, bool, float]:
    value = job.metrics.get(job.monitor, float("inf"))
    return job.status != "completed", job.status == NOT_STARTED, value


def read_job(directory: RunDirectory, by: str = "best") -> JobRecord:
    """Read the directory of a job; `by` as in `read_jobs`."""
    name, overrides = directory.path.name, tuple(read_overrides(directory.overrides))
    try:
        result = directory.read_result()
    except UserError as error:
        return JobRecord(name, "unreadable", overrides, error=str(error))
    if result is None:
        metrics = last_metrics(directory)
        epoch = int(metrics.get("epoch", 0))
        if directory.is_locked():
            return JobRecord(name, RUNNING, overrides, metrics, epochs=epoch)
        return JobRecord(name, "killed", overrides, metrics, error="ended without a result", epochs=epoch)
    epochs = result.get("epochs")
    return JobRecord(
        name=name,
        status=str(result.get("status")),
        overrides=overrides,
        metrics=_of_epoch(by, _numbers(result.get("metrics"))) | _numbers(read_test_scores(directory, result)),
        monitor=str(result.get("monitor", "")),
        error=str(result.get("error") or ""),
        epochs=epochs if isinstance(epochs, int) else 0,
        seconds=directory.total_seconds(result),
        warnings=_warnings(result.get("warnings")),
    )


def last_metrics(directory: RunDirectory) -> dict[str, float]:
    """The last line of `metrics.jsonl` if it is whole and undamaged; empty otherwise."""
    if not directory.metrics.is_file():  # to open a pipe would wait
        return {}
    try:
        with directory.metrics.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            whole, _, _ = file.read().rpartition(b"\n")
    except OSError:
        return {}
    return _numbers(read_row(whole.rpartition(b"\n")[2]))


def varying(jobs: Iterable[JobRecord]) -> list[str]:
    """The keys that differ between jobs, in the order of their first appearance; where none does, all."""
    jobs = list(jobs)
    return swept_keys(job.keys for job in jobs) or union(job.keys for job in jobs)


def union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, in the order of their first appearance."""
    seen: dict[str, None] = {}
    for mapping in mappings:
        seen |= dict.fromkeys(mapping)
    return list(seen)


def read_overrides(path: Path) -> list[str]:
    """The overrides that a job was started with; empty where they cannot be read."""
    try:
        overrides = read_yaml(path)
    except (OSError, UserError):
        return []
    return [rename_override(str(override)) for override in overrides] if isinstance(overrides, list) else []


def _warnings(stored: Any) -> dict[str, str]:
    entries = [entry for entry in stored if isinstance(entry, dict)] if isinstance(stored, list) else []
    return {str(entry.get("name")).replace("_", " "): str(entry.get("message")) for entry in entries}


def _of_epoch(by: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of the last epoch, or with those of the best one in their place, which are `best/…` then."""
    best = {name.removeprefix("best/"): metrics[name] for name in metrics if _BEST.match(name)}
    last = {name: value for name, value in metrics.items() if not _BEST.match(name)}
    return last | best if by == "best" else last


def _numbers(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, dict):
        return {}
    return {
        str(key): value
        for key, value in metrics.items()
        if isinstance(value, int | float) and abs(value) <= sys.float_info.max
    }
