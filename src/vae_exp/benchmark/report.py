"""The tables of the benchmark."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vae_exp.errors import quantity

_MEBIBYTE = 2**20
_WIDTH = 160  # of a file; all columns of a case on CUDA in one line


def print_tables(results: Mapping[str, Any]) -> None:
    """Print the results of `run_benchmark`."""
    console = Console() if sys.stdout is not None and sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_machine(results["hardware"]), markup=False, highlight=False, soft_wrap=True)
    for case in results["cases"]:
        console.print(_case(case))
    if results["memory"]:
        console.print(_memory(results["memory"]))
    if results["profile"]:
        console.print(_profile(results["profile"]))


def _machine(hardware: Mapping[str, Any]) -> str:
    name = hardware["cpu"]
    if hardware["gpu"]:
        details = [f"{hardware['multiprocessors']} multiprocessors"]
        if hardware["driver"]:
            details += [
                f"driver {hardware['driver']}",
                f"SM clock up to {hardware['max_sm_clock']}",
                f"memory clock up to {hardware['max_memory_clock']}",
            ]
        name = f"{hardware['gpu']} ({', '.join(details)})"
    cores, threads = quantity(hardware["cores"], "core"), quantity(hardware["threads"], "thread")
    return f"{name}; {cores}, {threads}, torch {hardware['torch']}"


def _case(case: Mapping[str, Any]) -> Table:
    title = f"Batches of {case['batch_size']}, widths {case['hidden_dims']}, {case['images']:,} images"
    columns = ["images/s", "s/epoch", "epochs/s", "speed ÷ plain", "time ÷ floor", "kernels/step"]
    on_cuda = any(figures["peak_bytes"] is not None for figures in case["candidates"].values())
    table = _table(title, "candidate", *columns, *(["peak MiB", "reserved MiB"] if on_cuda else []))
    for name, figures in case["candidates"].items():
        peaks = [f"{size / _MEBIBYTE:.1f}" for size in figures["peak_bytes"].values()] if on_cuda else []
        table.add_row(
            name,
            f"{figures['images_per_second']:,.0f}",
            f"{figures['seconds_per_epoch']:.3f}",
            f"{figures['epochs_per_second']:.3g}",
            _spread(figures["over_plain"]),
            _spread(figures["over_floor"]),
            f"{figures['kernels_per_step'] or '–'}",
            *peaks,
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
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
