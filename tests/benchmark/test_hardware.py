import subprocess
from types import SimpleNamespace

import pytest
import torch

from vae_exp.benchmark.hardware import available_precisions, describe_hardware
from vae_exp.benchmark.report import print_tables

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("flags", "precisions"),
    [("fpu avx512f avx512_bf16", ["fp32", "bf16"]), ("amx_bf16", ["fp32", "bf16"]), ("avx512f", ["fp32"])],
)
def test_bf16_is_the_cpus_where_its_flags_say_so(monkeypatch, tmp_path, flags, precisions):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: A Processor\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    monkeypatch.setattr("vae_exp.benchmark.hardware._CPU_INFO", info)
    assert available_precisions(CPU) == precisions
    assert describe_hardware(CPU)["cpu"] == "A Processor"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU by its properties."""
    properties = SimpleNamespace(uuid="1f-2e", total_memory=2**30, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """A stand-in on the path that runs a line of shell."""

    def install(line: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return install


def header(hardware, capsys):
    print_tables({"hardware": hardware, "cases": [], "memory": None, "profile": None})
    return capsys.readouterr().out


def test_the_header_names_multiprocessors_driver_and_clocks_of_the_gpu(gpu, nvidia_smi, tmp_path, capsys):
    nvidia_smi(f'echo "$@" > {tmp_path}/arguments; echo "580.159.04, 1980 MHz, 3201 MHz"')
    hardware = describe_hardware(GPU)
    assert (tmp_path / "arguments").read_text().split() == [
        "--id=GPU-1f-2e",
        "--query-gpu=driver_version,clocks.max.sm,clocks.max.memory",
        "--format=csv,noheader",
    ]
    assert header(hardware, capsys).startswith(
        "A GPU (132 multiprocessors, driver 580.159.04, SM clock up to 1980 MHz, memory clock up to 3201 MHz); "
    )


@pytest.mark.parametrize("line", ["exit 6", "exec sleep 60", "echo No devices were found"])
def test_a_gpu_that_nvidia_smi_does_not_know_has_no_driver_in_the_header(
    gpu, nvidia_smi, monkeypatch, capsys, line
):
    nvidia_smi(line)
    monkeypatch.setattr("vae_exp.benchmark.hardware._QUERY_SECONDS", 0.5)
    hardware = describe_hardware(GPU)
    assert (hardware["driver"], hardware["max_sm_clock"], hardware["max_memory_clock"]) == (None, None, None)
    assert header(hardware, capsys).startswith("A GPU (132 multiprocessors); ")


def test_without_nvidia_smi_and_without_cuda_nothing_is_queried(gpu, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(subprocess, "run", None)
    assert describe_hardware(GPU)["driver"] is None
    hardware = describe_hardware(CPU)
    assert (hardware["gpu"], hardware["multiprocessors"], hardware["driver"]) == (None, None, None)
    assert header(hardware, capsys).startswith(f"{hardware['cpu']}; ")
