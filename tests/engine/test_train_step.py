from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD

from tests.builders import CPU, grey_images, make_train_step, small_vae, weights
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.train_step import (
    EpochLossBuffer,
    ModelWithLoss,
    NonFiniteLossError,
    TrainStep,
    resolve_execution_mode,
)
from vae_exp.errors import UserError
from vae_exp.objective.elbo import ELBO

LR = 0.1
COUNT = 7


@dataclass
class OneOfSeveral(DistributedContext):
    """One process of several, whose sums are not reduced."""

    rank: int
    world_size: int

    def all_reduce_sum(self, values: Tensor) -> None:
        """Alone in this process."""


def make_step(model_with_loss: Any, module: nn.Module, sizes: list[int], **options: Any) -> TrainStep:
    optimizer = SGD(module.parameters(), lr=LR)
    return make_train_step(model_with_loss, optimizer, grey_images(COUNT), sizes, **options)


class Linear(nn.Module):
    """A loss of w·x, so that gradients are sums of images; distortion and rate are a quarter and three of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, images: Tensor, noise: torch.Generator, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss = images.flatten(1) @ self.weight + images.flatten(1).sum(dim=1)
        return loss, loss / 4, 3 * loss / 4


def first_images(count: int) -> Tensor:
    return grey_images(COUNT).batch(slice(0, count)).images.flatten(1)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 4)])
@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
def test_a_step_is_the_one_computed_by_hand(reduction: str, divisor: int, clip: float | None):
    module = Linear()
    step = make_step(module, module, [4, 3], reduction=reduction, max_grad_norm=clip)
    step(4)
    gradient = first_images(4).sum(dim=0) / divisor
    torch.testing.assert_close(step.grad_norm(), gradient.norm())
    if clip is not None:
        gradient = gradient * min(1.0, clip / gradient.norm().item())
    torch.testing.assert_close(module.weight.detach(), -LR * gradient, rtol=1e-5, atol=1e-6)
    if clip == 0.5:
        assert (module.weight / LR).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_clip_is_of_the_whole_gradient_and_keeps_its_direction():
    plain, clipped, before = small_vae(), small_vae(), weights(small_vae())
    for vae, clip in ((plain, None), (clipped, 0.25)):
        make_step(ModelWithLoss(vae, ELBO()), vae, [4, 3], max_grad_norm=clip)(4)
    full, short = (weights(vae) - before for vae in (plain, clipped))
    assert full.norm() > 2 * LR * 0.25
    assert short.norm().item() == pytest.approx(LR * 0.25, rel=1e-3)
    torch.testing.assert_close(short, full * short.norm() / full.norm(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.25])
def test_the_gradient_norm_is_that_of_the_last_step_and_leaves_out_weights_without_a_gradient(clip: float | None):
    module = Linear()
    module.unused = nn.Parameter(torch.ones(2))
    step = make_step(module, module, [4, 3], max_grad_norm=clip)
    for size in (4, 3):
        step(size)
    torch.testing.assert_close(step.grad_norm(), grey_images(COUNT).batch(slice(4, 7)).images.sum(dim=0).norm())


def test_binary_pixels_are_drawn_of_what_augmentation_leaves():
    class Recording(Linear):
        def forward(self, images: Tensor, noise: torch.Generator, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            seen.append(images)
            return super().forward(images, noise, labels)

    seen: list[Tensor] = []
    module = Recording()
    options = {"dynamic_binarization": True, "augment": lambda images, _: images / 2 + 0.25}
    make_step(module, module, [4, 3], **options)(4)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sums_are_returned_and_buffered_whatever_is_differentiated(reduction: str):
    module = Linear()
    step = make_step(module, module, [4, 3], reduction=reduction)
    total = first_images(4).sum().item()
    expected = torch.tensor([total, total / 4, 3 * total / 4])
    sums = step(4)
    torch.testing.assert_close(sums, expected)
    assert not sums.requires_grad
    torch.testing.assert_close(step.loss_buffer.rows[0], expected)


def test_gradients_of_an_earlier_step_are_gone_and_the_average_is_updated_after_the_weights():
    module = Linear()
    average = ExponentialMovingAverage(module, 0.5)
    step = make_step(module, module, [4, 3], ema=average)
    step(4)
    assert module.weight.abs().sum() > 0
    torch.testing.assert_close(average.state_dict()["weight"], module.weight.detach())
    step(3)
    both = grey_images(COUNT).batch().images.flatten(1).sum(dim=0)
    torch.testing.assert_close(module.weight.detach(), -LR * both, rtol=1e-5, atol=1e-6)


# Losses that are not finite


def _spoiled(spoil: Callable[[list[Tensor]], None]) -> Callable[..., tuple[Tensor, ...]]:
    def score(images: Tensor, noise: torch.Generator, labels: Tensor) -> tuple[Tensor, ...]:
        terms = [term.clone() for term in module(images, noise, labels)]
        spoil(terms)
        return tuple(terms)

    module = Linear()
    score.module, score.modules = module, module.modules
    return score


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("spoilt", "term"), [((0, 1), "distortion"), ((0, 2), "rate"), ((0, 1, 2), "distortion"), ((0,), "loss")]
)
def test_on_the_cpu_a_loss_that_is_not_finite_never_reaches_the_weights(spoilt, term: str, value: float):
    def spoil(terms: list[Tensor]) -> None:
        for index in spoilt:
            terms[index][1] = value

    score = _spoiled(spoil)
    average = ExponentialMovingAverage(score.module, 0.5)
    step = make_step(score, score.module, [4, 3], ema=average)
    with pytest.raises(NonFiniteLossError):
        step(4)
    assert step.loss_buffer.first_non_finite() == pytest.approx((0, term, value), nan_ok=True)
    assert score.module.weight.abs().sum() == 0
    assert average.state_dict()["weight"].abs().sum() == 0


# Several processes


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_gradients_of_the_parts_average_to_that_of_the_whole(size: int, reduction: str):
    """DDP averages over the processes."""
    whole = small_vae()
    before, sizes = weights(whole), [4, 3]
    alone = make_step(ModelWithLoss(whole, ELBO()), whole, sizes, reduction=reduction)
    moved, sums, parts, sums_of_parts = [], [], [], []
    for batch in sizes:
        whole.load_state_dict(small_vae().state_dict())
        sums.append(alone(batch))
        moved.append(weights(whole) - before)
    for rank in range(size):
        vae = small_vae()
        own = make_step(ModelWithLoss(vae, ELBO()), vae, sizes, reduction=reduction, dist=OneOfSeveral(rank, size))
        for batch in sizes:
            vae.load_state_dict(small_vae().state_dict())
            sums_of_parts.append(own(batch))
            parts.append(weights(vae) - before)
    for batch in range(len(sizes)):
        average = torch.stack(parts[batch :: len(sizes)]).mean(dim=0)
        torch.testing.assert_close(average, moved[batch], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.stack(sums_of_parts[batch :: len(sizes)]).sum(dim=0), sums[batch])


# The buffer of an epoch


values = st.floats(min_value=-1e6, max_value=1e6, width=32)
rows = st.lists(st.tuples(values, values, values), min_size=1, max_size=20)


def buffer_of(given_rows: list[tuple[float, float, float]], steps: int | None = None) -> EpochLossBuffer:
    buffer = EpochLossBuffer(steps or len(given_rows), torch.zeros(1, dtype=torch.int64))
    buffer.start_epoch()
    append_all(buffer, given_rows)
    return buffer


def append_all(buffer: EpochLossBuffer, given_rows: list[tuple[float, float, float]], done: int = 0) -> None:
    for index, row in enumerate(given_rows, done):
        buffer._batch_index.fill_(index)
        buffer.append(torch.tensor(row))


@settings(max_examples=60)
@given(rows, st.data())
def test_steps_are_kept_in_order_and_a_continued_epoch_has_the_rows_of_a_whole_one(given_rows, data):
    done = data.draw(st.integers(min_value=0, max_value=len(given_rows)))
    whole, resumed = buffer_of(given_rows, steps=25), buffer_of([(1.0, 2.0, 3.0)], steps=25)
    memory = resumed.rows.data_ptr()
    resumed.start_epoch(torch.tensor(given_rows)[:done])
    append_all(resumed, given_rows[done:], done)
    assert torch.equal(whole.rows[: len(given_rows)], torch.tensor(given_rows))
    assert torch.equal(resumed.rows, whole.rows)
    assert torch.equal(resumed.totals(), whole.totals())
    assert resumed.rows.data_ptr() == memory


def test_totals_are_summed_in_double_precision():
    buffer = buffer_of([(2.0**24, 0.0, 0.0)] + [(1.0, 0.0, 0.0)] * 1000)
    assert buffer.totals()[0].item() == 2**24 + 1000


@pytest.mark.parametrize(
    ("bad", "first"),
    [
        ({}, None),
        ({(2, 1): inf}, (2, "distortion", inf)),
        ({(3, 1): nan, (1, 0): -inf}, (1, "loss", -inf)),
        ({(1, 0): nan, (1, 2): inf}, (1, "rate", inf)),
    ],
)
def test_the_first_term_that_is_not_finite_is_named(bad: dict[tuple[int, int], float], first: Any):
    buffer = buffer_of([(1.0, 2.0, 3.0)] * 4)
    for index, value in bad.items():
        buffer.rows[index] = value
    assert buffer.first_non_finite() == first


# Execution modes


CUDA, MPS = torch.device("cuda:0"), torch.device("mps")
ALONE, PAIR = DistributedContext(), DistributedContext(rank=1, world_size=2)


@pytest.mark.parametrize(
    ("requested", "device", "dist", "mode"),
    [
        ("auto", CUDA, ALONE, "graph"),
        ("auto", CUDA, PAIR, "eager"),
        ("auto", CPU, ALONE, "eager"),
        ("auto", MPS, ALONE, "eager"),
        ("graph", CUDA, ALONE, "graph"),
        ("eager", CUDA, ALONE, "eager"),
        ("compile", CUDA, PAIR, "compile"),
    ],
)
def test_auto_captures_a_graph_where_it_can(requested, device, dist, mode):
    assert resolve_execution_mode(requested, device, dist) == mode


@pytest.mark.parametrize(
    ("device", "dist", "reason"),
    [
        (CPU, ALONE, "needs a CUDA device, not cpu"),
        (MPS, ALONE, "needs a CUDA device, not mps"),
        (CUDA, PAIR, "works in one process"),
    ],
)
def test_a_graph_that_cannot_be_captured_is_refused(device: torch.device, dist: DistributedContext, reason: str):
    with pytest.raises(UserError, match=rf"^trainer\.execution=graph {reason}; use auto, eager or compile"):
        resolve_execution_mode("graph", device, dist)
