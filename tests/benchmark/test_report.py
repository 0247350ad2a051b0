import torch

from vae_exp.benchmark.hardware import describe_hardware
from vae_exp.benchmark.report import print_tables


def printed_case(capsys, **figures):
    spread = {"median": 1.5, "low": 1.25, "high": 1.75}
    rates = {"images_per_second": 1000.0, "seconds_per_epoch": 1.2, "epochs_per_second": 0.8}
    candidate = {**rates, "over_plain": spread, "over_floor": None, "kernels_per_step": 60, **figures}
    case = {"batch_size": 100, "hidden_dims": [20], "images": 1200, "candidates": {"plain": candidate}}
    hardware = describe_hardware(torch.device("cpu"))
    print_tables({"hardware": hardware, "cases": [case], "memory": None, "profile": None})
    *_, head, _, row, _ = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line[1:-1].split(line[0])] for line in (head, row)]


def test_reserved_memory_stands_beside_allocated_memory_on_cuda(capsys):
    columns, row = printed_case(capsys, peak_bytes={"allocated": 3 * 2**20, "reserved": 20 * 2**20})
    assert columns[-2:] == ["peak MiB", "reserved MiB"]
    assert row[-2:] == ["3.0", "20.0"]


def test_elsewhere_kernels_are_the_last_column(capsys):
    columns, row = printed_case(capsys, peak_bytes=None)
    assert dict(zip(columns, row, strict=True)) == {
        "candidate": "plain", "images/s": "1,000", "s/epoch": "1.200", "epochs/s": "0.8",
        "speed ÷ plain": "1.50 [1.25, 1.75]", "time ÷ floor": "–", "kernels/step": "60",
    }  # fmt: skip
