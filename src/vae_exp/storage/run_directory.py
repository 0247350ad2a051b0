"""The files of a run directory: their names, and the lock of the process that trains there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vae_exp.errors import RunLockedError, UserError
from vae_exp.metrics import with_current_metrics
from vae_exp.storage.atomic_io import absolute_path, read_json

LATEST = "latest"  # in place of a run directory, the one that was written last
NOTES = "notes.md"
_STAYS = (".lock", "train.log", "output.log", "previous", NOTES)  # not moved when an attempt is archived
_TEMPORARY = ".*.[0-9]*.tmp"
_LOCK_TIMEOUT = 2  # seconds; other processes test the lock for a moment


class _File:
    """A path below that of a run directory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, directory: "RunDirectory", owner: type) -> Path:
        return directory.path / self._name


@dataclass(frozen=True)
class RunDirectory:
    """A directory that holds all of a run.

    Args:
        path: The directory; relative paths are anchored at the working directory of the moment.
    """

    path: Path

    config = _File(".hydra/config.yaml")  # composed, as Hydra writes it
    hydra_config = _File(".hydra/hydra.yaml")  # Hydra's own settings; kept for reference, never applied again
    overrides = _File(".hydra/overrides.yaml")  # what the run was started with
    metrics = _File("metrics.jsonl")  # one JSON object per epoch, and one of the scores at the end
    result = _File("result.json")  # written last; its presence means that the run has ended
    wandb = _File("wandb.json")  # mode, id, names and directory of the W&B run, written at its start
    log = _File("train.log")  # what the run said, with tracebacks
    output = _File("output.log")  # what a job of a pool printed, whichever library did
    previous = _File("previous")  # earlier attempts of a restarted job, each in a numbered folder
    figures = _File("figures")  # of the training run, one PNG per name
    generated = _File("generated")  # what `generate` made, as PNG and `.npz`
    exported = _File("export")  # what `export` wrote: programs, weights and their description
    notes = _File(NOTES)  # what people write about it, with the dashboard or an editor; of all attempts
    lock = _File(".lock")  # held by the process that trains here

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", absolute_path("run", str(self.path)))

    def evaluation(self, split: str, checkpoint: str) -> Path:
        """The metrics of a checkpoint on a split; figures are in the folder of the same name."""
        return self.path / "evaluation" / f"{split}-{checkpoint}.json"

    def pictures(self, split: str, checkpoint: str, prior: str) -> Path:
        """The folder of the pictures that `generate` draws of a checkpoint and a split."""
        return self.generated / f"{split}-{checkpoint}{'-fitted' if prior == 'fitted' else ''}"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `last` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def checkpoints(self) -> list[str]:
        """The checkpoints that are there, of `best` and `last`, in this order."""
        return [name for name in ("best", "last") if self.checkpoint(name).is_file()]

    def contains_run(self) -> bool:
        """Whether a run, of ours or of another Hydra program, has begun to write here.

        A run of ours takes the lock first and writes its config before all that counts: a lock without a config
        is what a killed start has left, in which the same command can start again.
        """
        traces = [self.config, self.result, self.figures, self.checkpoint("last").parent]
        if not self.lock.exists():
            traces += [self.config.parent, self.metrics, self.log]
        return any(trace.exists() for trace in traces)

    def require_free(self) -> None:
        """Refuse to start a run where there is one.

        Raises:
            UserError: says how to resume that run.
        """
        if self.contains_run():
            raise UserError(
                f"hydra.run.dir={self.path} already holds a run; resume it with resume={self.path}, or choose "
                f"another directory."
            )

    def archive_attempt(self) -> None:
        """Move what an attempt has left into `previous/<number>`, but for its log; only the owner may."""
        numbers = [int(path.name) for path in self.previous.glob("*") if path.name.isdecimal()]
        target = self.previous / str(max(numbers, default=0) + 1)
        target.mkdir(parents=True)
        first, last = self.checkpoint("last").parent, self.result  # a kill in between leaves nothing to resume
        for path in sorted(self.path.iterdir(), key=lambda path: (path == last, path != first)):
            if path.name not in _STAYS:
                path.rename(target / path.name)

    def is_locked(self) -> bool:
        """Whether a living process trains here."""
        if not self.lock.exists() or self.lock.is_symlink():  # a link is none of ours
            return False
        lock = FileLock(self.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # a folder that we may not write to
            return False
        lock.release()
        return False

    def remove_temp_files(self) -> None:
        """Remove the temporary files of processes that were killed; only the owner may."""
        names = (".hydra", "checkpoints", "figures", "evaluation", "generated")
        folders = [self.path / name for name in names if not (self.path / name).is_symlink()]
        leftovers = [path for folder in folders for path in folder.rglob(_TEMPORARY)]
        for leftover in (*self.path.glob(_TEMPORARY), *leftovers):
            leftover.unlink(missing_ok=True)

    def read_result(self) -> dict[str, Any] | None:
        """The contents of `result.json`; None while there is none.

        Raises:
            UserError: if the file is there and is not a JSON object.
        """
        try:
            result = read_json(self.result)
        except FileNotFoundError:
            return None
        if not isinstance(result, dict):
            raise UserError(f"{self.result} holds {type(result).__name__}; expected a JSON object.")
        return _with_current_names(result)

    @staticmethod
    def total_seconds(result: Mapping[str, Any]) -> float | None:
        """How long the run took, as its `result.json` says; None where it does not."""
        seconds = result.get("seconds")
        total = seconds.get("total") if isinstance(seconds, dict) else None
        return total if isinstance(total, int | float) else None

    def read_wandb(self) -> dict[str, Any]:
        """The contents of `wandb.json`; empty where they cannot be read."""
        try:
            record = read_json(self.wandb)
        except (OSError, UserError):
            return {}
        return record if isinstance(record, dict) else {}


def _with_current_names(result: dict[str, Any]) -> dict[str, Any]:
    """The contents of a `result.json` that an older version may have written."""
    if isinstance(result.get("metrics"), dict):
        result["metrics"] = with_current_metrics(result["metrics"])
    check = result.pop("audit", result.get("loss_check"))
    if isinstance(check, dict):
        result["loss_check"] = {"warnings" if key == "concerns" else key: value for key, value in check.items()}
    return result


def resumed_checkpoint(value: str) -> Path:
    """The checkpoint that `resume=…` names: a run directory's `last.pt`, or the file itself."""
    path = absolute_path("resume", value)
    return path if path.suffix == ".pt" else RunDirectory(path).checkpoint("last")


def resumed_directory(value: str) -> RunDirectory:
    """The run directory that `resume=…` names, by itself or by one of its checkpoints."""
    return RunDirectory(resumed_checkpoint(value).parent.parent)


@contextmanager
def lock_run_directory(directory: RunDirectory) -> Iterator[None]:
    """For the length of a block no other process trains in this directory; a dead process owns nothing.

    Raises:
        RunLockedError: if another process does.
    """
    lock = FileLock(directory.lock)
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT)
    except Timeout:
        raise RunLockedError(
            f"another process is training in {directory.path}; wait for its end or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def named_run(name: str) -> Path:
    """The directory that `run=…` names: a path, or `latest`.

    Raises:
        UserError: for `latest` where there is no run.
    """
    return find_latest_run("run") if name == LATEST else absolute_path("run", name)


def find_latest_run(key: str) -> Path:
    """The run directory below `outputs` whose checkpoint was written last; it is printed.

    Raises:
        UserError: if there is none; names the key that asked for it.
    """
    checkpoints = list(Path("outputs").glob("**/checkpoints/last.pt"))
    if not checkpoints:
        raise UserError(f"{key}={LATEST}: no run in outputs has a checkpoint; name its directory.")
    run = max(checkpoints, key=lambda path: path.stat().st_mtime).parent.parent
    print(f"The latest run is {run}", flush=True)
    return run


def claim_directory(path: Path) -> Path:
    """Make a directory that no other process has: `path`, or `path-2`, `path-3`, … where it exists."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("unreachable")
