import logging

import pytest
import torch
from torch import nn

from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.train_step import compile_module, resolve_execution_mode
from vae_exp.errors import UserError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda:0"), torch.device("mps")
ALONE, PAIR = DistributedContext(), DistributedContext(rank=1, world_size=2)


@pytest.mark.parametrize(
    ("asked", "device", "dist", "mode"),
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
def test_the_mode_is_what_was_asked_for_and_auto_records_where_it_can(asked, device, dist, mode):
    assert resolve_execution_mode(asked, device, dist) == mode


@pytest.mark.parametrize("device", [CPU, MPS])
def test_a_graph_without_cuda_is_refused(device: torch.device):
    with pytest.raises(UserError, match=rf"^trainer\.step=graph needs a CUDA device, not {device}; use auto"):
        resolve_execution_mode("graph", device, ALONE)


def test_a_graph_in_several_processes_is_refused():
    with pytest.raises(UserError, match=r"^trainer\.step=graph works in one process; use auto, eager or compile"):
        resolve_execution_mode("graph", CUDA, PAIR)


def test_compiling_is_left_to_torch_and_announced(monkeypatch: pytest.MonkeyPatch, caplog):
    given: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: given.append(module) or nn.Identity())
    module = nn.Linear(2, 2)
    with caplog.at_level(logging.INFO):
        assert isinstance(compile_module(module), nn.Identity)
    assert given == [module]
    assert "compiles, which takes a while" in caplog.text
