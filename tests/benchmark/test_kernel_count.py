import torch
from torch.optim import Adam

from tests.builders import trainer_options
from vae_exp.benchmark.kernel_count import launched_kernels
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


def test_views_and_allocations_launch_nothing():
    def step() -> None:
        rows = torch.empty(4, 6).view(6, 4).t()[:2].detach()
        rows.fill_(1.0).add_(rows)
        rows.sum().item()

    assert launched_kernels(step) == ["fill_", "add_", "sum"]


def test_a_step_of_the_minimalist_vae_on_a_gpu_has_at_most_54_kernels(tmp_path, monkeypatch):
    """19 of the layers, 8 of the likelihood, 14 of the draw with its rate, 4 to load, 6 to record, 3 to update."""
    monkeypatch.setattr(bernoulli, "summed_by_products", bernoulli.summed_by_softplus)  # the way of CUDA
    vae = VAE(MLPEncoder(SHAPE, 2, [500], "relu"), MLPDecoder(SHAPE, 2, [500], "relu"), StandardNormalPrior(2))
    images = ImageSet(torch.zeros(40, *SHAPE, dtype=torch.uint8))
    trainer = Trainer(
        vae=vae,
        loss=ELBO(),
        optimizer=Adam([FlatParameter(list(vae.parameters()))], weight_decay=1e-5, fused=True),
        scheduler=None,
        train=images,
        val=images.take(0),
        directory=RunDirectory(tmp_path),
        options=trainer_options(batch_size=10),
    )
    trainer.run_steps(2)
    kernels = launched_kernels(lambda: trainer.run_steps(1))
    of_the_host = kernels.pop()  # the mean of the progress bar, which a GPU computes every 32 steps
    assert of_the_host == "div"
    assert len(kernels) <= 54, kernels
