"""Small images, models, trackers and trainers for tests."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from tests.readers import without_times
from vae_exp.data.batch_loader import DeviceLoader
from vae_exp.data.images import ImageSet
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.progress import NullProgress, ProgressDisplay
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.train_step import EpochLossBuffer, TrainStep
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_options import TrainerOptions
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import Loss
from vae_exp.storage.run_directory import RunDirectory

CPU = torch.device("cpu")
SHAPE = (1, 2, 3)


def noise(seed: int = 1) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def grey_images(count: int, seed: int = 0) -> ImageSet:
    """Integer images, as those of MNIST."""
    drawn = torch.randint(256, (count, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return ImageSet(drawn.to(torch.uint8), None, pixel_max=255)


def small_vae(hidden: int = 8, latent_dim: int = 2) -> VAE:
    """The same weights each time."""
    torch.manual_seed(0)
    return VAE(
        MLPEncoder(SHAPE, latent_dim, [hidden], "tanh"),
        MLPDecoder(SHAPE, latent_dim, [hidden], "tanh"),
        StandardNormalPrior(latent_dim),
    )


def bernoulli_vae(latent_dim: int, seed: int = 0, scale: float = 2.0) -> VAE:
    """A small VAE with exaggerated weights, so that its posterior is far from its encoder's."""
    torch.manual_seed(seed)
    vae = VAE(
        MLPEncoder(SHAPE, latent_dim, [5], "tanh"),
        MLPDecoder(SHAPE, latent_dim, [7], "tanh"),
        StandardNormalPrior(latent_dim),
    )
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(scale)
    return vae.eval()


class LinearGaussianDecoder(nn.Module):
    """p(x|z) = N(Wz + b, σ²I)."""

    def __init__(self, latent_dim: int, sigma: float, generator: torch.Generator) -> None:
        super().__init__()
        size = SHAPE[0] * SHAPE[1] * SHAPE[2]
        self.weight = nn.Parameter(torch.randn(size, latent_dim, generator=generator))
        self.bias = nn.Parameter(torch.randn(size, generator=generator))
        self.sigma = sigma

    def forward(self, latents: Tensor) -> Distribution:
        mean = (latents @ self.weight.T + self.bias).unflatten(-1, SHAPE)
        return Independent(Normal(mean, self.sigma, validate_args=False), 3, validate_args=False)

    def log_evidence(self, images: Tensor) -> Tensor:
        """log N(x; b, WWᵀ + σ²I)."""
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(len(self.bias))
        return MultivariateNormal(self.bias, covariance).log_prob(images.flatten(1))


class BlurredPosterior(nn.Module):
    """The exact posterior of a linear-Gaussian model, widened by a factor to make it inexact."""

    def __init__(self, decoder: LinearGaussianDecoder, widening: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.widening = widening

    def forward(self, images: Tensor) -> Distribution:
        decoder = self.decoder
        precision = torch.eye(decoder.weight.shape[1]) + decoder.weight.T @ decoder.weight / decoder.sigma**2
        covariance = torch.linalg.inv(precision)
        mean = (images.flatten(1) - decoder.bias) @ decoder.weight @ covariance / decoder.sigma**2
        spread = self.widening * covariance.diagonal().sqrt().expand_as(mean)
        return Independent(Normal(mean, spread, validate_args=False), 1, validate_args=False)


def linear_gaussian_vae(latent_dim: int, generator: torch.Generator, widening: float = 1.3) -> VAE:
    decoder = LinearGaussianDecoder(latent_dim, 0.7, generator)
    return VAE(BlurredPosterior(decoder, widening), decoder, StandardNormalPrior(latent_dim))


@dataclass
class RecordingTracker:
    """Keeps what is logged; figures must be on the disk by then. `on_row` gets the number of rows after each."""

    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    figures: list[tuple[int, dict[str, Path]]] = field(default_factory=list)
    lists: list[tuple[int, dict[str, Sequence[float]]]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    on_row: Callable[[int], None] = lambda count: None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(metrics)))
        self.on_row(len(self.lines))

    def log_figures(self, figures: Mapping[str, Path], step: int) -> None:
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.values())
        self.figures.append((step, dict(figures)))

    def log_lists(self, lists: Mapping[str, Sequence[float]], step: int) -> None:
        self.lists.append((step, dict(lists)))

    def warn(self, title: str, text: str) -> None:
        self.warnings.append((title, text))

    def column(self, name: str) -> list[float]:
        """The values of a metric, of the rows that have it."""
        return [row[name] for _, row in self.lines if name in row]

    def rows(self) -> list[dict[str, float]]:
        """The rows with their steps and without times."""
        return [{"step": step, **without_times(row)} for step, row in self.lines]


