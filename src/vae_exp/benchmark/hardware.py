"""What the benchmark ran on, and what that hardware computes in."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_TF32_CAPABILITY = (8, 0)


def hardware(device: torch.device) -> dict[str, Any]:
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


def known_precisions(device: torch.device) -> list[str]:
    """The precisions that the device multiplies matrices in by hardware, `fp32` first."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY
        return ["fp32", "tf32", "bf16"] if fast else ["fp32"]
    if device.type == "cpu" and _BF16_FLAGS & set(_cpu_info("flags").split()):
        return ["fp32", "bf16"]
    return ["fp32"]


def known_steps(device: torch.device) -> list[str]:
    """The step modes that a device has without compiling."""
    return ["eager", "graph"] if device.type == "cuda" else ["eager"]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was ordered."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _cpu_info(key: str) -> str:
    """What Linux says of the first processor; nothing elsewhere."""
    if not _CPU_INFO.exists():
        return ""
    for line in _CPU_INFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
