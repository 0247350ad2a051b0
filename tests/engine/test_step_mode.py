import logging
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from vae_exp.engine import step_mode
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.step_mode import EagerStep, choose_mode, compiled, stepper
from vae_exp.errors import UserError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda:0"), torch.device("mps")
ALONE, PAIR = DistributedContext(), DistributedContext(rank=1, size=2)


@pytest.mark.parametrize(
    ("asked", "device", "team", "mode"),
    [
        ("auto", CUDA, ALONE, "graph"),
        ("auto", CUDA, PAIR, "eager"),
        ("auto", CPU, ALONE, "eager"),
        ("auto", MPS, ALONE, "eager"),
        ("auto", CPU, PAIR, "eager"),
        ("graph", CUDA, ALONE, "graph"),
        ("eager", CUDA, ALONE, "eager"),
        ("compile", CPU, ALONE, "compile"),
        ("compile", CUDA, PAIR, "compile"),
    ],
)
def test_the_mode_is_what_was_asked_for_and_auto_records_where_it_can(asked, device, team, mode):
    assert choose_mode(asked, device, team) == mode


@pytest.mark.parametrize("device", [CPU, MPS])
def test_a_graph_without_cuda_is_refused(device: torch.device):
    with pytest.raises(UserError, match=rf"^trainer\.step=graph needs a CUDA device, not {device}; use auto"):
        choose_mode("graph", device, ALONE)


def test_a_graph_in_several_processes_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.step=graph works in one process; use auto, eager or compile"):
        choose_mode("graph", CUDA, PAIR)


class Recorded:
    """Stands for the step that is recorded."""

    def __init__(self, step: object, device: torch.device, whole: int) -> None:
        self.step, self.device, self.whole = step, device, whole


@pytest.mark.parametrize(
    ("mode", "device", "size", "kind"),
    [
        ("eager", CPU, 1, EagerStep),
        ("eager", CUDA, 1, EagerStep),
        ("graph", CUDA, 1, Recorded),
        ("compile", CPU, 1, EagerStep),
        ("compile", CUDA, 1, Recorded),
        ("compile", CUDA, 2, EagerStep),
    ],
)
def test_each_mode_has_its_stepper(
    monkeypatch: pytest.MonkeyPatch, mode: str, device: torch.device, size: int, kind: type
):
    monkeypatch.setattr(step_mode, "CUDAGraphStep", Recorded)
    made = stepper(mode, lambda size: torch.zeros(3), device, DistributedContext(0, size), 100)
    assert type(made) is kind
    assert kind is EagerStep or made.whole == 100


def test_an_eager_step_is_the_step():
    sizes = []
    eager = EagerStep(lambda size: sizes.append(size) or torch.full((3,), float(size)))
    assert isinstance(eager.running(), nullcontext)
    with eager.running():
        assert eager(4).tolist() == [4.0, 4.0, 4.0]
    assert sizes == [4]


def test_compiling_is_left_to_torch_and_announced(monkeypatch: pytest.MonkeyPatch, caplog):
    given: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: given.append(module) or nn.Identity())
    module = nn.Linear(2, 2)
    with caplog.at_level(logging.INFO):
        assert isinstance(compiled(module), nn.Identity)
    assert given == [module]
    assert "compiles, which takes a while" in caplog.text
