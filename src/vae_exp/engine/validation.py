"""The loss on the held-out images after an epoch."""

import torch
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.engine.device import matmul_precision
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.model.vae import VAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.objective.schedules import LossSchedules


class Validator:
    """Computes the training loss on the held-out images, with the same noise every time.

    Scheduled values are those at the end of their schedules, so that epochs can be compared.

    Args:
        vae: The model.
        loss: The training loss.
        schedules: Of the loss.
        images: Held out; may be empty.
        batch_size: Images per forward pass.
        seed: Of the noise.
    """

    def __init__(
        self, vae: VAE, loss: Loss, schedules: LossSchedules, images: ImageSet, batch_size: int, seed: int
    ) -> None:
        self._vae, self._loss, self._schedules = vae, loss, schedules
        self._images = images
        self._batch_size = batch_size
        self._seed = seed

    @torch.no_grad()
    def run(self, shutdown: GracefulShutdown) -> dict[str, float]:
        """Compute the mean terms as `val/…`, in nats per image; none where no image is held out.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, before the next batch.
        """
        if not len(self._images):
            return {}
        self._vae.eval()
        noise = make_generator(self._seed, "evaluation", self._images.device)
        sums = []
        with self._schedules.at_end(), matmul_precision(self._vae, "fp32"):
            for batch in self._images.batches(self._batch_size):
                shutdown.raise_if_requested()
                terms = self._loss(self._vae, batch, noise)
                sums.append(torch.stack([terms.loss, terms.distortion, terms.rate]).sum(dim=1))
        totals = torch.stack(sums).cpu().double().sum(dim=0)  # the only wait for the device
        return loss_term_metrics("val", totals / len(self._images))


def loss_term_metrics(split: str, means: Tensor) -> dict[str, float]:
    """Mean loss, distortion and rate `[3]` by name, with the ELBO that follows from them."""
    loss, distortion, rate = means.tolist()
    return {
        f"{split}/loss": loss,
        f"{split}/elbo": -(distortion + rate),
        f"{split}/distortion": distortion,
        f"{split}/rate": rate,
    }
