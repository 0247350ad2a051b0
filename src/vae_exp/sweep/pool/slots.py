"""Where jobs may run: the slots of a node's GPUs, or of its cores."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from joblib import cpu_count

from vae_exp.argument_checks import check_choice, check_int, check_optional_int
from vae_exp.errors import UserError

MPS_MODES: tuple[bool | str, ...] = ("auto", True, False)
_LISTING_SECONDS = 30
_UUID = re.compile(r"UUID: (MIG-[^)]+|[^)]+(?=\)\s*(?:^GPU|\Z)))", re.MULTILINE)  # of a divided GPU, its parts


@dataclass(frozen=True)
class Slot:
    """Room for one job.

    Args:
        number: Counted from 0.
        gpu: What `CUDA_VISIBLE_DEVICES` is set to; None leaves it alone, an empty word hides all GPUs.
        threads: How many threads a job has.
        environment: What else is set for its job.
    """

    number: int
    gpu: str | None
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SlotConfig:
    """What a user says about slots.

    Args:
        slots: How many jobs run at once without a GPU, or with `trainer.device=cpu`; None is one per core.
        slots_per_gpu: How many jobs run at once on each GPU.
        gpus: Which of the visible GPUs, by index as CUDA counts them (`CUDA_VISIBLE_DEVICES=2,3` has 0 and 1)
            or by UUID; None takes all, an empty list none.
        threads: Threads of each job; None shares the cores among the slots.
        mps: Whether jobs share a GPU through NVIDIA's Multi-Process Service: `auto`, True or False.

    Raises:
        UserError: if a count is below one, a GPU is not visible, or `mps` is something else.
    """

    slots: int | None
    slots_per_gpu: int
    gpus: Sequence[str | int] | None
    threads: int | None
    mps: bool | str = "auto"

    def __post_init__(self) -> None:
        check_optional_int("hydra.launcher.slots", self.slots)
        check_int("hydra.launcher.slots_per_gpu", self.slots_per_gpu)
        check_optional_int("hydra.launcher.threads", self.threads)
        check_choice("hydra.launcher.mps", self.mps, MPS_MODES)

    def find(self, device: str) -> list[Slot]:
        """The slots for jobs that train on a device: `auto`, `cpu`, `cuda`, ….

        Raises:
            UserError: if jobs ask for CUDA by name where no GPU is visible.
        """
        gpus = [] if device == "cpu" else self._gpus()
        if device.startswith("cuda") and not gpus:
            raise UserError(f"trainer.device={device}: hydra/launcher=pool finds no GPU on this node.")
        cores: int = cpu_count()
        hidden = None if self.gpus is None else ""
        devices: list[str | None] = [*gpus] * self.slots_per_gpu or [hidden] * (self.slots or cores)
        threads = self.threads or max(1, cores // len(devices))
        return [Slot(number, gpu, threads) for number, gpu in enumerate(devices)]

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
                shown = ", ".join(visible) or "none"
                raise UserError(
                    f"hydra.launcher.gpus={list(self.gpus)}: the visible GPUs, counted from 0, are {shown}."
                )
        return gpus


def visible_gpus() -> list[str]:
    """The GPUs that CUDA would see, by what `CUDA_VISIBLE_DEVICES` calls them; CUDA itself is not started."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603 - entries on the path
            [program, "-L"], capture_output=True, text=True, timeout=_LISTING_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return _UUID.findall(listed.stdout)
