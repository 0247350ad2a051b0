"""Where jobs may run: the slots of a node's GPUs, or of its cores."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from joblib import cpu_count

from vae_exp.errors import UserError

_LISTING_SECONDS = 30


@dataclass(frozen=True)
class Slot:
    """Room for one job.

    Args:
        number: Counted from 0.
        gpu: What `CUDA_VISIBLE_DEVICES` is set to; None leaves it alone, an empty word hides all GPUs.
        threads: How many threads a job has.
    """

    number: int
    gpu: str | None
    threads: int


@dataclass(frozen=True)
class SlotConfig:
    """What a user says about slots.

    Args:
        slots: Jobs at once where there is no GPU; None takes one per core.
        slots_per_gpu: Jobs at once on each GPU.
        gpus: Which of the visible GPUs, by index as CUDA counts them (`CUDA_VISIBLE_DEVICES=2,3` has 0 and 1)
            or by UUID; None takes all, an empty list none.
        threads: Threads of each job; None shares the cores among the slots.

    Raises:
        UserError: if a count is below one, or a GPU is not visible.
    """

    slots: int | None
    slots_per_gpu: int
    gpus: Sequence[str | int] | None
    threads: int | None

    def __post_init__(self) -> None:
        for name in ("slots", "slots_per_gpu", "threads"):
            value = getattr(self, name)
            optional = name != "slots_per_gpu" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"hydra.launcher.{name}={value} must be a whole number of at least 1.")

    def find(self, device: str) -> list[Slot]:
        """The slots for jobs that train on a device: `auto`, `cpu`, `cuda`, ….

        Raises:
            UserError: if jobs ask for CUDA by name where no GPU is visible.
        """
        gpus = [] if device == "cpu" else self._gpus()
        if device.startswith("cuda") and not gpus:
            raise UserError(f"trainer.device={device}: hydra/launcher=pool finds no GPU on this node.")
        cores: int = cpu_count()
        places: list[str | None] = [gpu for _ in range(self.slots_per_gpu) for gpu in gpus]
        if not gpus:
            hidden = None if self.gpus is None else ""
            places = [hidden] * (self.slots or cores)
        threads = self.threads or max(1, cores // len(places))
        return [Slot(number, gpu, threads) for number, gpu in enumerate(places)]

    def _gpus(self) -> list[str]:
        visible = visible_gpus()
        if self.gpus is None:
            return visible
        gpus = []
        for gpu in map(str, self.gpus):
            if gpu.isdecimal() and int(gpu) < len(visible):
                gpus.append(visible[int(gpu)])
            elif gpu in visible and not gpu.isdecimal():
                gpus.append(gpu)
            else:
                raise UserError(f"hydra.launcher.gpus={list(self.gpus)}: {_describe(visible)}.")
        return gpus


def _describe(visible: Sequence[str]) -> str:
    if not visible:
        return "no GPU is visible on this node"
    return f"GPU indices here go from 0 to {len(visible) - 1}; the visible GPUs are {', '.join(visible)}"


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would see, by what `CUDA_VISIBLE_DEVICES` calls them; CUDA itself is not started."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603 - entries on the path
            [program, "-L"], capture_output=True, text=True, timeout=_LISTING_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parsed_listing(listed.stdout)


def parsed_listing(text: str) -> list[str]:
    """The identifiers that `nvidia-smi -L` prints: of a GPU, or of its parts where it is divided."""
    entries: list[str] = []
    divided = False
    for line in text.splitlines():
        identifier = line.rpartition("UUID: ")[2].rstrip(") \n")
        if "UUID: " not in line:
            continue
        if line.startswith("GPU"):
            divided = False
        elif not divided:
            entries.pop()
            divided = True
        entries.append(identifier)
    return entries