@dataclass
class RecordingEvaluator:
    """Yields results, and keeps the images, the draw and the weights of every call."""

    every_n_epochs: int | None = 1
    results: Mapping[str, Any] = field(default_factory=lambda: {"probe": 1.0})
    images: list[ImageSet] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, Any]]:
        self.images.append(images)
        self.draws.append(torch.rand((), generator=generator).item())
        self.weights.append(weights(vae))
        yield from self.results.items()


@dataclass
class SignalAtStep(NullProgress):
    """Sends this process a signal in a certain step."""

    at: int
    number: int = signal.SIGINT
    steps: int = 0

    def step(self, metrics: Mapping[str, float] | None) -> None:
        self.steps += 1
        if self.steps == self.at:
            signal.raise_signal(self.number)


def adam(parameters: Any) -> Optimizer:
    return Adam(parameters, lr=0.02)


def halving(optimizer: Optimizer) -> StepLR:
    """A learning rate that halves after every epoch."""
    return StepLR(optimizer, step_size=1, gamma=0.5)


def trainer_options(**changes: Any) -> TrainerOptions:
    """An epoch in batches of two, as plain as it can be but for what is said."""
    plain: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 2,
        "reduction": "sum",
        "seed": 0,
        "monitor": "train/loss",
        "patience": None,
        "min_delta": 0.0,
        "execution": "auto",
        "steps_per_graph": 1,
        "precision": "fp32",
        "max_grad_norm": None,
        "ema_decay": None,
        "warn_posterior_collapse": False,
        "checkpoint_every_n_epochs": 1,
        "checkpoint_every_n_seconds": None,
    }
    return TrainerOptions(**plain | changes)


def make_trainer(
    directory: Path,
    *,
    train: ImageSet,
    val: ImageSet | None = None,
    vae: VAE | None = None,
    loss: Loss | None = None,
    optimizer: Callable[[Any], Optimizer] = adam,
    scheduler: Callable[[Optimizer], Any] = lambda optimizer: None,
    evaluators: Mapping[str, Any] | None = None,
    trackers: Sequence[Any] = (),
    dist: DistributedContext | None = None,
    **options: Any,
) -> Trainer:
    """A trainer of a small VAE; what is not said is as plain as it can be."""
    vae = (vae or small_vae()).to(train.device)
    val = train.take(0) if val is None else val
    made = optimizer(vae.parameters())
    monitor = "val/loss" if len(val) else "train/loss"
    settings = {"epochs": 2, "batch_size": 4, "seed": 3, "reduction": "mean", "monitor": monitor}
    return Trainer(
        vae=vae,
        loss=loss or ELBO(),
        optimizer=made,
        scheduler=scheduler(made),
        train=train,
        val=val,
        evaluators=evaluators or {},
        trackers=trackers,
        directory=RunDirectory(directory),
        options=trainer_options(**settings | options),
        checkpoint_metadata={"config_hash": "0123abcd"},
        dist=dist,
    )


def make_train_step(
    model_with_loss: nn.Module,
    optimizer: Optimizer,
    images: ImageSet,
    sizes: list[int],
    dist: DistributedContext | None = None,
    **options: Any,
) -> TrainStep:
    """A step over the images in their order."""
    dist = dist or DistributedContext()
    loader, order = DeviceLoader(images, sizes[0]), torch.arange(sum(sizes), device=images.device)
    loader.start_epoch(dist.local_indices(order, sizes), [dist.local_batch_size(size) for size in sizes], 0)
    plain = {"reduction": "sum", "max_grad_norm": None, "dynamic_binarization": False, "ema": None}
    return TrainStep(
        model_with_loss=model_with_loss,
        parameters=[weight for group in optimizer.param_groups for weight in group["params"]],
        optimizer=optimizer,
        loader=loader,
        generator=make_generator(5, "noise", images.device),
        loss_buffer=EpochLossBuffer(len(sizes), loader.batch_index),
        dist=dist,
        **plain | options,
    )


def fit(trainer: Trainer, progress: ProgressDisplay | None = None) -> Trainer:
    """Train to the end, listening to signals."""
    with GracefulShutdown() as shutdown:
        trainer.fit(shutdown, progress or NullProgress())
    return trainer


def weights(vae: VAE) -> Tensor:
    """All of them, one after another, on the CPU."""
    return torch.cat([each.detach().flatten().cpu() for each in vae.parameters()])


def stored_weights(state: Mapping[str, Tensor]) -> Tensor:
    """As `weights`, of what a checkpoint holds."""
    return torch.cat([each.flatten().cpu() for each in state.values()])
