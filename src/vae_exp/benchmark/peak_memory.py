"""Peak memory: of the GPU candidate by candidate, of the host in a fresh process each.

As a module, `python -m vae_exp.benchmark.peak_memory`, it trains one candidate for a while and prints the peaks;
the request comes as JSON on standard input.
"""

import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf

from vae_exp.benchmark.candidates import Case, candidate_specs, training_images
from vae_exp.benchmark.run_profile import run_module
from vae_exp.configuration.schema import BenchmarkConfig, parse_config

T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_MAX_STEPS = 600


def with_cuda_peak(make: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """Call `make`; its result, and by how many bytes of the GPU its peak exceeded the start (None elsewhere)."""
    if device.type != "cuda":
        return make(), None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, torch.cuda.max_memory_allocated(device) - before


def host_peak() -> int:
    """Peak resident memory of this process, in bytes.

    On Linux `ru_maxrss` is inherited from the parent process, so `VmHWM` is read there.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_host_peak(config: Mapping[str, Any], candidate: str, batch_size: int, device: str) -> dict[str, int]:
    """Train a candidate for a while in a fresh process.

    Args:
        config: The benchmark's config as plain containers, all interpolations resolved.
        candidate: Its name.
        batch_size: Images per step.
        device: Where to train.

    Returns:
        In bytes: `imported`, the peak before the data are read, and `peak`, after the training.
    """
    request = {"config": dict(config), "candidate": candidate, "batch_size": batch_size, "device": device}
    output = run_module("vae_exp.benchmark.peak_memory", [], json.dumps(request))
    peaks: dict[str, int] = json.loads(output.splitlines()[-1])
    return peaks


def main() -> None:
    """Read the request, train for an epoch (at most 600 steps), print the peaks in bytes."""
    imported = host_peak()
    request = json.load(sys.stdin)
    settings = parse_config(OmegaConf.create(request["config"]), BenchmarkConfig)
    name, batch_size = request["candidate"], request["batch_size"]
    _, execution, precision = name.split("/") if "/" in name else ("", "eager", "fp32")
    images = training_images(settings.data, batch_size)
    case = Case(request["config"], images, batch_size, torch.device(request["device"]))
    [spec] = [spec for spec in candidate_specs(case, [execution], [precision]) if spec.name == name]
    spec.build().run_steps(min(_MAX_STEPS, len(images) // batch_size))
    print(json.dumps({"imported": imported, "peak": host_peak()}))


if __name__ == "__main__":
    main()
