"""The same net in a plain loop that shares nothing with the package but weights, batches and noise."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.builders import trainer_options
from vae_exp.data.images import ImageSet
from vae_exp.engine.progress import LogProgress
from vae_exp.engine.seeding import make_generator
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.storage.run_directory import RunDirectory

SHAPE, HIDDEN, LATENT, BATCH, STEPS, SEED = (1, 28, 28), 500, 2, 100, 20, 0


class PlainVAE(nn.Module):
    """The minimalist VAE: two heads, sigmoid outputs."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.e_hidden = nn.Linear(784, HIDDEN)
        self.e_mean, self.e_log_variance = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.d_hidden, self.d_image = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, 784)
        heads = vae.encoder.posterior.mean_and_log_variance
        with torch.no_grad():
            for mine, theirs in (
                (self.e_hidden, vae.encoder.hidden[0]),
                (self.d_hidden, vae.decoder.hidden[0]),
                (self.d_image, vae.decoder.output),
            ):
                mine.weight.copy_(theirs.weight)
                mine.bias.copy_(theirs.bias)
            for mine, rows in ((self.e_mean, slice(0, LATENT)), (self.e_log_variance, slice(LATENT, None))):
                mine.weight.copy_(heads.weight[rows])
                mine.bias.copy_(heads.bias[rows])


def plain_losses(
    net: PlainVAE, images: torch.Tensor, noise: torch.Tensor, orders: list[torch.Tensor]
) -> list[float]:
    """Twenty steps of the minimalist VAE: images already scaled, everything summed."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    for step, rows in enumerate(orders):
        x = images[rows]
        hidden = F.relu(net.e_hidden(x))
        mean, log_variance = net.e_mean(hidden), net.e_log_variance(hidden)
        z = noise[step] * torch.exp(0.5 * log_variance) + mean
        reconstruction = torch.sigmoid(net.d_image(F.relu(net.d_hidden(z))))
        cross_entropy = F.binary_cross_entropy(reconstruction, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss = cross_entropy + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class RecordingELBO(ELBO):
    def __init__(self) -> None:
        super().__init__(num_samples=1)
        self.losses: list[float] = []

    def __call__(self, vae, batch, noise):
        terms = super().__call__(vae, batch, noise)
        self.losses.append(terms.loss.sum().item())
        return terms


def test_twenty_steps_are_those_of_a_plain_loop(tmp_path):
    torch.manual_seed(SEED)
    strokes = torch.rand(STEPS * BATCH, 1, 7, 7).pow(3)
    pixels = (F.interpolate(strokes, scale_factor=4, mode="bilinear") * 255).to(torch.uint8)
    images = ImageSet(pixels, None, 255)
    vae = VAE(
        MLPEncoder(SHAPE, LATENT, [HIDDEN], "relu"),
        MLPDecoder(SHAPE, LATENT, [HIDDEN], "relu"),
        StandardNormalPrior(LATENT),
    )
    plain = PlainVAE(vae)
    order = torch.randperm(len(images), generator=make_generator(SEED, "shuffle", torch.device("cpu")))
    draws = make_generator(SEED, "noise", torch.device("cpu"))
    noise = torch.stack([torch.randn(1, BATCH, LATENT, generator=draws)[0] for _ in range(STEPS)])
    expected = plain_losses(plain, pixels.flatten(1) / 255, noise, list(order.split(BATCH)))

    loss = RecordingELBO()
    trainer = Trainer(
        vae=vae,
        loss=loss,
        optimizer=torch.optim.Adam(vae.parameters(), lr=1e-3, weight_decay=1e-5),
        scheduler=None,
        train=images,
        val=images.take(0),
        evaluators={},
        trackers=[],
        directory=RunDirectory(tmp_path),
        options=trainer_options(batch_size=BATCH, seed=SEED),
        checkpoint_metadata={},
    )
    trainer.fit(GracefulShutdown(), LogProgress(1))

    assert len(loss.losses) == STEPS
    assert expected[0] > 1.2 * expected[-1]
    torch.testing.assert_close(torch.tensor(loss.losses), torch.tensor(expected), rtol=1e-5, atol=0)
