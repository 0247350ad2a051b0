"""Trainers whose steps are made as one train as each of them does alone."""

import signal
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW

from tests.builders import make_trainer
from vae_exp.data.images import ImageSet
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_stack import TrainerStack
from vae_exp.errors import Interrupted
from vae_exp.model.decoders import ConvDecoder, MLPDecoder
from vae_exp.model.encoders import ConvEncoder, MLPEncoder
from vae_exp.model.likelihoods import (
    ContinuousBernoulliLikelihood,
    FixedGaussianLikelihood,
    PerPixelGaussianLikelihood,
    SharedGaussianLikelihood,
)
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE, CapacityVAE, FreeBits
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE
from vae_exp.objective.schedules import Linear

SHAPE = (1, 4, 4)
SIZES = [(2, (5,)), (4, (8,)), (3, (6,)), (2, (8,))]


def images(count: int = 42):
    pixels = torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels.to(torch.uint8), None, 255)


def mlp_vae(latent_dim, hidden_dims, seed=0, activation="relu", likelihood=None) -> VAE:
    torch.manual_seed(seed)
    return VAE(
        MLPEncoder(SHAPE, latent_dim, hidden_dims, activation),
        MLPDecoder(SHAPE, latent_dim, hidden_dims, activation, likelihood and likelihood()),
        StandardNormalPrior(latent_dim),
    )


def conv_vae(latent_dim, hidden_dims, seed=0, activation="relu") -> VAE:
    torch.manual_seed(seed)
    return VAE(
        ConvEncoder(SHAPE, latent_dim, hidden_dims, activation),
        ConvDecoder(SHAPE, latent_dim, hidden_dims, activation),
        StandardNormalPrior(latent_dim),
    )


def largest(sizes):
    latent_dims, hidden_dims = zip(*sizes, strict=True)
    return max(latent_dims), [max(widths) for widths in zip(*hidden_dims, strict=True)]


def train_together(stack: TrainerStack, members: list[Trainer]) -> None:
    """Train all members to their ends, each in its place."""
    shutdown = GracefulShutdown()
    runs = [member.paused_fit(shutdown, NullProgress()) for member in members]
    for run in runs:
        next(run)
    active, groups = list(members), [str(member.train_step.optimizer.defaults["lr"]) for member in members]
    while active:
        assert not stack.train_epoch([m if m in active else None for m in members], groups, shutdown)
        for member, run in zip(members, runs, strict=True):
            if member in active and next(run, "end") == "end":
                active.remove(member)


def trainers(path: Path, make_vae, sizes=SIZES, losses=None, rates=(1e-2, 1e-2, 3e-3, 1e-2), **options):
    settings = {"train": images(), "val": images(9), "epochs": 3, "batch_size": 10, "reduction": "sum"} | options
    made = settings.pop("optimizer", Adam)
    return [
        make_trainer(
            path / str(number),
            vae=make_vae(latent, hidden, number),
            loss=loss,
            optimizer=lambda parameters, rate=rate: made(parameters, lr=rate),
            seed=number,
            **settings,
        )
        for number, ((latent, hidden), loss, rate) in enumerate(
            zip(sizes, islice(cycle(losses or [ELBO()]), len(sizes)), rates, strict=False)
        )
    ]


