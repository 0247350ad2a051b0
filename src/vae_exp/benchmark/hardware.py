"""The hardware that the benchmark runs on, and what it computes in."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import torch

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_TF32_CAPABILITY = (8, 0)
_GPU_QUERY = {"driver": "driver_version", "max_sm_clock": "clocks.max.sm", "max_memory_clock": "clocks.max.memory"}
_QUERY_SECONDS = 10.0


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Plain values for JSON: processor, cores, threads, memory, accelerator with driver and clocks, versions."""
    cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if cuda else None
    return {
        "device": str(device),
        "cpu": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_bytes": properties.total_memory if properties else None,
        "multiprocessors": properties.multi_processor_count if properties else None,
        **dict.fromkeys(_GPU_QUERY),
        **(_query_gpu(str(properties.uuid)) if properties else {}),
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _query_gpu(uuid: str) -> dict[str, str]:
    """Driver version and highest clocks as nvidia-smi writes them; empty where it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    options = [f"--id=GPU-{uuid}", f"--query-gpu={','.join(_GPU_QUERY.values())}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - entries on the path
            [program, *options], capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = answer.stdout.strip().split(", ")
    return dict(zip(_GPU_QUERY, values, strict=True)) if len(values) == len(_GPU_QUERY) else {}


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
