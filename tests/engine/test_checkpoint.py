import os
import pickle
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from vae_exp.engine.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from vae_exp.engine.seeding import generator, process_random_state, restore_process_random_state
from vae_exp.errors import UserError

CPU = torch.device("cpu")


class _Evil:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._mark,))


def _state() -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "name": "last", "vae": model.state_dict(), "optimizer": optimizer.state_dict()}


def _refused(path: Path) -> str:
    """The message with which a file is refused; it names the path."""
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        load_checkpoint(path, CPU)
    return str(caught.value)


def test_what_was_saved_is_loaded(tmp_path: Path):
    path, state = tmp_path / "checkpoints" / "last.pt", _state()
    save_checkpoint(path, state)
    loaded = load_checkpoint(path, CPU)
    assert loaded.keys() == {"format", *state}
    assert (loaded["format"], loaded["epoch"], loaded["name"]) == (FORMAT, 3, "last")
    torch.testing.assert_close(loaded["vae"], state["vae"], rtol=0, atol=0)
    torch.testing.assert_close(loaded["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)


def test_tensors_are_loaded_onto_the_device_that_is_asked_for(tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", {"tensor": torch.ones(2)})
    assert load_checkpoint(tmp_path / "last.pt", torch.device("meta"))["tensor"].device.type == "meta"


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, 1),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        lr_scheduler.ReduceLROnPlateau,
    ],
    ids=["StepLR", "CosineAnnealingLR", "OneCycleLR", "LambdaLR", "ReduceLROnPlateau"],
)
def test_the_state_of_a_scheduler_is_plain_enough(tmp_path: Path, make):
    state = make(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)).state_dict()
    save_checkpoint(tmp_path / "last.pt", {"scheduler": state})
    assert load_checkpoint(tmp_path / "last.pt", CPU)["scheduler"].keys() == state.keys()


def test_a_missing_file_is_refused(tmp_path: Path):
    assert "does not exist" in _refused(tmp_path / "last.pt")


def test_a_folder_is_refused(tmp_path: Path):
    assert "not a whole checkpoint" in _refused(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "not a whole checkpoint" in _refused(path)


def test_a_file_that_lacks_its_last_byte_is_refused(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    path.write_bytes(path.read_bytes()[:-1])
    assert "not a whole checkpoint" in _refused(path)


@pytest.mark.parametrize("content", [b"\x00" * 100, b"hello\n", b"<!DOCTYPE html>", b"version https://git-lfs"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    assert "not a whole checkpoint" in _refused(path)


@pytest.mark.parametrize("content", [b".", b"a chance", b"J1", b"epoch,loss\n1,2\n"])
def test_a_file_that_the_unpickler_stumbles_over_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    assert "not a whole checkpoint" in _refused(path)


@pytest.mark.parametrize("whole", [True, False], ids=["a bare pickle", "inside a torch archive"])
def test_code_inside_a_file_is_refused_and_never_runs(tmp_path: Path, whole: bool):
    path, mark = tmp_path / "last.pt", tmp_path / "mark"
    if whole:
        path.write_bytes(pickle.dumps(_Evil(mark), protocol=2))
    else:
        torch.save({"format": FORMAT, "vae": _Evil(mark)}, path)
    assert "plain tensors" in _refused(path)
    assert not mark.exists()


def test_the_evil_object_of_these_tests_would_really_act(tmp_path: Path):
    pickle.loads(pickle.dumps(_Evil(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_nobody_is_advised_to_run_the_code_inside_a_file(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT, "vae": _Evil(tmp_path / "mark")}, path)
    message = _refused(path)
    assert "can still be loaded" not in message
    assert "\x1b" not in message


def test_a_newer_format_is_refused_with_both_numbers(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT + 1}, path)
    assert f"has format {FORMAT + 1}: a newer version of vae_exp wrote it; this one reads up to {FORMAT}." in (
        _refused(path)
    )


def test_a_format_that_never_was_is_refused(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save({"format": 0}, path)
    assert "has format 0; this version of vae_exp reads formats 1 and 2." in _refused(path)


@pytest.mark.parametrize("format_", range(1, FORMAT + 1))
def test_formats_up_to_this_one_are_read(tmp_path: Path, format_: int):
    path = tmp_path / "last.pt"
    torch.save({"format": format_, "epoch": 3}, path)
    assert load_checkpoint(path, CPU) == {"format": format_, "epoch": 3}


def test_the_states_of_generators_are_plain_enough(tmp_path: Path):
    noise = generator(3, "noise", CPU)
    torch.randn(5, generator=noise)
    state = {"noise": noise.get_state(), "process": process_random_state(CPU)}
    save_checkpoint(tmp_path / "last.pt", state)
    loaded = load_checkpoint(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded["noise"], state["noise"])
    before = random.getstate(), np.random.get_state(legacy=True)[1].tolist()
    random.random(), np.random.rand()
    restore_process_random_state(loaded["process"], CPU)
    assert (random.getstate(), np.random.get_state(legacy=True)[1].tolist()) == before


@pytest.mark.parametrize(("content", "found"), [({"vae": {}}, "None"), ([1, 2], "list")])
def test_a_file_without_a_format_is_refused(tmp_path: Path, content: object, found: str):
    path = tmp_path / "last.pt"
    torch.save(content, path)
    assert f"has format {found}" in _refused(path)


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    def fail(state: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path, CPU)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "last.pt")
    assert "not a regular file" in _refused(tmp_path / "last.pt")


def test_a_compressed_archive_is_refused_before_it_unpacks(tmp_path: Path):
    save_checkpoint(tmp_path / "plain.pt", {"zeros": torch.zeros(1000)})
    packed = zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert "may unpack without bound" in _refused(tmp_path / "last.pt")
