"""The variance that `gaussian_optimal` is evaluated with, against the optimum found from the definition."""

from math import log

import pytest
import torch

from tests.builders import RecordingTracker, fit, make_trainer, weights
from vae_exp.data.digits import DigitsSource
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import rsample
from vae_exp.engine import optimal_variance
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.engine.optimal_variance import OptimalVariance
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.likelihoods import OptimalGaussianLikelihood
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE

PIXELS = 64


def digits_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(
        MLPEncoder((1, 8, 8), 4, [32], "tanh"),
        MLPDecoder((1, 8, 8), 4, [32], "tanh", OptimalGaussianLikelihood()),
        StandardNormalPrior(4),
    )


def mean_squared_error(vae: VAE, images: ImageSet, repeats: int) -> float:
    generator = torch.Generator().manual_seed(8)
    pixels, total = images.batch().images, 0.0
    for _ in range(repeats):
        means = vae.decode(rsample(vae.encode(pixels), generator)).mean
        total += (pixels - means).square().mean().item()
    return total / repeats


class NatsLeft:
    """How much better the images would be scored by the σ² that is best for the training images."""

    every_n_epochs = 1

    def __init__(self, train: ImageSet) -> None:
        self._train = train

    def run(self, vae, images, generator):
        error = mean_squared_error(vae, images, 4)
        best = mean_squared_error(vae, self._train, 4)  # where d/dv (log v + error / v) = 0
        used = float(vae.decoder.likelihood.variance)
        yield "left", PIXELS / 2 * (log(used / best) + error / used - error / best)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_less_than_a_fifth_of_a_nat_is_left_from_the_first_epoch_on(tmp_path, ema_decay):
    digits, tracker = DigitsSource().train(), RecordingTracker()
    train, val = digits.subset(torch.arange(1000)), digits.subset(torch.arange(1000, 1437))
    trainer = make_trainer(
        tmp_path,
        train=train,
        val=val,
        vae=digits_vae(),
        evaluators={"left": NatsLeft(train)},
        trackers=[tracker],
        epochs=5,
        batch_size=100,
        ema_decay=ema_decay,
    )
    fit(trainer)
    left = tracker.column("val/left")
    assert len(left) == 5
    assert all(abs(nats) < 0.2 for nats in left)
    stored = load_checkpoint(tmp_path / "checkpoints" / "last.pt", torch.device("cpu"))["vae"]
    assert stored["decoder.likelihood.variance"] == trainer.vae.decoder.likelihood.variance


def test_training_is_the_same_whatever_the_variance_of_evaluation(tmp_path):
    """An epoch's end changes `variance`, which no step reads."""
    train = DigitsSource().train().subset(torch.arange(200))
    one, other = (
        make_trainer(tmp_path / name, train=train, vae=digits_vae(), epochs=2, batch_size=50) for name in "ab"
    )
    other._variance.update = lambda shutdown: None
    assert torch.equal(weights(fit(one).vae), weights(fit(other).vae))


def test_a_bounded_number_of_images_stands_for_all_of_them(monkeypatch):
    """Sorted data, as files often are: the first images alone would have a far smaller error."""
    monkeypatch.setattr(optimal_variance, "_MAX_IMAGES", 400)
    torch.manual_seed(1)
    pixels = torch.cat([torch.full((1000, 1, 8, 8), 0.5), torch.rand(1000, 1, 8, 8)])
    images, vae, scored = ImageSet(pixels, None, 1), digits_vae(), []
    encode = vae.encode
    vae.encode = lambda images, labels=None: scored.append(len(images)) or encode(images)
    with GracefulShutdown() as shutdown:
        OptimalVariance(vae, images, 150, 3).update(shutdown)
    assert sum(scored) == 400
    truth = mean_squared_error(vae, images, 1)
    assert vae.decoder.likelihood.variance.item() == pytest.approx(truth, rel=0.1)
    assert mean_squared_error(vae, images.take(400), 1) < 0.7 * truth
