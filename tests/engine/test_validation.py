"""Validation is the loss over the held-out images in batches of training, however many are scored at once."""

from dataclasses import replace

import pytest
import torch

from tests.builders import CPU, grey_images, small_vae
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.validation import Validator
from vae_exp.objective.beta_vae import BetaVAE, CapacityVAE, FreeBits
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE, MIWAE
from vae_exp.objective.schedules import LossSchedules


@pytest.mark.quick(11)
@pytest.mark.parametrize(
    "loss",
    [ELBO(), ELBO(3), BetaVAE(2.0), IWAE(4), MIWAE(2, 3), FreeBits(0.5), CapacityVAE(2.0, 1.0, over="batch")],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("batch_size", [3, 7, 1200])
@torch.no_grad()
def test_it_is_the_mean_over_batches_of_training(loss, batch_size):
    vae, images, passes = small_vae(), grey_images(2300 if batch_size > 3 else 31), []
    vae.encoder.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    metrics = Validator(vae, loss, LossSchedules(loss, CPU), images, batch_size, 5).run(GracefulShutdown())
    assert (max(passes[1:]) > batch_size) == (isinstance(loss, ELBO | BetaVAE | IWAE) and batch_size < 1000)
    noise, total = make_generator(5, "evaluation", CPU), torch.zeros(3, dtype=torch.float64)
    for batch in images.batches(batch_size):
        terms = loss(vae, batch, noise)
        total += torch.stack([terms.loss, terms.distortion, terms.rate]).double().sum(dim=1)
    expected = (total / len(images)).tolist()
    shown = [metrics[f"val/{name}"] for name in ("loss", "distortion", "rate")]
    assert shown == pytest.approx(expected, rel=1e-6)


class CoupledELBO(ELBO):
    """A user's loss, in which an image counts more in a larger batch."""

    def __call__(self, vae, batch, generator):
        terms = super().__call__(vae, batch, generator)
        return replace(terms, loss=terms.loss * len(batch))


@pytest.mark.parametrize(("loss", "largest"), [(CoupledELBO(), 10), (IWAE(5000), 30), (MIWAE(50, 1000), 10)])
@torch.no_grad()
def test_losses_of_users_and_many_draws_are_scored_in_fewer_images(loss, largest):
    vae, passes = small_vae(), []
    vae.encoder.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    Validator(vae, loss, LossSchedules(loss, CPU), grey_images(40), 10, 5).run(GracefulShutdown())
    assert max(passes) == largest
