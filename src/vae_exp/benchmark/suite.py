"""The whole benchmark: every case, then memory, then where a real run spends its time."""

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from vae_exp.benchmark.candidates import PLAIN, TENSOR_LOOP, CandidateSpec, Case, entrants
from vae_exp.benchmark.cases import cases, chosen_precisions, chosen_steps
from vae_exp.benchmark.hardware import hardware, synchronise
from vae_exp.benchmark.interleave import (
    Burst,
    Candidate,
    alternate,
    calibrated_steps,
    median_rate,
    ratios,
    spread,
    warm_up,
)
from vae_exp.benchmark.memory import host_footprint, with_cuda_peak
from vae_exp.benchmark.run_costs import run_costs
from vae_exp.configuration.schema import BenchmarkConfig
from vae_exp.engine.device import device_name, resolve_device


def measure(config: DictConfig, settings: BenchmarkConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        config: The composed config.
        settings: The same, typed.
        overrides: Those of the command line that composed it.

    Returns:
        Plain values for JSON: `hardware`, `config`, `cases`, `memory` and `costs`.

    Raises:
        UserError: if the config asks for what this machine does not have, or what cannot be compared.
    """
    device = resolve_device(settings.device, "device")
    steps = chosen_steps(settings.steps, device)
    precisions = chosen_precisions(settings.precisions, device)
    asked = cases(config, settings, device)
    found: dict[str, Any] = {"hardware": hardware(device), "config": dict(asked[0].config)}
    found["cases"] = [_measured(case, entrants(case, steps, precisions), settings) for case in asked]
    found["memory"] = _host_memory(asked[0], steps[0], precisions[0]) if settings.memory else None
    found["costs"] = None
    if settings.costs:
        print("Timing the parts of a training run of one epoch …", flush=True)
        found["costs"] = run_costs(overrides, asked[0].batch_size, _widths(asked[0]), str(device))
    return found


def _measured(case: Case, contestants: Sequence[CandidateSpec], settings: BenchmarkConfig) -> dict[str, Any]:
    print(
        f"Timing batches of {case.batch_size}, widths {_widths(case)}, on {device_name(case.device)} …", flush=True
    )
    wait = partial(synchronise, case.device)
    _open_libraries(case.device)
    contenders: dict[str, Candidate] = {}
    peaks: dict[str, int | None] = {}
    for each in contestants:
        contenders[each.name], peaks[each.name] = with_cuda_peak(partial(_warmed, each), case.device)
    steps = {
        name: settings.burst_steps or calibrated_steps(each, settings.burst_seconds, wait)
        for name, each in contenders.items()
    }
    bursts = alternate(contenders, steps, settings.rounds, wait)
    precisions = {each.name: each.precision for each in contestants}
    found = {
        name: _summary(name, bursts, precisions[name], len(case.images))
        | {"steps_per_burst": steps[name], "peak_bytes": peaks[name] if settings.memory else None}
        for name in contenders
    }
    contenders.clear()
    _free(case.device)
    return {
        "batch_size": case.batch_size,
        "hidden_dims": _widths(case),
        "images": len(case.images),
        "steps_per_epoch": len(case.images) // case.batch_size,
        "contenders": found,
    }


def _summary(name: str, bursts: Mapping[str, Sequence[Burst]], precision: str, images: int) -> dict[str, Any]:
    """What is told of a contender: `over_plain` is its speed by plain's, `over_floor` its time by the floor's."""
    mine, floor = bursts[name], bursts.get(f"floor/{precision}")
    rate = median_rate(mine)
    return {
        "images_per_second": rate,
        "seconds_per_epoch": images / rate,
        "epochs_per_second": rate / images,
        "over_plain": spread(ratios(mine, bursts[PLAIN])).as_dict(),
        "over_floor": spread(ratios(floor, mine)).as_dict() if floor else None,
        "burst_seconds": [each.seconds for each in mine],
        "burst_images": [each.images for each in mine],
    }


def _host_memory(case: Case, step: str, precision: str) -> dict[str, Any] | None:
    """Peak memory of the process that trains; of the GPU each contender has been told already."""
    if case.device.type == "cuda":
        return None
    print("Measuring the peak memory of short trainings …", flush=True)
    names = (TENSOR_LOOP, f"engine/{step}/{precision}")
    found = {name: host_footprint(case.config, name, case.batch_size, str(case.device)) for name in names}
    loop, engine = (found[name]["peak"] for name in names)
    return {"batch_size": case.batch_size, "bytes": found, "engine_over_tensor_loop": engine / loop}


def _warmed(entrant: CandidateSpec) -> Candidate:
    contender = entrant.build()
    warm_up(contender)
    return contender


def _widths(case: Case) -> list[int]:
    return list(case.config["model"]["hidden_dims"])


def _open_libraries(device: torch.device) -> None:
    """What cuBLAS allocates at its first product is nobody's in particular."""
    if device.type == "cuda":
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device))


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
