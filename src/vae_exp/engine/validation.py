"""The loss on the held-out images after an epoch."""

from math import prod

import torch
from torch import Tensor

from vae_exp.data.images import ImageSet
from vae_exp.distributions.gaussian import DiagonalGaussian
from vae_exp.distributions.sampling import Draw, NoiseTape
from vae_exp.engine.device import matmul_precision
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE
from vae_exp.objective.loss_terms import Loss
from vae_exp.objective.schedules import LossSchedules

_IMAGES_AT_ONCE, _VALUES_AT_ONCE = 1000, 1_000_000


class Validator:
    """Computes the training loss on the held-out images, with the same noise every time.

    Scheduled values are those at the end of their schedules, so that epochs can be compared. Where loss and model
    score each image on its own, 1,000 images are scored at once, fewer if all draws of one have more than 1,000
    values, with the noise of batches of `batch_size`.

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
        self._batches_at_once = 1
        self._draws: list[Draw] | None = None  # of a batch; known at the first validation

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
            if self._draws is None:
                self._draws = self._note_draws()
            for batch in self._images.batches(self._batches_at_once * self._batch_size):
                shutdown.raise_if_requested()
                terms = self._loss(self._vae, batch, self._noise_of(len(batch), noise))
                sums.append(torch.stack([terms.loss, terms.distortion, terms.rate]).sum(dim=1))
        totals = torch.stack(sums).cpu().double().sum(dim=0)  # the only wait for the device
        return loss_term_metrics("val", totals / len(self._images))

    def _note_draws(self) -> list[Draw]:
        """What is drawn for a batch where several can be scored at once; nothing where they cannot.

        That is where a loss averages over its batch, or where other draws than z ~ q(z|x) may be made.
        """
        batch = self._images.batch(slice(0, 2))
        is_ours = type(self._loss).__module__.startswith(
            "vae_exp.objective."
        )  # a subclass may average over a batch
        is_alone = is_ours and isinstance(self._loss, ELBO | BetaVAE | IWAE) and type(self._vae) is VAE
        if not is_alone or not isinstance(self._vae.encode(batch.images), DiagonalGaussian):
            return []
        tape = NoiseTape(device=self._images.device)
        self._loss(self._vae, batch, tape)
        values = max(prod(shape[:-2]) for _, shape in tape.noted) * prod(self._images.image_shape)
        images = min(_IMAGES_AT_ONCE, _VALUES_AT_ONCE // values)
        self._batches_at_once = max(1, images // self._batch_size)
        return tape.noted

    def _noise_of(self, count: int, generator: torch.Generator) -> torch.Generator:
        """The noise of so many images, drawn for one batch of training after another."""
        if self._batches_at_once == 1 or not self._draws:
            return generator
        sizes = [min(self._batch_size, count - start) for start in range(0, count, self._batch_size)]
        kind = {"generator": generator, "device": generator.device}
        batches = [[draw((*shape[:-2], size, shape[-1]), **kind) for draw, shape in self._draws] for size in sizes]
        return NoiseTape([torch.cat(same, dim=-2) for same in zip(*batches, strict=True)], generator.device)


def loss_term_metrics(split: str, means: Tensor) -> dict[str, float]:
    """Mean loss, distortion and rate `[3]` by name, with the ELBO that follows from them."""
    loss, distortion, rate = means.tolist()
    return {
        f"{split}/loss": loss,
        f"{split}/elbo": -(distortion + rate),
        f"{split}/distortion": distortion,
        f"{split}/rate": rate,
    }
