"""The 8×8 handwritten digits inside scikit-learn: no network, no files."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from vae_exp.data.images import ImageSet

TEST_SIZE = 360


class DigitsSource:
    """1,797 scans with grey values 0 to 16 (Alpaydin & Kaynak 1998, the UCI set's test part).

    The set has no official split: the last 360 images, in scikit-learn's order, are the test images.
    """

    def train(self) -> ImageSet:
        """The first 1,437 images, `[1437, 1, 8, 8]`."""
        return _digits(slice(None, -TEST_SIZE))

    def test(self) -> ImageSet:
        """The last 360 images, `[360, 1, 8, 8]`."""
        return _digits(slice(-TEST_SIZE, None))


def _digits(part: slice) -> ImageSet:
    table = np.loadtxt(_file(), delimiter=",", dtype=np.uint8)  # a row per image: 64 grey values, then the digit
    return ImageSet(
        pixels=torch.from_numpy(table[part, :-1]).reshape(-1, 1, 8, 8),
        labels=torch.from_numpy(table[part, -1]).to(torch.int64),
        pixel_max=16,
    )


def _file() -> Path:
    """The file inside scikit-learn; importing its loader takes one to two seconds."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency"
    assert package.origin is not None, "scikit-learn is a package with a file"
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
