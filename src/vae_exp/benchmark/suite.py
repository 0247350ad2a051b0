"""The whole benchmark: every case, then memory, then the phases of a real run."""

import gc
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vae_exp.benchmark.candidates import PLAIN, TENSOR_LOOP, CandidateSpec, candidate_specs
from vae_exp.benchmark.case import Case, training_images
from vae_exp.benchmark.hardware import available_precisions, describe_hardware, synchronize
from vae_exp.benchmark.interleave import (
    Burst,
    Candidate,
    calibrated_steps,
    interleave,
    median_rate,
    ratios,
    spread,
)
from vae_exp.benchmark.kernel_count import launched_kernels
from vae_exp.benchmark.peak_memory import CudaPeak, measure_host_peak, with_cuda_peak
from vae_exp.benchmark.run_profile import profile_run
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.configuration.schema import BenchmarkConfig
from vae_exp.engine.device import device_name, resolve_device
from vae_exp.errors import UserError

_STACK_SIZES, _STACK_SIZES_ON_CUDA = [4, 16], [1, 4, 16, 64]
_WARM_UP_STEPS = 10  # compilers, captures and allocators settle


def run_benchmark(config: DictConfig, settings: BenchmarkConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        config: The composed config.
        settings: The same, typed.
        overrides: Those of the command line that composed it.

    Returns:
        Plain values for JSON: `hardware`, `config`, `cases`, `memory` and `profile`.

    Raises:
        UserError: if the config asks for what this machine does not have, or what cannot be compared.
    """
    device = resolve_device(settings.device, "device")
    executions = choose_executions(settings.execution_modes, device)
    precisions = choose_precisions(settings.precisions, device)
    cases = make_cases(config, settings, device)
    results: dict[str, Any] = {"hardware": describe_hardware(device), "config": dict(cases[0].config)}
    results["cases"] = [_measure(case, executions, precisions, settings) for case in cases]
    results["memory"] = _host_memory(cases[0], executions[0], precisions[0]) if settings.memory else None
    results["profile"] = None
    if settings.profile_run:
        print("Timing the phases of a training run of one epoch …", flush=True)
        results["profile"] = profile_run(overrides, cases[0].batch_size, _hidden_dims(cases[0]), str(device))
    return results


def make_cases(config: DictConfig, settings: BenchmarkConfig, device: torch.device) -> list[Case]:
    """Every `hidden_dims` with every batch size, on the same images.

    Raises:
        UserError: if a batch is larger than the data, or if something has no plain loop to compare with.
    """
    return [
        Case(_resolve(config, hidden_dims, images.image_shape), images, batch_size, device)
        for hidden_dims in settings.hidden_dims or [settings.model.hidden_dims]
        for batch_size in settings.batch_size
        for images in [training_images(settings.data, batch_size)]
    ]


def choose_executions(requested: Sequence[str] | None, device: torch.device) -> list[str]:
    """How the engine runs steps; `graph` needs CUDA.

    Raises:
        UserError: if a mode was asked for that the device does not have.
    """
    if requested is None:  # all but `compile`
        return ["eager", "graph"] if device.type == "cuda" else ["eager"]
    if "graph" in requested and device.type != "cuda":
        raise UserError(
            f"execution_modes={list(requested)}: graph needs a CUDA device, not {device}; use eager or compile."
        )
    return list(requested)


def choose_precisions(requested: Sequence[str] | None, device: torch.device) -> list[str]:
    """The precisions; `bf16` may be asked for where it has to be emulated.

    Raises:
        UserError: if `tf32` was asked for on a device that does not have it.
    """
    available = available_precisions(device)
    if requested is None:
        return available
    if "tf32" in requested and "tf32" not in available:
        raise UserError(
            f"precisions={list(requested)}: tf32 needs a CUDA device of compute capability 8.0 or higher, "
            f"not {device}; use {' or '.join(available)}."
        )
    return list(requested)


def choose_stack_sizes(requested: Sequence[int] | None, device: torch.device) -> list[int]:
    """How many nets train as one; on a CPU fewer, since a step takes as long as theirs together."""
    if requested is None:
        return _STACK_SIZES_ON_CUDA if device.type == "cuda" else _STACK_SIZES
    return list(requested)


def _resolve(config: DictConfig, hidden_dims: Sequence[int], image_shape: Sequence[int]) -> dict[str, Any]:
    sized = OmegaConf.merge(config, {"model": {"hidden_dims": list(hidden_dims)}})
    assert isinstance(sized, DictConfig)
    return resolve_to_dict(sized, image_shape)


def _measure(
    case: Case, executions: Sequence[str], precisions: Sequence[str], settings: BenchmarkConfig
) -> dict[str, Any]:
    print(
        f"Timing batches of {case.batch_size}, widths {_hidden_dims(case)}, on {device_name(case.device)} …",
        flush=True,
    )
    wait = partial(synchronize, case.device)
    _open_libraries(case.device)
    specs = candidate_specs(case, executions, precisions, choose_stack_sizes(settings.stack_sizes, case.device))
    candidates: dict[str, Candidate] = {}
    kernels: dict[str, int | None] = {}
    peaks: dict[str, CudaPeak | None] = {}
    for name, spec in specs.items():
        (candidates[name], kernels[name]), peaks[name] = with_cuda_peak(partial(_build_warm, spec), case.device)
    steps = {
        name: settings.burst_steps or calibrated_steps(candidate, settings.burst_seconds, wait)
        for name, candidate in candidates.items()
    }
    bursts = interleave(candidates, steps, settings.rounds, wait)
    summaries = {
        name: _summarize(name, specs[name].precision, bursts, len(case.images))
        | {
            "steps_per_burst": steps[name],
            "kernels_per_step": kernels[name],
            "peak_bytes": peak._asdict() if settings.memory and peak else None,
        }
        for name, peak in peaks.items()
    }
    candidates.clear()
    gc.collect()
    torch.cuda.empty_cache()
    return {
        "batch_size": case.batch_size,
        "hidden_dims": _hidden_dims(case),
        "images": len(case.images),
        "steps_per_epoch": len(case.images) // case.batch_size,
        "candidates": summaries,
    }


def _summarize(name: str, precision: str, bursts: Mapping[str, Sequence[Burst]], images: int) -> dict[str, Any]:
    """Figures of a candidate: `over_plain` is its speed by plain's, `over_floor` its time by the floor's."""
    mine, floor = bursts[name], bursts.get(f"floor/{precision}")
    rate = median_rate(mine)
    return {
        "images_per_second": rate,
        "seconds_per_epoch": images / rate,
        "epochs_per_second": rate / images,
        "over_plain": spread(ratios(mine, bursts[PLAIN])),
        "over_floor": spread(ratios(floor, mine)) if floor else None,
        "burst_seconds": [burst.seconds for burst in mine],
        "burst_images": [burst.images for burst in mine],
    }


def _host_memory(case: Case, execution: str, precision: str) -> dict[str, Any] | None:
    """Peak memory of the process that trains; the GPU's is measured with each candidate."""
    if case.device.type == "cuda":
        return None
    print("Measuring the peak memory of short trainings …", flush=True)
    names = (TENSOR_LOOP, f"engine/{execution}/{precision}")
    peaks = {name: measure_host_peak(case.config, name, case.batch_size, str(case.device)) for name in names}
    loop, engine = (peaks[name]["peak"] for name in names)
    return {"batch_size": case.batch_size, "bytes": peaks, "engine_over_tensor_loop": engine / loop}


def _build_warm(spec: CandidateSpec) -> tuple[Candidate, int | None]:
    """A candidate and the kernels of a step, before anything is captured; None for compiled steps."""
    candidate = spec.build()
    candidate.run_steps(1)  # which also draws an order and allocates what the optimizer keeps
    kernels = None if spec.is_compiled else len(launched_kernels(partial(candidate.run_steps, 1)))
    candidate.run_steps(_WARM_UP_STEPS)
    return candidate, kernels


def _hidden_dims(case: Case) -> list[int]:
    return list(case.config["model"]["hidden_dims"])


def _open_libraries(device: torch.device) -> None:
    """Let cuBLAS allocate its workspace before candidates are measured."""
    if device.type == "cuda":
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device))
