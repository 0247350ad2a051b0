from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from tests.builders import CPU, SHAPE, grey_images, small_vae, weights
from vae_exp.data.batch_loader import DeviceLoader
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.train_step import EpochLossBuffer, ModelWithLoss, NonFiniteLossError, TrainStep
from vae_exp.objective.elbo import ELBO

LR = 0.1
COUNT = 7


@dataclass
class PartOfTeam(DistributedContext):
    """One process of several, whose sums are not told to the others."""

    rank: int
    world_size: int

    def all_reduce_sum(self, values: Tensor) -> None:
        """Alone in this process."""


def make_step(
    score: Any, module: nn.Module, sizes: list[int], *, dist: DistributedContext | None = None, **changes: Any
):
    """A step over the images in their order."""
    dist, images = dist or DistributedContext(), grey_images(COUNT)
    loader = DeviceLoader(images, sizes[0])
    loader.begin(
        dist.local_indices(torch.arange(COUNT), sizes), [dist.local_batch_size(size) for size in sizes], 0
    )
    record = EpochLossBuffer(len(sizes), CPU)
    record.start_epoch()
    settings = {
        "reduction": "sum",
        "max_grad_norm": None,
        "ema": None,
        "dynamic_binarization": False,
        "needs_labels": False,
    }
    return TrainStep(
        model_with_loss=score,
        parameters=list(module.parameters()),
        optimizer=SGD(module.parameters(), lr=LR),
        loader=loader,
        generator=make_generator(5, "noise", CPU),
        loss_buffer=record,
        dist=dist,
        **settings | changes,
    )


class Linear(nn.Module):
    """A loss of w·x, so that gradients are sums of images; distortion and rate are a quarter and three of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6))

    def forward(self, images: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        loss = images.flatten(1) @ self.weight + images.flatten(1).sum(dim=1)
        return loss, loss / 4, 3 * loss / 4


def first_images(count: int) -> Tensor:
    return grey_images(COUNT).scaled(slice(0, count)).flatten(1)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 4)])
@pytest.mark.parametrize("clip", [None, 0.5, 100.0])
def test_a_step_is_the_one_computed_by_hand(reduction: str, divisor: int, clip: float | None):
    module = Linear()
    make_step(module, module, [4, 3], reduction=reduction, max_grad_norm=clip)(4)
    gradient = first_images(4).sum(dim=0) / divisor
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


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sums_are_told_and_recorded_whatever_is_differentiated(reduction: str):
    module = Linear()
    step = make_step(module, module, [4, 3], reduction=reduction)
    total = first_images(4).sum().item()
    expected = torch.tensor([total, total / 4, 3 * total / 4])
    sums = step(4)
    torch.testing.assert_close(sums, expected)
    assert not sums.requires_grad
    torch.testing.assert_close(step._loss_buffer.rows[0], expected)
    step(3)
    assert step._loss_buffer.rows[1].abs().sum() > 0


def test_gradients_of_an_earlier_step_are_gone():
    module = Linear()
    step = make_step(module, module, [4, 3])
    step(4)
    step(3)
    both = grey_images(COUNT).scaled().flatten(1).sum(dim=0)
    torch.testing.assert_close(module.weight.detach(), -LR * both, rtol=1e-5, atol=1e-6)


def test_the_average_is_told_after_the_weights_have_moved():
    module = Linear()
    average = ExponentialMovingAverage(module, 0.5)
    make_step(module, module, [4, 3], ema=average)(4)
    assert module.weight.abs().sum() > 0
    torch.testing.assert_close(average.state_dict()["weight"], module.weight.detach())


def test_scoring_is_the_loss_of_the_model():
    vae, images = small_vae(), torch.rand(3, *SHAPE)
    terms = ELBO()(vae, images, make_generator(1, "noise", CPU))
    loss, distortion, rate = ModelWithLoss(vae, ELBO())(images, make_generator(1, "noise", CPU))
    assert torch.equal(loss, terms.loss)
    assert torch.equal(distortion, terms.distortion)
    assert torch.equal(rate, terms.rate)


# Losses that are not finite


def _spoiled(spoil: Callable[[list[Tensor]], None]) -> Callable[..., tuple[Tensor, ...]]:
    def score(images: Tensor, noise: torch.Generator) -> tuple[Tensor, ...]:
        terms = [each.clone() for each in module(images, noise)]
        spoil(terms)
        return tuple(terms)

    module = Linear()
    score.module = module
    return score


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize(
    ("spoilt", "term"), [((0, 1), "distortion"), ((0, 2), "rate"), ((0, 1, 2), "distortion"), ((0,), "loss")]
)
def test_on_the_cpu_a_loss_that_is_not_finite_never_reaches_the_weights(spoilt, term: str, value: float):
    def spoil(terms: list[Tensor]) -> None:
        for each in spoilt:
            terms[each][1] = value

    score = _spoiled(spoil)
    average = ExponentialMovingAverage(score.module, 0.5)
    step = make_step(score, score.module, [4, 3], ema=average)
    with pytest.raises(NonFiniteLossError):
        step(4)
    assert step._loss_buffer.first_non_finite() == pytest.approx((0, term, value), nan_ok=True)
    assert score.module.weight.abs().sum() == 0
    assert average.state_dict()["weight"].abs().sum() == 0


# The dist


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
        own = make_step(ModelWithLoss(vae, ELBO()), vae, sizes, reduction=reduction, dist=PartOfTeam(rank, size))
        for batch in sizes:
            vae.load_state_dict(small_vae().state_dict())
            sums_of_parts.append(own(batch))
            parts.append(weights(vae) - before)
    for batch in range(len(sizes)):
        average = torch.stack(parts[batch :: len(sizes)]).mean(dim=0)
        torch.testing.assert_close(average, moved[batch], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(torch.stack(sums_of_parts[batch :: len(sizes)]).sum(dim=0), sums[batch])
