"""The tables of the benchmark, and the hardware that it ran on."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

_MEBIBYTE = 2**20
_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_TF32_CAPABILITY = (8, 0)


def print_tables(results: Mapping[str, Any]) -> None:
    """Print the results of `run_benchmark`."""
    console = Console() if sys.stdout is not None and sys.stdout.isatty() else Console(width=120)
    console.print(_machine(results["hardware"]), markup=False, highlight=False, soft_wrap=True)
    for case in results["cases"]:
        console.print(_case(case))
    if results["memory"]:
        console.print(_memory(results["memory"]))
    if results["profile"]:
        console.print(_profile(results["profile"]))


def _machine(hardware: Mapping[str, Any]) -> str:
    name = hardware["gpu"] or hardware["cpu"]
    return f"{name}; {hardware['cores']} cores, {hardware['threads']} threads, torch {hardware['torch']}"


def _case(case: Mapping[str, Any]) -> Table:
    title = f"Batches of {case['batch_size']}, widths {case['hidden_dims']}, {case['images']:,} images"
    columns = ["images/s", "s/epoch", "epochs/s", "speed ÷ plain", "time ÷ floor", "kernels/step"]
    on_cuda = any(figures["peak_bytes"] is not None for figures in case["candidates"].values())
    table = _table(title, "candidate", *columns, *(["peak MiB"] if on_cuda else []))
    for name, figures in case["candidates"].items():
        peak = [f"{figures['peak_bytes'] / _MEBIBYTE:.1f}"] if on_cuda else []
        table.add_row(
            name,
            f"{figures['images_per_second']:,.0f}",
            f"{figures['seconds_per_epoch']:.3f}",
            f"{figures['epochs_per_second']:.3g}",
            _spread(figures["over_plain"]),
            _spread(figures["over_floor"]),
            f"{figures['kernels_per_step'] or '–'}",
            *peak,
        )
    return table


def _spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "–"
    return f"{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]".replace("[", "\\[")


def _memory(memory: Mapping[str, Any]) -> Table:
    title = f"Peak memory of the process, batches of {memory['batch_size']}"
    table = _table(title, "candidate", "MiB", "of it after the imports", "÷ tensor_loop")
    for name, figures in memory["bytes"].items():
        grown = figures["peak"] - figures["imported"]
        ratio = memory["engine_over_tensor_loop"] if name.startswith("engine/") else 1.0
        table.add_row(name, f"{figures['peak'] / _MEBIBYTE:.0f}", f"{grown / _MEBIBYTE:.0f}", f"{ratio:.3f}")
    return table


def _profile(phases: Mapping[str, float]) -> Table:
    table = _table("A training run of one epoch, by wall time", "phase", "s", "share")
    *names, total = phases
    for phase in names:
        table.add_row(phase, f"{phases[phase]:.3f}", f"{phases[phase] / phases[total]:.1%}")
    table.add_section()
    table.add_row(total, f"{phases[total]:.3f}", f"{1:.1%}")
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Plain values for JSON: processor, cores, threads, memory, accelerator, versions."""
    cuda = device.type == "cuda"
    return {
        "device": str(device),
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def available_precisions(device: torch.device) -> list[str]:
    """The precisions that the device has in hardware, `fp32` first."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY
        return ["fp32", "tf32", "bf16"] if fast else ["fp32"]
    if device.type == "cpu" and _BF16_FLAGS & set(_cpu_info("flags").split()):
        return ["fp32", "bf16"]
    return ["fp32"]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _cpu_info(key: str) -> str:
    """A value of the first processor in /proc/cpuinfo; empty elsewhere."""
    if not _CPU_INFO.exists():
        return ""
    for line in _CPU_INFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
