import re
from pathlib import Path

import pytest

from vae_exp.errors import UserError
from vae_exp.sweep.pool import slots
from vae_exp.sweep.pool.slots import SlotConfig, visible_gpus

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


def test_without_a_gpu_there_is_a_slot_for_every_core():
    available = settings().find("auto")
    assert available == [slots.Slot(number, None, 1) for number in range(8)]


@pytest.mark.parametrize(("count", "threads"), [(1, 8), (2, 4), (3, 2), (20, 1)])
def test_the_cores_are_shared_among_the_slots(count: int, threads: int):
    available = settings(slots=count).find("cpu")
    assert len(available) == count
    assert {slot.threads for slot in available} == {threads}


def test_each_gpu_has_its_slots_and_neighbours_are_filled_last(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    available = settings(slots_per_gpu=2).find("auto")
    assert [slot.gpu for slot in available] == ["2", "5", "2", "5"]
    assert {slot.threads for slot in available} == {2}


def test_a_sweep_on_the_cpu_uses_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert {slot.gpu for slot in settings().find("cpu")} == {None}
    assert {slot.gpu for slot in settings(gpus=[]).find("auto")} == {""}


def test_gpus_are_indices_into_the_visible_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-a,6")
    assert [slot.gpu for slot in settings(gpus=[2, "0"]).find("auto")] == ["6", "4"]
    assert [slot.gpu for slot in settings(gpus=["GPU-a"]).find("auto")] == ["GPU-a"]


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
