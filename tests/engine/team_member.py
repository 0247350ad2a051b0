"""One process of a team on this machine: `python -m tests.engine.team_member FOLDER`.

It leaves in the folder what it found, as `RANK.pt`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.builders import CPU, fit, grey_images, make_trainer, small_vae, weights
from vae_exp.engine.distributed import DistributedContext, init_distributed
from vae_exp.errors import DivergedError, Interrupted, UserError
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

# eleven images: batches of 4, 4 and 3
TRAINING: dict[str, dict[str, Any]] = {
    "sum": {"reduction": "sum", "gradient_clip": 5.0},
    "mean": {"reduction": "mean", "gradient_clip": 0.1, "ema_decay": 0.8, "val": grey_images(5, seed=1)},
    "streamed": {"reduction": "mean", "train": grey_images(11).streamed_to(CPU)},
}


def train(name: str, folder: Path, team: DistributedContext, **changes: Any) -> dict[str, Any]:
    """Two epochs, and what came of them."""
    vae = small_vae()
    trainer = make_trainer(
        folder / name, vae=vae, team=team, **({"train": grey_images(11)} | TRAINING.get(name, {}) | changes)
    )
    fit(trainer)
    metrics = {key: value for key, value in trainer.position.metrics.items() if not key.startswith("time/")}
    average = torch.zeros(0)
    if trainer._average is not None:
        average = torch.cat([each.flatten() for each in trainer._average.state_dict().values()])
    return {"weights": weights(vae), "average": average, "metrics": metrics, "step": trainer.position.step}


class Signals:
    """A loss during which one of the processes gets a signal."""

    def __init__(self, rank: int) -> None:
        self._rank, self._calls, self._elbo = rank, 0, ELBO()

    def __call__(self, vae: VAE, images: Tensor, noise: torch.Generator) -> LossTerms:
        self._calls += 1
        if self._rank == 1 and self._calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._elbo(vae, images, noise)


class Spoils:
    """A loss that is not a number in one process alone."""

    def __init__(self, rank: int) -> None:
        self._rank, self._calls, self._elbo = rank, 0, ELBO()

    def __call__(self, vae: VAE, images: Tensor, noise: torch.Generator) -> LossTerms:
        self._calls += 1
        terms = self._elbo(vae, images, noise)
        scale = float("nan") if self._rank == 1 and self._calls == 4 else 1.0
        return LossTerms(terms.loss * scale, terms.distortion * scale, terms.rate)


def findings(folder: Path, team: DistributedContext) -> dict[str, Any]:
    """Training, and what the processes tell each other."""
    found: dict[str, Any] = {name: train(name, folder, team) for name in TRAINING}
    sums = torch.full((3,), float(team.rank + 1))
    team.sum(sums)
    found["sum of ranks"] = sums.tolist()
    found["agreed"] = [team.agree(each) for each in (0, 15 * team.rank, 0, 2 - team.rank, 0)]
    found["shared"] = team.share(lambda: {"made by": team.rank})
    for name, loss in (("interrupted", Signals(team.rank)), ("diverged", Spoils(team.rank))):
        try:
            train(name, folder, team, loss=loss)
        except (Interrupted, DivergedError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    try:
        train("single", folder, team, train=grey_images(9))
    except UserError as error:
        found["single"] = str(error)
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team = init_distributed("ddp", CPU)
    found = findings(folder / str(team.rank), team)
    torch.save(found, folder / f"{team.rank}.pt")
    team.disband()
    assert not dist.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
