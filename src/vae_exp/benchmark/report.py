"""The benchmark's findings as tables."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_MEBIBYTE = 2**20


def print_tables(found: Mapping[str, Any]) -> None:
    """Print what `measure` has found."""
    console = Console() if sys.stdout is not None and sys.stdout.isatty() else Console(width=120)
    console.print(_machine(found["hardware"]), markup=False, highlight=False, soft_wrap=True)
    for case in found["cases"]:
        console.print(_case(case))
    if found["memory"]:
        console.print(_memory(found["memory"]))
    if found["costs"]:
        console.print(_costs(found["costs"]))


def _machine(hardware: Mapping[str, Any]) -> str:
    name = hardware["gpu"] or hardware["cpu"]
    return f"{name}; {hardware['cores']} cores, {hardware['threads']} threads, torch {hardware['torch']}"


def _case(case: Mapping[str, Any]) -> Table:
    title = f"Batches of {case['batch_size']}, widths {case['hidden_dims']}, {case['images']:,} images"
    columns = ["images/s", "s/epoch", "epochs/s", "speed ÷ plain", "time ÷ floor"]
    on_cuda = any(each["peak_bytes"] is not None for each in case["contenders"].values())
    table = _table(title, "contender", *columns, *(["peak MiB"] if on_cuda else []))
    for name, each in case["contenders"].items():
        peak = [f"{each['peak_bytes'] / _MEBIBYTE:.1f}"] if on_cuda else []
        table.add_row(
            name,
            f"{each['images_per_second']:,.0f}",
            f"{each['seconds_per_epoch']:.3f}",
            f"{each['epochs_per_second']:.3g}",
            _spread(each["over_plain"]),
            _spread(each["over_floor"]),
            *peak,
        )
    return table


def _spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "–"
    return f"{spread['median']:.2f} [{spread['low']:.2f}, {spread['high']:.2f}]".replace("[", "\\[")


def _memory(memory: Mapping[str, Any]) -> Table:
    title = f"Peak memory of the process, batches of {memory['batch_size']}"
    table = _table(title, "contender", "MiB", "of it after the imports", "÷ tensor_loop")
    for name, each in memory["bytes"].items():
        grown = each["peak"] - each["imported"]
        ratio = memory["engine_over_tensor_loop"] if name.startswith("engine/") else 1.0
        table.add_row(name, f"{each['peak'] / _MEBIBYTE:.0f}", f"{grown / _MEBIBYTE:.0f}", f"{ratio:.3f}")
    return table


def _costs(costs: Mapping[str, float]) -> Table:
    table = _table("A training run of one epoch, by wall time", "phase", "s", "share")
    *phases, total = costs
    for phase in phases:
        table.add_row(phase, f"{costs[phase]:.3f}", f"{costs[phase] / costs[total]:.1%}")
    table.add_section()
    table.add_row(total, f"{costs[total]:.3f}", f"{1:.1%}")
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