def assert_as_alone(tmp_path, make_vae, rtol=1e-4, sizes=SIZES, **options):
    members = trainers(tmp_path / "stacked", make_vae, sizes, **options)
    alone = trainers(tmp_path / "alone", make_vae, sizes, **options)
    stack = TrainerStack(make_vae(*largest(sizes)))
    train_together(stack, members)
    for member, trainer in zip(members, alone, strict=True):
        trainer.fit(GracefulShutdown(), NullProgress())
        one, other = member.state_dict(), trainer.state_dict()
        assert (one["step"], one["epoch"]) == (other["step"], other["epoch"])
        for name, value in other["vae"].items():
            torch.testing.assert_close(one["vae"][name], value, rtol=rtol, atol=1e-5)
        assert one["metrics"]["val/loss"] == pytest.approx(other["metrics"]["val/loss"], abs=1e-3)
        assert one["metrics"]["train/loss"] == pytest.approx(other["metrics"]["train/loss"], rel=1e-4)
        assert one["metrics"]["train/grad_norm"] == pytest.approx(other["metrics"]["train/grad_norm"], rel=1e-3)
        assert torch.equal(one["generators"]["noise"], other["generators"]["noise"])
        assert torch.equal(one["generators"]["shuffle"], other["generators"]["shuffle"])
        torch.testing.assert_close(one["optimizer"], other["optimizer"], rtol=1e-3, atol=1e-4)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "gated", "sigmoid", "softplus"]
)
def test_members_of_other_sizes_rates_and_seeds_train_as_alone(tmp_path, activation):
    assert_as_alone(tmp_path, lambda *size: mlp_vae(*size, activation=activation))


@pytest.mark.slow
def test_gated_convolutions_of_two_layers_train_as_alone(tmp_path):
    """A gate doubles the outputs, which are another axis of the weights where a convolution is transposed."""
    sizes = [(2, (4, 6)), (2, (8, 16))]
    assert_as_alone(tmp_path, lambda *size: conv_vae(*size, activation="gated"), sizes=sizes)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "losses",
    [
        [BetaVAE(0.5), BetaVAE(2.0), BetaVAE(Linear(0, 1, 20, "step")), BetaVAE(Linear(0, 4, 2))],
        [CapacityVAE(3.0, 1.0), CapacityVAE(30.0, 2.0), CapacityVAE(1.0, Linear(0, 5, 3)), CapacityVAE(1.0, 0)],
        [CapacityVAE(3.0, 1.0, over="batch"), CapacityVAE(2.0, 2.0, over="batch")],
        [FreeBits(0.5), FreeBits(0.0), FreeBits(2.0), FreeBits(Linear(0, 1, 30, "step"))],
        [IWAE(5)],
        [ELBO(3)],
    ],
    ids=["beta_vae", "capacity", "capacity_batch", "free_bits", "iwae", "elbo_3"],
)
def test_members_of_other_scalars_of_the_loss_train_as_alone(tmp_path, losses):
    assert_as_alone(tmp_path, mlp_vae, losses=losses)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: FixedGaussianLikelihood(0.5),
        SharedGaussianLikelihood,
        lambda: PerPixelGaussianLikelihood(0.1),
        ContinuousBernoulliLikelihood,
    ],
)
def test_other_likelihoods(tmp_path, likelihood):
    assert_as_alone(tmp_path, lambda *size: mlp_vae(*size, likelihood=likelihood))


@pytest.mark.quick(1)
@pytest.mark.parametrize("optimizer", [AdamW, SGD, Adagrad])
def test_optimizers(tmp_path, optimizer):
    rates = (1e-3, 2e-3, 1e-3, 1e-3)
    assert_as_alone(tmp_path, mlp_vae, optimizer=optimizer, rates=rates)


@pytest.mark.slow
def test_conv_nets(tmp_path):
    assert_as_alone(tmp_path, conv_vae, rtol=1e-3)


def test_clipping_means_dynamic_binarisation_and_short_batches(tmp_path):
    dynamic = replace(images(), binarization_seed=0)
    assert_as_alone(tmp_path, mlp_vae, train=dynamic, max_grad_norm=0.5, reduction="mean")


@pytest.mark.quick(1)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_augmented_and_streamed_images(tmp_path, is_streamed):
    train = replace(images(), augment=("flip",))
    assert_as_alone(tmp_path, mlp_vae, train=train.stream_to(torch.device("cpu")) if is_streamed else train)


