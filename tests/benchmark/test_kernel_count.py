from pathlib import Path

import torch
from torch.optim import Adam

from tests.builders import trainer_options
from vae_exp.benchmark.kernel_count import launched_kernels
from vae_exp.benchmark.stack_loop import StackLoop
from vae_exp.data import batch_loader
from vae_exp.data.images import ImageSet
from vae_exp.distributions import bernoulli
from vae_exp.engine.flat_parameter import FlatParameter
from vae_exp.engine.trainer import Trainer
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.storage.run_directory import RunDirectory

SHAPE = (1, 28, 28)
IMAGES = ImageSet(torch.zeros(40, *SHAPE, dtype=torch.uint8))


def test_views_and_allocations_launch_nothing():
    def step() -> None:
        rows = torch.empty(4, 6).view(6, 4).t()[:2].detach()
        rows.fill_(1.0).add_(rows)
        rows.sum().item()

    assert launched_kernels(step) == ["fill_", "add_", "sum"]


def test_a_step_of_the_minimalist_vae_on_a_gpu_has_at_most_52_kernels(tmp_path, monkeypatch):
    """19 of the layers, 8 of the likelihood, 14 of the draw with its rate, 3 to load, 5 to record, 3 to update."""
    monkeypatch.setattr(bernoulli, "summed_by_products", bernoulli.summed_by_softplus)  # the way of CUDA
    monkeypatch.setattr(batch_loader, "_fits_as_floats", lambda images: True)
    trainer = minimalist_trainer(tmp_path, flat=True)
    trainer.run_steps(2)
    kernels = launched_kernels(lambda: trainer.run_steps(1))
    of_the_host = kernels.pop()  # the mean of the progress bar, which a GPU computes every 32 steps
    assert of_the_host == "div"
    assert len(kernels) <= 52, kernels


def test_a_step_of_a_stack_has_at_most_50_kernels_and_two_of_noise_for_each_member(tmp_path, monkeypatch):
    monkeypatch.setattr(bernoulli, "summed_by_products", bernoulli.summed_by_softplus)
    for size in (2, 5):
        stack = StackLoop(minimalist_vae(), [minimalist_trainer(tmp_path, flat=False) for _ in range(size)])
        stack.run_steps(2)
        kernels = launched_kernels(lambda stack=stack: stack.run_steps(1))
        assert kernels.count("randn") == size
        assert len(kernels) - 2 * size <= 50, kernels


def minimalist_vae() -> VAE:
    return VAE(MLPEncoder(SHAPE, 2, [500], "relu"), MLPDecoder(SHAPE, 2, [500], "relu"), StandardNormalPrior(2))


def minimalist_trainer(directory: Path, *, flat: bool) -> Trainer:
    vae = minimalist_vae()
    weights = [FlatParameter(list(vae.parameters()))] if flat else list(vae.parameters())
    return Trainer(
        vae=vae,
        loss=ELBO(),
        optimizer=Adam(weights, weight_decay=1e-5, fused=True),
        scheduler=None,
        train=IMAGES,
        val=IMAGES.take(0),
        directory=RunDirectory(directory),
        options=trainer_options(batch_size=10),
    )
