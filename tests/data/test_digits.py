import numpy as np
import torch
from sklearn.datasets import load_digits

from vae_exp.data.digits import DigitsSource


def test_train_then_test_are_scikit_learn_s_images_and_labels_in_their_order():
    train, test, oracle = DigitsSource().train(), DigitsSource().test(), load_digits()
    assert (len(train), len(test)) == (1437, 360)
    for images in (train, test):
        assert images.image_shape == [1, 8, 8]
        assert images.pixels.dtype == torch.uint8
        assert images.pixel_max == images.pixels.max() == 16
        assert images.labels.dtype == torch.int64
    np.testing.assert_array_equal(
        torch.cat([train.batch().images, test.batch().images])[:, 0].numpy(), oracle.images / 16
    )
    np.testing.assert_array_equal(torch.cat([train.labels, test.labels]).numpy(), oracle.target)
