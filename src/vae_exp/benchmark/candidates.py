"""The candidates that are compared, all with the same images, net and batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vae_exp.benchmark.baselines import PictureDataset, PlainLoop, PlainNet, picture_batches, tensor_batches
from vae_exp.benchmark.case import Case
from vae_exp.benchmark.graph_loop import GraphLoop
from vae_exp.benchmark.interleave import Candidate
from vae_exp.benchmark.matmul_floor import MatmulFloor
from vae_exp.benchmark.pythae_loop import PythaeLoop, runs_pythae
from vae_exp.benchmark.stack_loop import StackLoop
from vae_exp.configuration.instantiate import (
    build_loss,
    build_optimizer,
    build_vae,
    prefer_fused_kernel,
)
from vae_exp.data.batch_loader import move_to_device
from vae_exp.data.images import ImageSet
from vae_exp.engine.seeding import make_generator, seed_everything
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_options import TrainerOptions
from vae_exp.model.vae import VAE
from vae_exp.storage.run_directory import RunDirectory

PLAIN, TENSOR_LOOP, GRAPH_LOOP, PYTHAE = "plain", "tensor_loop", "graph_loop", "pythae"


@dataclass(frozen=True)
class CandidateSpec:
    """A candidate before it is built.

    Args:
        build: Builds it.
        precision: Of its matrix products; its time is divided by that of the floor of this precision.
        is_compiled: Whether a compiler has fused its operations, so that its kernels cannot be counted.
    """

    build: Callable[[], Candidate]
    precision: str = "fp32"
    is_compiled: bool = False


def candidate_specs(
    case: Case, executions: Sequence[str], precisions: Sequence[str], stack_sizes: Sequence[int] = ()
) -> dict[str, CandidateSpec]:
    """The candidates by name: plain loops, `engine/EXECUTION/PRECISION`, `stacked/N` and `floor/PRECISION`.

    Args:
        case: What they work on.
        executions: How the engine runs steps.
        precisions: Of the matrix products of engine and floor; the others compute in fp32.
        stack_sizes: How many nets train as one.
    """
    specs = {PLAIN: CandidateSpec(partial(_plain, case)), TENSOR_LOOP: CandidateSpec(partial(_tensor_loop, case))}
    if case.device.type == "cuda":
        specs[GRAPH_LOOP] = CandidateSpec(partial(_graph_loop, case))
    if runs_pythae(case.device):
        specs[PYTHAE] = CandidateSpec(partial(_pythae, case))
    for precision in precisions:
        for execution in executions:
            build = partial(_engine, case, execution, precision)
            specs[f"engine/{execution}/{precision}"] = CandidateSpec(build, precision, execution == "compile")
    for size in stack_sizes:
        specs[f"stacked/{size}"] = CandidateSpec(partial(_stacked, case, size))
    for precision in precisions:
        specs[f"floor/{precision}"] = CandidateSpec(partial(_floor, case, precision), precision)
    return specs


def _plain(case: Case) -> PlainLoop:
    return _plain_loop(case, picture_batches(PictureDataset(case.images), case.batch_size, case.device))


def _tensor_loop(case: Case) -> PlainLoop:
    return _plain_loop(case, tensor_batches(_tensor(case), case.batch_size))


def _plain_loop(case: Case, batches: Iterator[Tensor]) -> PlainLoop:
    net = _plain_net(case)
    return PlainLoop(net, _plain_adam(case, net), batches)


def _graph_loop(case: Case) -> GraphLoop:
    net, images = _plain_net(case), _tensor(case)
    batches = tensor_batches(images, case.batch_size)
    return GraphLoop(net, _plain_adam(case, net), batches, torch.empty_like(images[: case.batch_size]))


def _pythae(case: Case) -> PythaeLoop:
    net = _plain_net(case)
    return PythaeLoop(net, _plain_adam(case, net), case.images.batch().images, case.batch_size)


def _tensor(case: Case) -> Tensor:
    return case.images.batch().images.flatten(1).to(case.device)


def _plain_net(case: Case) -> PlainNet:
    seed_everything(case.config["seed"])
    encoder, decoder = case.config["model"]["encoder"], case.config["model"]["decoder"]
    return PlainNet(
        prod(case.images.image_shape),
        encoder["hidden_dims"],
        encoder["latent_dim"],
        decoder["hidden_dims"][::-1],
        encoder["activation"],
    ).to(case.device)


def _plain_adam(case: Case, net: PlainNet) -> Optimizer:
    """Over the weights one by one, with the kernels that the engine's has."""
    options = {key: value for key, value in case.config["optimizer"].items() if key != "_target_"}
    weights = list(net.parameters())
    adam: Optimizer = prefer_fused_kernel(partial(torch.optim.Adam, **options), options, weights)(weights)
    return adam


def _stacked(case: Case, size: int) -> StackLoop:
    images = _images(case)
    trainers = [_engine(case, "eager", "fp32", images, may_be_flat=False) for _ in range(size)]
    template, _ = _engine_parts(case)
    return StackLoop(template, trainers)


def _images(case: Case) -> ImageSet:
    return move_to_device(case.images, case.device, case.config["data"].get("preload_to_device", "auto"))


def _engine(
    case: Case, execution: str, precision: str, images: ImageSet | None = None, *, may_be_flat: bool = True
) -> Trainer:
    vae, loss = _engine_parts(case)
    images = _images(case) if images is None else images
    return Trainer(
        vae=vae,
        loss=loss,
        optimizer=build_optimizer(case.config["optimizer"], vae.parameters(), may_be_flat=may_be_flat),
        scheduler=None,
        train=images,
        val=images.take(0),
        directory=RunDirectory(Path.cwd()),  # nothing is ever written there
        options=_options(case, execution, precision),
    )


def _options(case: Case, execution: str, precision: str) -> TrainerOptions:
    return TrainerOptions(
        epochs=1,
        batch_size=case.batch_size,
        reduction="sum",
        seed=case.config["seed"],
        monitor="train/loss",
        patience=None,
        min_delta=0.0,
        execution=execution,
        steps_per_graph=1,
        precision=precision,
        max_grad_norm=None,
        ema_decay=None,
        warn_posterior_collapse=False,
        checkpoint_every_n_epochs=None,
        checkpoint_every_n_seconds=None,
    )


def _engine_parts(case: Case) -> tuple[VAE, Any]:
    seed_everything(case.config["seed"])
    vae = build_vae(case.config["model"], case.images.image_shape)
    loss = build_loss(case.config["loss"], vae, case.images.image_shape)
    return vae.to(case.device), loss


def _floor(case: Case, precision: str) -> MatmulFloor:
    vae, loss = _engine_parts(case)
    batch = case.images.batch(slice(0, case.batch_size)).images.to(case.device)
    return MatmulFloor(vae, loss, batch, make_generator(case.config["seed"], "noise", case.device), precision)
