from collections.abc import Callable
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, Optimizer, RMSprop

from vae_exp.configuration.instantiate import build_optimizer
from vae_exp.engine.checkpoint import load_optimizer_state
from vae_exp.engine.flat_parameter import FlatParameter, can_be_flat, flat_parameter, optimizer_state

OPTIMIZERS = [
    partial(Adam, lr=0.1, weight_decay=0.1),
    partial(AdamW, lr=0.1, amsgrad=True),
    partial(SGD, lr=0.01, momentum=0.9, nesterov=True),
    partial(Adagrad, lr=0.1),
    partial(RMSprop, lr=0.1, centered=True),
]
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: make.func.__name__)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 5), nn.Linear(5, 1))


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        model.zero_grad()
        drawn = torch.Generator().manual_seed(step)
        (model(torch.randn(4, 1, 2, 2, generator=drawn)) - 1).square().sum().backward()
        if (flat := flat_parameter(optimizer)) is not None:
            flat.gather_gradients()
            flat.step(optimizer)
        else:
            optimizer.step()


def flat_net(make: Callable[..., Optimizer]) -> tuple[nn.Module, Optimizer]:
    model = net()
    return model, make([FlatParameter(list(model.parameters()))])


@every_optimizer
def test_the_weights_become_those_of_single_parameters(make):
    whole, optimizer = flat_net(make)
    parts = net()
    train(whole, optimizer, 5)
    train(parts, make(parts.parameters()), 5)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@every_optimizer
def test_the_state_is_stored_by_single_parameters_and_goes_both_ways(make):
    whole, optimizer = flat_net(make)
    train(whole, optimizer, 3)
    parts = net()
    parts.load_state_dict(whole.state_dict())
    single = make(parts.parameters())
    load_optimizer_state(single, deepcopy(optimizer_state(optimizer)), keep_options=False)
    again, resumed = flat_net(make)
    again.load_state_dict(parts.state_dict())
    load_optimizer_state(resumed, deepcopy(optimizer_state(single)), keep_options=False)
    for model, its_optimizer in ((whole, optimizer), (parts, single), (again, resumed)):
        train(model, its_optimizer, 2)
    for one, other, third in zip(whole.parameters(), parts.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
        assert torch.equal(one, third)


@every_optimizer
def test_a_weight_without_a_gradient_stays_as_it_is(make):
    model, optimizer = flat_net(make)
    before = model[3].weight.clone()
    flat = flat_parameter(optimizer)
    assert flat is not None
    for _ in range(3):
        model[2].weight.grad = torch.ones_like(model[2].weight)
        flat.gather_gradients()
        assert flat.grad is not None
        assert flat.grad.sum() == model[2].weight.numel()
        flat.step(optimizer)
    assert torch.equal(model[3].weight, before)
    assert not torch.equal(model[2].weight, net()[2].weight)


def test_weights_stay_aligned():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))
    flat = FlatParameter(list(model.parameters()))
    assert all((weight.data_ptr() - flat.data_ptr()) % 64 == 0 for weight in model.parameters())


def test_the_state_of_other_weights_is_refused():
    model, optimizer = flat_net(partial(Adam, lr=0.1))
    train(model, optimizer, 1)
    state = optimizer_state(optimizer)
    narrow = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"exp_avg is \[5, 3\] for a weight of \[4, 3\]"):
        load_optimizer_state(Adam([FlatParameter(list(narrow.parameters()))]), state, keep_options=False)
    with pytest.raises(ValueError, match="is of 6 weights, not 2"):
        load_optimizer_state(Adam([FlatParameter(list(nn.Linear(2, 2).parameters()))]), state, keep_options=False)


def test_weights_stay_apart_on_a_cpu_and_where_an_optimizer_looks_at_whole_matrices():
    parameters = list(net().parameters())
    assert flat_parameter(build_optimizer({"_target_": "torch.optim.Adam", "lr": 0.1}, parameters)) is None
    on_a_gpu = [SimpleNamespace(dtype=torch.float32, device=torch.device("cuda")) for _ in range(2)]
    half = SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cuda"))
    assert can_be_flat(Adam(parameters), on_a_gpu)
    assert not can_be_flat(Adam(parameters), [*on_a_gpu, half])
    assert not can_be_flat(Adafactor(parameters), on_a_gpu)
