import re
from pathlib import Path

import pytest

from vae_exp.errors import UserError
from vae_exp.sweep.pool import slots
from vae_exp.sweep.pool.slots import Slot, SlotConfig, visible_gpus

LISTING = """GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)
  MIG 1g.10gb     Device  0: (UUID: MIG-bbbb-1)
  MIG 1g.10gb     Device  1: (UUID: MIG-bbbb-2)
GPU 1: NVIDIA H100 (UUID: GPU-aaaa-2)
"""


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(slots, "cpu_count", lambda: 8)
    monkeypatch.setattr("shutil.which", lambda name: None)


def settings(**given: object) -> SlotConfig:
    return SlotConfig(**({"slots": None, "slots_per_gpu": 1, "gpus": None, "threads": None} | given))


@pytest.mark.parametrize(
    ("count", "number", "threads"), [(None, 8, 1), (1, 1, 8), (2, 2, 4), (3, 3, 2), (20, 20, 1)]
)
def test_without_a_gpu_the_slots_share_the_cores(count: int | None, number: int, threads: int):
    expected = [Slot(index, None, threads) for index in range(number)]
    assert settings(slots=count).find("auto") == settings(slots=count).find("cpu") == expected


@pytest.mark.parametrize(
    ("device", "given", "gpus"),
    [
        ("auto", {}, ["4", "GPU-a", "6"]),
        ("auto", {"slots_per_gpu": 2}, ["4", "GPU-a", "6", "4", "GPU-a", "6"]),
        ("auto", {"gpus": [2, "0"]}, ["6", "4"]),
        ("cuda", {"gpus": ["GPU-a"]}, ["GPU-a"]),
        ("auto", {"gpus": [], "slots": 1}, [""]),
        ("cpu", {"slots": 1}, [None]),
    ],
)
def test_gpus_are_indices_into_the_visible_ones_and_each_has_its_slots(
    monkeypatch: pytest.MonkeyPatch, device: str, given: dict[str, object], gpus: list[str | None]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6")
    available = settings(**given).find(device)
    assert [slot.gpu for slot in available] == gpus
    assert {slot.threads for slot in available} == {8 // len(gpus)}


@pytest.mark.parametrize("gpu", [3, "4", "GPU-b", -1])
def test_a_gpu_that_is_not_visible_is_refused(monkeypatch: pytest.MonkeyPatch, gpu: int | str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6")
    with pytest.raises(UserError, match=r"hydra.launcher.gpus=.*the visible GPUs, .* are 4, GPU-a, 6"):
        settings(gpus=[gpu]).find("auto")


def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(UserError, match=r"trainer\.device=cuda: hydra/launcher=pool finds no GPU"):
        settings().find("cuda")


@pytest.mark.parametrize(("variable", "gpus"), [("", []), ("-1", []), ("0, 1", ["0", "1"]), ("GPU-a", ["GPU-a"])])
def test_the_environment_says_which_gpus_are_visible(
    monkeypatch: pytest.MonkeyPatch, variable: str, gpus: list[str]
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("listing", "gpus"),
    [
        (LISTING, ["MIG-bbbb-1", "MIG-bbbb-2", "GPU-aaaa-2"]),
        (re.sub(r"  MIG.*\n", "", LISTING), ["GPU-aaaa-1", "GPU-aaaa-2"]),
        ("No devices found.\n", []),
    ],
)
def test_a_divided_gpu_is_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, gpus: list[str]
):
    (tmp_path / "listing").write_text(listing)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/listing\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    "wrong", [{"slots": 0}, {"slots_per_gpu": 0}, {"threads": -1}, {"slots": 1.5}, {"slots": True}]
)
def test_counts_below_one_are_refused(wrong: dict[str, object]):
    with pytest.raises(UserError, match=r"hydra\.launcher\.(slots|slots_per_gpu|threads)=.* at least 1"):
        settings(**wrong)


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_mps_is_auto_or_a_switch(wrong: object):
    with pytest.raises(UserError, match=r"hydra\.launcher\.mps=.* must be one of auto, true, false"):
        settings(mps=wrong)
