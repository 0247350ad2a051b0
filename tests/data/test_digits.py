import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vae_exp.data.digits import DigitsSource


@pytest.fixture(scope="module")
def oracle():
    return load_digits()


@pytest.mark.parametrize(("part", "count"), [("train", 1437), ("test", 360)])
def test_digits_are_small_integers_of_one_channel(part, count):
    images = getattr(DigitsSource(), part)()
    assert len(images) == count
    assert images.image_shape == [1, 8, 8]
    assert images.pixels.dtype == torch.uint8
    assert images.pixel_max == 16
    assert images.pixels.max() == 16
    assert images.labels.dtype == torch.int64


def test_train_then_test_are_scikit_learn_s_images_in_their_order(oracle):
    source = DigitsSource()
    scaled = torch.cat([source.train().batch(), source.test().batch()])
    np.testing.assert_array_equal(scaled[:, 0].numpy(), oracle.images / 16)


def test_train_then_test_are_scikit_learn_s_labels(oracle):
    source = DigitsSource()
    labels = torch.cat([source.train().labels, source.test().labels])
    np.testing.assert_array_equal(labels.numpy(), oracle.target)
