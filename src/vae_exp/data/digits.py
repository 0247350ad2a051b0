"""Handwritten digits, 8×8, that come inside scikit-learn: no network, no files."""

import torch

from vae_exp.data.images import ImageSet

TEST_SIZE = 360


class DigitsSource:
    """1,797 scans with grey values 0 to 16 (Alpaydin & Kaynak 1998, the UCI set's test part).

    The set has no official split of its own: here the last 360 images, as scikit-learn lists them, are the test
    images.
    """

    def train(self) -> ImageSet:
        """The first 1,437 images, `[1437, 1, 8, 8]`."""
        return _digits(slice(None, -TEST_SIZE))

    def test(self) -> ImageSet:
        """The last 360 images, `[360, 1, 8, 8]`."""
        return _digits(slice(-TEST_SIZE, None))


def _digits(part: slice) -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return ImageSet(
        pixels=torch.from_numpy(digits.images[part]).to(torch.uint8).unsqueeze(1),
        labels=torch.from_numpy(digits.target[part]).to(torch.int64),
        pixel_max=16,
    )