@pytest.mark.cuda
@pytest.mark.parametrize("losses", [[ELBO()], [BetaVAE(0.5), BetaVAE(2.0)], [FreeBits(0.5), FreeBits(0.0)]])
def test_members_on_cuda(tmp_path, losses):
    def on_cuda(*size):
        return mlp_vae(*size).to("cuda")

    options = {"train": images().to(torch.device("cuda")), "val": images(9).to(torch.device("cuda"))}
    assert_as_alone(tmp_path, on_cuda, rtol=1e-3, execution="eager", losses=losses, **options)


def test_a_member_has_the_same_bits_whoever_is_absent(tmp_path):
    """These sizes fill no vector register: kernels round the last numbers of a parameter group otherwise."""
    sizes, rates = [(3, (7,)), (3, (5,)), (2, (7,))], (1e-2, 3e-3, 1e-2)
    fused = partial(AdamW, weight_decay=0.01, fused=True)
    together = trainers(tmp_path / "a", mlp_vae, sizes, rates=rates, optimizer=fused)
    train_together(TrainerStack(mlp_vae(3, [7])), together)
    members = trainers(tmp_path / "b", mlp_vae, sizes, rates=rates, optimizer=fused)
    stack, shutdown = TrainerStack(mlp_vae(3, [7])), GracefulShutdown()
    for place, member in enumerate(members):
        run = member.paused_fit(shutdown, NullProgress())
        for _ in run:
            stack.train_epoch([member if other == place else None for other in range(3)], list("aba"), shutdown)
        expected = together[place].vae.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in member.vae.state_dict().items())


def assert_same_bits(member: Trainer, other: Trainer) -> None:
    expected = other.vae.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in member.vae.state_dict().items())
    assert member.state.metrics["val/loss"] == other.state.metrics["val/loss"]


class ShutdownAfter(GracefulShutdown):
    """Notes SIGTERM after so many checks."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    def raise_if_requested(self) -> None:
        self.checks -= 1
        self.signal_number = signal.SIGTERM if self.checks < 0 else None
        super().raise_if_requested()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_members_that_were_interrupted_within_an_epoch_continue_to_the_same_bits(tmp_path, steps):
    whole, members, resumed = (trainers(tmp_path / name, mlp_vae) for name in ("whole", "members", "resumed"))
    train_together(TrainerStack(mlp_vae(*largest(SIZES))), whole)
    for member in members:
        next(member.paused_fit(GracefulShutdown(), NullProgress()))
    with pytest.raises(Interrupted):
        TrainerStack(mlp_vae(*largest(SIZES))).train_epoch(members, list("aabc"), ShutdownAfter(steps))
    for member, other in zip(members, resumed, strict=True):
        other.load_state_dict(member.state_dict())
        assert (other.state.epoch, other.state.batch_in_epoch) == (0, steps)
    train_together(TrainerStack(mlp_vae(*largest(SIZES))), resumed)
    for member, other in zip(resumed, whole, strict=True):
        assert_same_bits(member, other)
        assert member.state.metrics["train/loss"] == other.state.metrics["train/loss"]


def test_members_that_were_interrupted_in_their_validation_continue_to_the_same_bits(tmp_path):
    whole, members, resumed = (trainers(tmp_path / name, mlp_vae) for name in ("whole", "members", "resumed"))
    train_together(TrainerStack(mlp_vae(*largest(SIZES))), whole)
    shutdown = GracefulShutdown()
    runs = [member.paused_fit(shutdown, NullProgress()) for member in members]
    for run in runs:
        next(run)
    TrainerStack(mlp_vae(*largest(SIZES))).train_epoch(members, list("aabc"), shutdown)
    shutdown.signal_number = signal.SIGTERM
    for member, run, other in zip(members, runs, resumed, strict=True):
        with pytest.raises(Interrupted):
            next(run)
        other.load_state_dict(member.state_dict())
        assert (other.state.epoch, other.state.batch_in_epoch) == (0, other.steps_per_epoch)
    train_together(TrainerStack(mlp_vae(*largest(SIZES))), resumed)
    for member, other in zip(resumed, whole, strict=True):
        assert_same_bits(member, other)
