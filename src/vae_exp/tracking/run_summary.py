"""Values that are added to the summary of a W&B run after its training has ended."""

import json
import os
import time
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, check_within, write_atomically
from vae_exp.storage.output_files import temporary_folder
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.tracking.offline_runs import Segment, TrackedRun, segments_in
from vae_exp.tracking.wandb_log import encode_log, read_records, record_class

_TIME_FORMAT = "%Y%m%d_%H%M%S"


class _TrackedSegments(NamedTuple):
    """The segments of a W&B run.

    Args:
        last: The last one.
        records: The last of its records of each kind, such as `run` and `exit`.
        summary: The summary of all segments: JSON by name.
        metrics: The records of the last one that name the x-axis of metrics.
    """

    last: Segment
    records: dict[str, Any]
    summary: dict[tuple[str, ...], str]
    metrics: list[Any]

    @property
    def run(self) -> Any:
        """What the last segment says of the run."""
        return self.records["run"].run


def add_to_summary(directory: RunDirectory, values: Mapping[str, float]) -> str | None:
    """Add values to the summary of a W&B run: online by resuming it, offline by a further segment of it.

    An offline segment repeats name, project, state, x-axes and summary of the last one: `wandb sync` replaces
    those of a run by those of the segment. It has nothing else: W&B itself would write a runtime of 0 s, a command
    and a list of packages, which replace those of the training where they are uploaded.

    Args:
        directory: The run directory.
        values: The values by name.

    Returns:
        Where they are now, as a sentence; None for a run that W&B does not track, or that was resumed without it.

    Raises:
        UserError: if they cannot be added.
        Exception: whatever W&B and protobuf raise.
    """
    tracked = TrackedRun.read(directory)
    mode = os.environ.get("WANDB_MODE")
    if tracked.run_id is None or tracked.mode == "none" or mode == "disabled":
        return None
    if directory.is_locked():
        raise UserError("it is still being trained; force=true adds its scores afterwards")
    lock = directory.path / "evaluation" / ".wandb.lock"
    check_within(lock, directory.path)
    with FileLock(lock):  # each addition repeats those before it
        segments = _read_segments(tracked)
        is_offline = segments.last.is_offline or mode == "offline"
        _require_same_run(segments, directory.path, by_name=is_offline)
        if is_offline:
            path = _write_segment(segments, values)
            return f"Added to the summary of the W&B run {tracked.run_id}, offline: {path}"
        _require_own_folder(segments.last.path.parent.parent)
        _resume(segments, directory.path, values)
        return f"Added to the summary of the W&B run {tracked.run_id}, online."


def _require_same_run(segments: _TrackedSegments, path: Path, *, by_name: bool) -> None:
    """Refuse a W&B run of another directory: one from a stranger may name any run.

    Raises:
        UserError: names the directory of the W&B run.
    """
    values = [json.loads(item.value_json) for item in segments.run.config.update if item.key == "run_directory"]
    trained_in = Path(str(values[0] if values else "an unknown directory"))
    if trained_in != path and not (by_name and trained_in.name == path.name):
        raise UserError(
            f"{segments.last.path} is of the run in {trained_in}, not of the one in {path}: evaluate it where it "
            f"was trained, or set WANDB_MODE=disabled to leave W&B alone"
        )


def _require_own_folder(root: Path) -> None:
    """Refuse to send anything for a folder of W&B runs that only the run directory names.

    Raises:
        UserError: unless it is that of `WANDB_DIR`, or of the working directory; names the remedy.
    """
    folder = absolute_path("WANDB_DIR", os.environ.get("WANDB_DIR") or ".")
    if root != folder.resolve():
        raise UserError(
            f"its W&B folder is in {root}, not in {folder}: if that folder is yours, set WANDB_DIR={root}, or "
            f"WANDB_MODE=offline to add them without the network"
        )


def _read_segments(tracked: TrackedRun) -> _TrackedSegments:
    segments = sorted(
        segment
        for folder in tracked.folders
        for segment in segments_in(folder)
        if segment.run_id == tracked.run_id and segment.file.is_file()
    )
    if not segments:
        places = ", ".join(map(str, tracked.folders))
        raise UserError(f"there is no segment *run-*-{tracked.run_id} in {places}")
    summary: dict[tuple[str, ...], str] = {}
    for segment in segments:
        records, metrics = {}, []
        for record in read_records(segment.file):
            records[record.WhichOneof("record_type")] = record
            metrics += [record] if record.WhichOneof("record_type") == "metric" else []
            summary |= {_name(item): item.value_json for item in record.summary.update}
            for item in record.summary.remove:
                summary.pop(_name(item), None)
    if "run" not in records:
        raise UserError(f"{segments[-1].path} does not say of which run it is")
    return _TrackedSegments(segments[-1], records, summary, metrics)


def _name(item: Any) -> tuple[str, ...]:
    return tuple(item.nested_key) or (item.key,)


def _write_segment(segments: _TrackedSegments, values: Mapping[str, float]) -> Path:
    """Write a segment that starts after the last one, with the values in its summary."""
    run = segments.run
    after_last = time.mktime(time.strptime(segments.last.started, _TIME_FORMAT)) + 1
    started = max(int(time.time()), int(after_last))
    name = f"offline-run-{time.strftime(_TIME_FORMAT, time.localtime(started))}-{run.run_id}"
    config = [item for item in run.config.update if item.key == "run_directory"]  # by which the dashboard finds it
    del run.config.update[:]
    run.config.update.extend(config)
    run.ClearField("summary")
    run.start_time.FromSeconds(started)
    new = {(name,): json.dumps(value if isfinite(value) else str(value)) for name, value in values.items()}
    summary = record_class()()
    for key, text in (segments.summary | new).items():
        summary.summary.update.add(value_json=text).nested_key.extend(key)
    records = {**segments.records, "summary": summary}
    first, last = (
        [records[kind] for kind in kinds if kind in records] for kinds in (("header", "run"), ("summary", "exit"))
    )
    content = encode_log(record.SerializeToString() for record in [*first, *segments.metrics, *last])
    segment = segments.last.path.with_name(name)
    with temporary_folder(segment.parent) as scratch:
        write_atomically(scratch / name / f"run-{run.run_id}.wandb", lambda file: file.write(content))
        return (scratch / name).rename(segment)


def _resume(segments: _TrackedSegments, path: Path, values: Mapping[str, float]) -> None:
    from vae_exp.tracking.wandb_tracker import WandbTracker

    run, records = segments.run, segments.records
    tracker = WandbTracker(
        mode="online",
        root=segments.last.path.parent.parent,
        project=run.project,
        entity=run.entity,
        notes=run.notes,
        group=run.run_group or None,
        name=run.display_name,
        tags=run.tags,
        config={"run_directory": str(path)},  # by which the next addition knows the run
        run_id=run.run_id,
        job_type=run.job_type,
    )
    tracker.finish(records["exit"].exit.exit_code if "exit" in records else 1, values)
    if tracker.error is not None:
        raise UserError(tracker.error)
