import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from tests.builders import CPU
from vae_exp.engine.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from vae_exp.errors import UserError

OTHER_FILES = [b"\x00" * 100, b"hello\n", b"<!DOCTYPE html>", b".", b"a chance", b"J1"]
SHARES = [0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0]


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


def test_a_saved_state_is_loaded(tmp_path: Path):
    path, state = tmp_path / "checkpoints" / "last.pt", _state()
    save_checkpoint(path, state)
    loaded = load_checkpoint(path, CPU)
    assert loaded.keys() == {"format", *state}
    assert (loaded["format"], loaded["epoch"], loaded["name"]) == (FORMAT, 3, "last")
    torch.testing.assert_close(loaded["vae"], state["vae"], rtol=0, atol=0)
    torch.testing.assert_close(loaded["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
    assert load_checkpoint(path, torch.device("meta"))["vae"]["weight"].device.type == "meta"


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        lr_scheduler.ReduceLROnPlateau,
    ],
    ids=["CosineAnnealingLR", "OneCycleLR", "LambdaLR", "ReduceLROnPlateau"],
)
def test_the_state_of_a_scheduler_can_be_loaded(tmp_path: Path, make):
    state = make(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)).state_dict()
    save_checkpoint(tmp_path / "last.pt", {"scheduler": state})
    assert load_checkpoint(tmp_path / "last.pt", CPU)["scheduler"].keys() == state.keys()


def _compress(path: Path) -> None:
    save_checkpoint(path.with_name("plain.pt"), {"zeros": torch.zeros(1000)})
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path.with_name("plain.pt")) as plain, packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "does not exist"),
        (Path.mkdir, "not a whole checkpoint"),
        (os.mkfifo, "not a regular file"),
        (_compress, "may unpack without bound"),
        (lambda path: torch.save({"vae": {}}, path), "has format None"),
        (lambda path: torch.save([1, 2], path), "has format list"),
        (lambda path: torch.save({"format": 0}, path), "has format 0; this version of vae_exp reads formats"),
        (
            lambda path: torch.save({"format": FORMAT + 1}, path),
            f"has format {FORMAT + 1}: a newer version of vae_exp wrote it; this one reads up to {FORMAT}.",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, make: Callable[[Path], None], reason: str):
    make(tmp_path / "last.pt")
    assert reason in _refused(tmp_path / "last.pt")


@pytest.mark.parametrize("content", [*OTHER_FILES, *SHARES])
def test_a_file_of_something_else_or_a_share_of_a_checkpoint_is_refused(tmp_path: Path, content: bytes | float):
    path = tmp_path / "last.pt"
    save_checkpoint(path, _state())
    if isinstance(content, float):
        whole = path.read_bytes()
        content = whole[: int(content * (len(whole) - 1))]
    path.write_bytes(content)
    assert "not a whole checkpoint" in _refused(path)


@pytest.mark.parametrize("is_bare", [True, False], ids=["a bare pickle", "inside a torch archive"])
def test_code_inside_a_file_is_refused_and_never_runs(tmp_path: Path, is_bare: bool):
    path, mark = tmp_path / "last.pt", tmp_path / "mark"
    if is_bare:
        path.write_bytes(pickle.dumps(_Evil(mark), protocol=2))
    else:
        torch.save({"format": FORMAT, "vae": _Evil(mark)}, path)
    message = _refused(path)
    assert "plain tensors" in message
    assert "can still be loaded" not in message  # torch's advice
    assert "\x1b" not in message
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Evil(mark)))
    assert mark.exists()


@pytest.mark.parametrize("version", range(1, FORMAT + 1))
def test_formats_up_to_this_one_are_read(tmp_path: Path, version: int):
    path = tmp_path / "last.pt"
    torch.save({"format": version, "epoch": 3}, path)
    assert load_checkpoint(path, CPU) == {"format": version, "epoch": 3}


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
