"""Fréchet distance between the features of images and of samples."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance

from vae_exp.argument_checks import check_int, check_optional_int
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import bernoulli
from vae_exp.errors import UserError
from vae_exp.evaluation.requirements import is_bernoulli, require_images, scored_images
from vae_exp.model.vae import VAE
from vae_exp.storage.atomic_io import absolute_path

_log = logging.getLogger(__name__)
_BATCH = 200
_MIN_IMAGES = 2
_MAX_TRAINING_IMAGES = 10_000
_FEATURES = 64
_SEED = 0  # of the classifier: runs with different seeds are compared on the same features


class FIDEvaluator:
    """The Fréchet distance of Heusel et al. 2017 between images of the split and as many samples, by torchmetrics.

    Samples are mean images E[x|z] of draws from the prior; where the images are black and white and the
    likelihood is a Bernoulli, pixels are drawn too. With a file the features are what its program
    returns, and the distance is `fid`; comparable with published ones only if they used the very same features.
    Without one, they are the last hidden layer of a small classifier that is trained on the images of the
    split, and the distance is `classifier_frechet_distance`: it compares models on the same data, and nothing
    else. Without labels and without a file there is no distance.

    Args:
        features: A file written by `torch.export.save`: images `[batch, channels, height, width]` in [0, 1] →
            features `[batch, size]`; None trains the classifier.
        num_images: How many images of the split, a random subset (`scored_images`), and samples; None for all.
        epochs: Training epochs of the classifier.
        every_n_epochs: Interval during training; None runs it once, at the end.

    Raises:
        ValueError: if a count is below its minimum.
        UserError: if the file cannot be read.
    """

    def __init__(
        self, features: str | None, num_images: int | None, epochs: int, every_n_epochs: int | None
    ) -> None:
        self.every_n_epochs = check_optional_int("every_n_epochs", every_n_epochs)
        self._num_images = check_optional_int("num_images", num_images, _MIN_IMAGES)
        self._epochs = check_int("epochs", epochs)
        self._features = None if features is None else load_features("evaluator.fid.features", features)

    def check(self, vae: VAE, images: ImageSet) -> None:
        """Refuse so few images that they have no covariance."""
        require_images("fid", images, self._num_images, _MIN_IMAGES)

    @torch.no_grad()
    def run(self, vae: VAE, images: ImageSet, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """Yield a name and a value."""
        name, features = "fid", self._features
        if features is None:
            if images.labels is None or len(images.labels.unique()) < 2:
                _log.warning("evaluator.fid: neither a file of features nor two labels to train a classifier on.")
                return
            name, features = "classifier_frechet_distance", trained_classifier(images, self._epochs)
        images = scored_images("fid", images, self._num_images)
        features = features.to(images.device)
        distance = FrechetInceptionDistance(_Sized(features, images)).to(images.device)
        pixels_are_drawn = images.is_binary() and is_bernoulli(vae, images)
        for batch in images.batches(_BATCH):
            samples = vae.sample(len(batch), generator, batch.labels)
            distance.update(batch.images, real=True)
            distance.update(bernoulli(samples, generator) if pixels_are_drawn else samples, real=False)
        yield name, distance.compute().item()
        yield "fid_images", len(images)


class SmallClassifier(nn.Module):
    """Two convolutions and a hidden layer, whose activations are the features.

    Args:
        image_shape: `[channels, height, width]`.
        classes: How many classes there are.
    """

    def __init__(self, image_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Conv2d(image_shape[0], 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            _AdaptiveAveragePool(4),
            nn.Flatten(),
            nn.Linear(32 * 16, _FEATURES),
            nn.ReLU(),
        )
        self.output = nn.Linear(_FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1] → features `[batch, 64]`."""
        features: Tensor = self.hidden(images)
        return features


class _AdaptiveAveragePool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products: torch has no deterministic gradient of it on CUDA."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        rows, columns = (self._weights(length).to(maps) for length in maps.shape[-2:])
        return rows.T @ maps @ columns

    def _weights(self, length: int) -> Tensor:
        """The weight of each of `length` positions in each mean, `[length, size]`."""
        return functional.adaptive_avg_pool1d(torch.eye(length), self.size)


@torch.enable_grad()
def trained_classifier(images: ImageSet, epochs: int) -> SmallClassifier:
    """A classifier trained on at most 10,000 images, which depends on the images and not on the run's seed.

    Args:
        images: With labels.
        epochs: Passes over them.
    """
    images = images.random_subset(_MAX_TRAINING_IMAGES)
    assert images.labels is not None
    classes, labels = images.labels.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)  # leaves the seeds of devices alone
        net = SmallClassifier(images.image_shape, len(classes))
    net.to(images.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for rows in order.split(100):
            optimizer.zero_grad()
            scores = net.output(net(images.batch(rows).images))
            functional.cross_entropy(scores, labels[rows]).backward()
            optimizer.step()
    net.eval().requires_grad_(False)
    return net


class _Sized(nn.Module):
    """Features with the attribute `num_features`, for which torchmetrics would try images of another size."""

    def __init__(self, features: nn.Module, images: ImageSet) -> None:
        super().__init__()
        self.features = features
        output = features(images.take(2).batch().images)
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != min(2, len(images)):
            kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(f"evaluator.fid.features returns {kind} for two images; expected [2, size].")
        self.num_features = output.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


def load_features(key: str, path: str) -> nn.Module:
    """The program of a file that `torch.export.save` has written.

    Args:
        key: The key that names the file.
        path: The file.

    Raises:
        UserError: if it cannot be read.
    """
    file = absolute_path(key, path)
    if not file.exists():  # torch would log a traceback
        raise UserError(f"{key}={file} does not exist.")
    try:
        return torch.export.load(file).module()
    except Exception as error:  # damaged files raise errors of any kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{key}={file} is not a program that torch.export.save has written: {reason}") from error
