"""Weights & Biases, offline by default; its failures never cost the run."""

import logging
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, check_writable
from vae_exp.tracking.wandb_sweep import sweep_parameters, with_keys_of_sweep

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 1.0
_ONLINE_START_SECONDS = 20.0
_FINISH_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_GO_OFFLINE = "say tracker=offline (and upload later with `python -m vae_exp.sync`) or tracker=none"


class WandbTracker:
    """The W&B run of one training run.

    Whatever fails after the start is logged once, loudly, and kept in `error`; training continues.

    Args:
        mode: `offline` or `online`.
        root: Folder that holds `wandb/`; shared by all runs of a project.
        project: W&B project.
        group: Runs of one sweep share it; None outside a sweep.
        name: The name that W&B shows.
        tags: W&B tags.
        config: The resolved config, as plain containers.
        run_id: The id of the W&B run to continue; None starts a new one, or that of `wandb agent`.
        job_type: What W&B groups by within a group: `train`, or `sweep` for a job of a sweep.
        entity: The account or team; None for the default of the API key.
        notes: A description; None for none.
        epoch: How many epochs a resumed run has trained; None for a new run.
        is_alone: Whether it ends a W&B run that this process has started before, as in a notebook; runs that train
            side by side do not.

    Raises:
        UserError: if `online` has no API key or no network; says how to go on offline.
    """

    def __init__(
        self,
        mode: str,
        root: Path,
        project: str,
        group: str | None,
        name: str,
        tags: Sequence[str],
        config: Mapping[str, Any],
        run_id: str | None = None,
        job_type: str = "train",
        entity: str | None = None,
        notes: str | None = None,
        epoch: int | None = None,
        *,
        is_alone: bool = True,
    ) -> None:
        self.error: str | None = None
        self._mode = mode
        self._root = root
        self._run: Any = None
        self._epoch = epoch
        self._is_alone = is_alone
        self._names = {"group": group, "job_type": job_type, "name": name}
        arguments: dict[str, Any] = {
            "project": project,
            "entity": entity or "",  # with None, W&B would read the environment of a resumed run
            "group": group or "",
            "name": name,
            "notes": notes or "",
            "tags": list(tags),
            "config": dict(config),
            "job_type": job_type,
            "mode": mode,
            "id": run_id or secrets.token_hex(4),
            "resume": "allow" if run_id and mode == "online" else None,
        }
        if mode == "online":
            self._start_online(arguments)
        else:
            self._guarded("start", lambda: self._start(arguments))

    @property
    def run_id(self) -> str | None:
        """The id that W&B knows the run by; None if it never started."""
        return None if self._run is None else str(self._run.id)

    @property
    def description(self) -> dict[str, Any]:
        """What `result.json` records: mode, run id, directory, names, and the error that ended tracking if any."""
        directory = None if self._run is None else str(Path(self._run.settings.sync_dir))
        start = {"mode": self._mode, "run_id": self.run_id, "directory": directory}
        return {**start, **self._names, "error": self.error}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep the metrics of an epoch at an explicit step."""
        self._epoch = int(metrics["epoch"]) if "epoch" in metrics else self._epoch
        self._guarded("log", lambda: self._run.log(dict(metrics), step=step))

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        """Keep PNG files as images under `figures/<name>`."""
        self._guarded("log figures", lambda: self._run.log(self._with_epoch(_images(figures)), step=step))

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        """Keep lists of numbers as such."""
        plain = {name: list(values) for name, values in lists.items()}
        self._guarded("log lists", lambda: self._run.log(self._with_epoch(plain), step=step))

    def _with_epoch(self, values: dict[str, Any]) -> dict[str, Any]:
        """A row with the last epoch that is known, which that of `log` at the same step replaces."""
        return values if self._epoch is None else {"epoch": self._epoch, **values}

    def log_model(self, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        """Keep files as the artifact `model-ID` of type `model`, with the alias `best`.

        Copies beside the records of the run are what is uploaded, now or later by `wandb sync`.

        Args:
            files: By their names in the artifact.
            metadata: Plain values that W&B shows beside it.
        """
        self._guarded("log the model", lambda: self._log_model(files, metadata))

    def _log_model(self, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(f"model-{self._run.id}", "model", metadata=dict(metadata))
        folder = Path(self._run.settings.sync_dir) / "model"
        _copy(files, folder)
        for name in files:
            artifact.add_file(str(folder / name), name=name, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=["best"])

    def log_code(self, files: Mapping[str, Path]) -> None:
        """Keep Python files, by their names, as what W&B shows as the code of the run."""
        self._guarded("log code", lambda: self._log_code(files))

    def _log_code(self, files: Mapping[str, Path]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _copy(files, Path(folder))
            self._run.log_code(folder, name=re.sub(r"[^\w.-]", "_", f"source-{self._run.project}", flags=re.ASCII))

    def warn(self, title: str, text: str) -> None:
        """Keep a warning as an alert."""
        self._guarded("alert", lambda: self._run.alert(title=title, text=text, level="WARN", wait_duration=0))

    def finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        """End the W&B run with the exit code of ours; its summary gets what `result.json` says of the end."""
        self._guarded("finish", lambda: self._finish(exit_code, summary))

    def _finish(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        import wandb

        with suppress(wandb.Error):  # another run of this process has ended it already
            self._run.summary.update(dict(summary))
        _call_with_timeout(_FINISH_SECONDS + _GRACE_SECONDS, lambda: self._run.finish(exit_code=exit_code))
        check_writable(self._root / "wandb", "tracker.root")  # a full disk ends a W&B run as if all were well

    def _start_online(self, arguments: dict[str, Any]) -> None:
        import wandb

        require_api_key(absolute_path("tracker.root", str(self._root)))
        try:
            self._start(arguments, init_timeout=_ONLINE_START_SECONDS)
        except wandb.Error as error:
            _teardown_service()
            reason = str(error).splitlines()[0]
            raise UserError(f"tracker=online cannot reach its server: {reason}; {_GO_OFFLINE}.") from error

    def _start(self, arguments: dict[str, Any], **settings: Any) -> None:
        import wandb

        self._root = absolute_path("tracker.root", str(self._root))
        (self._root / "wandb").mkdir(parents=True, exist_ok=True)
        check_writable(self._root / "wandb", "tracker.root")  # W&B would take a temporary folder in silence
        arguments["config"] = with_keys_of_sweep(arguments["config"], sweep_parameters())
        self._run = wandb.init(
            **arguments,
            dir=str(self._root),
            reinit="finish_previous" if self._is_alone else "create_new",
            settings=wandb.Settings(
                silent=True,
                x_save_requirements=self._is_alone,  # the same list for every run of a process takes long
                x_transaction_log_flush_interval=_FLUSH_SECONDS,
                finish_timeout=_FINISH_SECONDS,
                finish_timeout_raises=True,
                root_dir=str(self._root),
                **settings,
            ),
        )
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def _guarded(self, what: str, action: Callable[[], Any]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except Exception as error:  # whatever W&B raises, the run continues
            self.error = f"could not {what}: {type(error).__name__}: {error}"
            _log.error(
                "Weights & Biases %s. Training continues without it; metrics.jsonl has every epoch.", self.error
            )
            if isinstance(error, ConnectionError | TimeoutError):
                _teardown_service()


def _teardown_service() -> None:
    """Let go of a W&B service that may be dead or hang, so that a next run starts a new one.

    W&B waits for its service without limit when the process ends; one that retries a server that is not there
    would keep a refused command alive, and whoever reads its output waiting.
    """
    try:
        import wandb

        _call_with_timeout(_GRACE_SECONDS, lambda: wandb.teardown(exit_code=1))
    except TimeoutError:
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
    except Exception as error:  # it was lost already
        _log.debug("W&B could not be torn down: %s", error)


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _images(figures: Mapping[str, Path]) -> dict[str, Any]:
    import wandb

    return {f"figures/{name}": wandb.Image(str(path)) for name, path in figures.items()}


def require_api_key(root: Path) -> None:
    """Refuse to track online without an API key, or with a root that cannot be written.

    Raises:
        UserError: says how to continue offline.
    """
    import wandb

    try:
        check_writable(root / "wandb", "tracker.root")
        has_key = wandb.login(prompt=False)
    except (OSError, UserError, wandb.Error) as error:
        _teardown_service()
        raise UserError(f"tracker=online cannot start: {error}; {_GO_OFFLINE}.") from error
    if not has_key:
        raise UserError(
            f"tracker=online needs an API key: run `wandb login` or set WANDB_API_KEY; or {_GO_OFFLINE}."
        )


def _call_with_timeout(seconds: float, action: Callable[[], Any]) -> None:
    """Do something that may wait for ever, as a frozen service makes it, in a thread that is left behind then.

    Raises:
        TimeoutError: if it has not ended within `seconds`; otherwise whatever it raises.
    """
    outcome: Future[Any] = Future()

    def attempt() -> None:
        try:
            outcome.set_result(action())
        except Exception as error:  # raised by the caller
            outcome.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    if not wait([outcome], seconds).done:
        raise TimeoutError(f"no answer for {seconds:.0f} s")
    outcome.result()
