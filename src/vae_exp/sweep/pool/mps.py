"""Daemons of NVIDIA's Multi-Process Service (MPS) for the GPUs that several jobs share.

Without MPS the processes of a GPU take turns; with it their kernels run at the same time. The driver connects a
process to the daemon whose directory its `CUDA_MPS_PIPE_DIRECTORY` names.
Source: https://docs.nvidia.com/deploy/mps and the manual page of `nvidia-cuda-mps-control`.
"""

import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.sweep.pool.slots import Slot

_log = logging.getLogger(__name__)
_PROGRAM = "nvidia-cuda-mps-control"
_UUIDS = ("GPU-", "MIG-")
_START_SECONDS = 20.0
_ANSWER_SECONDS = 60.0  # `quit` waits for the server to end
_POLL_SECONDS = 0.05


class _UnavailableError(Exception):
    """There is no MPS here; the text is the reason."""


@contextmanager
def share_gpus(slots: Sequence[Slot], mode: bool | str) -> Iterator[Sequence[Slot]]:
    """A block whose jobs share their GPUs through MPS, where there is one.

    A daemon that is already running is used and left alone. One that is started here ends with the block.

    Args:
        slots: Where jobs may run.
        mode: `auto` takes MPS where it is available, True requires it, False does without.

    Yields:
        The slots, with the environment that connects their jobs to MPS.

    Raises:
        UserError: if MPS is required and unavailable.
    """
    counts = Counter(slot.gpu for slot in slots if slot.gpu)
    gpus = [gpu for gpu, count in counts.items() if count > 1]
    environments: Mapping[str, dict[str, str]] = {}
    with ExitStack() as daemons:
        if mode is not False:
            try:
                environments = _connect(gpus, daemons)
            except _UnavailableError as error:
                daemons.close()
                if mode is True:
                    raise UserError(
                        f"hydra.launcher.mps=true: {error}; auto runs the jobs without MPS."
                    ) from error
                if gpus:
                    _log.info("The jobs of a GPU only share its time, without NVIDIA's MPS: %s.", error)
        yield [replace(slot, environment=environments.get(slot.gpu or "", {})) for slot in slots]


def _connect(gpus: Sequence[str], daemons: ExitStack) -> Mapping[str, dict[str, str]]:
    """The environment of the jobs of each GPU; none where a daemon is running already."""
    if not gpus:
        raise _UnavailableError("no GPU has several slots (hydra.launcher.slots_per_gpu)")
    program = shutil.which(_PROGRAM)
    if program is None:
        raise _UnavailableError(f"{_PROGRAM} is not on the PATH")
    if _send(program, "get_server_list", os.environ) is not None:
        _log.info("The jobs of a GPU run at the same time, through the NVIDIA MPS daemon that is running here.")
        return {}
    environments: dict[str, dict[str, str]] = {}
    for group in _group_by_daemon(gpus):
        environments |= dict.fromkeys(group, daemons.enter_context(_run_daemon(program, group)))
    _log.info("The jobs of a GPU run at the same time, through NVIDIA's MPS, which is started for this sweep.")
    return environments


def _group_by_daemon(gpus: Sequence[str]) -> list[list[str]]:
    """The GPUs of each daemon: one for each UUID, since a part of a divided GPU (MIG) needs its own.

    A daemon renumbers the GPUs that it is given, so that those named by index share one that is given all.
    """
    uuids = [gpu for gpu in gpus if gpu.startswith(_UUIDS)]
    indices = [gpu for gpu in gpus if gpu not in uuids]
    return [[uuid] for uuid in uuids] + ([indices] if indices else [])


@contextmanager
def _run_daemon(program: str, gpus: Sequence[str]) -> Iterator[dict[str, str]]:
    """A daemon for the block; the environment that connects to it.

    Raises:
        _UnavailableError: if it does not start, with what it prints.
    """
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as name:
        pipes, logs = Path(name, "pipe"), Path(name, "log")
        pipes.mkdir()
        logs.mkdir()
        connection = {"CUDA_MPS_PIPE_DIRECTORY": str(pipes), "CUDA_MPS_LOG_DIRECTORY": str(logs)}
        environment = {**os.environ, **connection}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        if gpus[0].startswith(_UUIDS):
            environment["CUDA_VISIBLE_DEVICES"] = gpus[0]
        try:
            _start(program, environment, logs)
            yield connection
        finally:
            if _send(program, "quit", environment) is None and (pid := _read(pipes / f"{_PROGRAM}.pid")):
                _log.warning("The NVIDIA MPS daemon does not answer. If process %s still runs, end it.", pid)


def _start(program: str, environment: Mapping[str, str], logs: Path) -> None:
    """Start a daemon and its server: what is wrong with the GPU shows here, not in the first job."""
    output = logs / "start.log"
    until = time.monotonic() + _START_SECONDS
    try:
        with output.open("w") as file:  # a pipe would stay open as long as the daemon
            subprocess.run(  # noqa: S603 - an entry on the path
                [program, "-d"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=_START_SECONDS,
                check=True,
                start_new_session=True,  # Ctrl-C is not for it
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise _UnavailableError(_read(output) or f"{_PROGRAM} -d: {error}") from error
    is_asked = False
    while time.monotonic() < until:
        is_asked = is_asked or _send(program, f"start_server -uid {os.getuid()}", environment) is not None
        if is_asked and re.search(r"^\d+$", _send(program, "get_server_list", environment) or "", re.MULTILINE):
            return
        time.sleep(_POLL_SECONDS)
    reason = _read(logs / "control.log") or _read(output) or f"none within {_START_SECONDS:.0f} s"
    raise _UnavailableError(f"{_PROGRAM} starts no server ({reason})")


def _send(program: str, command: str, environment: Mapping[str, str]) -> str | None:
    """The answer of a daemon to a command; None if no daemon is running or it does not answer."""
    try:
        answer = subprocess.run(  # noqa: S603 - an entry on the path
            [program],
            input=f"{command}\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=True,
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _read(path: Path) -> str:
    """The last line of a file, empty if there is none."""
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
