"""One of several processes on this machine: `python -m tests.engine.distributed_member FOLDER`.

It saves its results in the folder, as `RANK.pt`.
"""

import signal
import socket
import sys
from math import nan
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist

from tests.builders import CPU, SHAPE, fit, grey_images, make_trainer, small_vae, weights
from vae_exp.data.images import Batch
from vae_exp.engine.distributed import DistributedContext, init_distributed
from vae_exp.errors import DivergedError, Interrupted, UserError
from vae_exp.model.vae import VAE
from vae_exp.model.vq import UniformCodesPrior, VQDecoder, VQEncoder
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms
from vae_exp.objective.vq import VQ


def codes_vae() -> VAE:
    """With entries that follow the encoder's outputs and are often restarted."""
    torch.manual_seed(0)
    encoder = VQEncoder(SHAPE, 5, 2, [4], "relu", codebook_decay=0.8, restart_below=0.6)
    return VAE(encoder, VQDecoder(SHAPE, 2, [4], "relu"), UniformCodesPrior())


# eleven images: batches of 4, 4 and 3
TRAINING: dict[str, dict[str, Any]] = {
    "sum": {"reduction": "sum", "max_grad_norm": 5.0},
    "mean": {"reduction": "mean", "max_grad_norm": 0.1, "ema_decay": 0.8, "val": grey_images(5, seed=1)},
    "streamed": {"reduction": "mean", "train": grey_images(11).stream_to(CPU)},
    "codes": {"make_vae": codes_vae, "loss": VQ(position_reduction="sum")},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def train(name: str, folder: Path, dist: DistributedContext, **changes: Any) -> dict[str, Any]:
    """Two epochs, and what came of them."""
    settings = {"train": grey_images(11)} | TRAINING.get(name, {}) | changes
    vae = settings.pop("make_vae", small_vae)()
    trainer = make_trainer(folder / name, vae=vae, dist=dist, **settings)
    fit(trainer)
    metrics = {key: value for key, value in trainer.state.metrics.items() if not key.startswith("time/")}
    average = torch.zeros(0)
    if trainer._ema is not None:
        average = torch.cat([weight.flatten() for weight in trainer._ema.state_dict().values()])
    state = torch.cat([weights(vae), *(value.flatten() for _, value in vae.named_buffers())])
    return {"weights": state, "average": average, "metrics": metrics, "step": trainer.state.global_step}


class Disturbed(ELBO):
    """A loss whose fourth call in one of the processes has a signal or is not a number."""

    def __init__(self, rank: int, by: str) -> None:
        super().__init__()
        self._rank, self._by, self._calls = rank, by, 0

    def __call__(self, vae: VAE, batch: Batch, noise: torch.Generator) -> LossTerms:
        self._calls += 1
        terms = super().__call__(vae, batch, noise)
        if self._rank != 1 or self._calls != 4:
            return terms
        if self._by == "signal":
            signal.raise_signal(signal.SIGTERM)
            return terms
        return LossTerms(terms.loss * nan, terms.distortion * nan, terms.rate)


def run_all(folder: Path, dist: DistributedContext) -> dict[str, Any]:
    """Training, and what the processes exchange."""
    results: dict[str, Any] = {name: train(name, folder, dist) for name in TRAINING}
    sums = torch.full((3,), float(dist.rank + 1))
    dist.all_reduce_sum(sums)
    results["sum of ranks"] = sums.tolist()
    results["agreed"] = [dist.any_rank_flag(flag) for flag in (0, 15 * dist.rank, 0, 2 - dist.rank, 0)]
    results["shared"] = dist.run_on_main_and_broadcast(lambda: {"made by": dist.rank})
    for name, by in (("interrupted", "signal"), ("diverged", "nan")):
        try:
            train(name, folder, dist, loss=Disturbed(dist.rank, by))
        except (Interrupted, DivergedError) as error:
            results[name] = f"{type(error).__name__}: {error}"
    try:
        train("single", folder, dist, train=grey_images(9))
    except UserError as error:
        results["single"] = str(error)
    return results


def run_member(folder: Path) -> None:
    torch.set_num_threads(1)
    dist = init_distributed("ddp", CPU)
    results = run_all(folder / str(dist.rank), dist)
    torch.save(results, folder / f"{dist.rank}.pt")
    dist.shutdown()
    assert not torch_dist.is_initialized()


if __name__ == "__main__":
    run_member(Path(sys.argv[1]))
