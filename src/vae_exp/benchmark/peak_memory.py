"""Peak memory: of the GPU candidate by candidate, of the host in a fresh process each."""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
from omegaconf import OmegaConf

from vae_exp.benchmark.candidates import candidate_specs
from vae_exp.benchmark.case import Case, training_images
from vae_exp.configuration.parsing import parse_config
from vae_exp.configuration.schema import BenchmarkConfig

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_MAX_STEPS = 600


class CudaPeak(NamedTuple):
    """By how many bytes the memory of the GPU grew at most: of tensors, and what the allocator reserved for them.

    Reserved memory includes the pools of captured graphs. It can be less than the tensors need, where segments
    reserved before had room.
    """

    allocated: int
    reserved: int


def with_cuda_peak(make: Callable[[], T], device: torch.device) -> tuple[T, CudaPeak | None]:
    """Call `make`; its result, and the peak of the GPU's memory above that at the start (None elsewhere)."""
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # otherwise what is free would hide what is reserved
    before = CudaPeak(torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))
    torch.cuda.reset_peak_memory_stats(device)
    made = make()
    torch.cuda.synchronize(device)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return made, CudaPeak(allocated - before.allocated, reserved - before.reserved)


def host_peak() -> int:
    """Peak resident memory of this process, in bytes.

    On Linux `ru_maxrss` is inherited from the parent process, so `VmHWM` is read there.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_host_peak(config: Mapping[str, Any], candidate: str, batch_size: int, device: str) -> dict[str, int]:
    """Train a candidate for an epoch, at most 600 steps, in a fresh process.

    Args:
        config: The benchmark's config as plain containers, all interpolations resolved.
        candidate: Its name.
        batch_size: Images per step.
        device: Where to train.

    Returns:
        In bytes: `imported`, the peak before the data are read, and `peak`, after the training.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_train, dict(config), candidate, batch_size, device).result()


def _train(config: dict[str, Any], name: str, batch_size: int, device: str) -> dict[str, int]:
    imported = host_peak()
    settings = parse_config(OmegaConf.create(config), BenchmarkConfig)
    _, execution, precision = name.split("/") if "/" in name else ("", "eager", "fp32")
    images = training_images(settings.data, batch_size)
    case = Case(config, images, batch_size, torch.device(device))
    candidate = candidate_specs(case, [execution], [precision])[name].build()
    candidate.run_steps(min(_MAX_STEPS, len(images) // batch_size))
    return {"imported": imported, "peak": host_peak()}
