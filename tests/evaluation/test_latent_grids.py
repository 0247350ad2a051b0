import torch
from scipy.stats import norm

from tests.builders import SHAPE, bernoulli_vae
from vae_exp.data.images import Batch, ImageSet
from vae_exp.evaluation.latent_grids import interpolations, latent_means, manifold, most_active_units, traversals


def test_the_manifold_is_decoded_at_the_quantiles_of_the_prior():
    vae = bernoulli_vae(2)
    images, axis = manifold(vae, 5)
    expected = norm.ppf([0.025, 0.2625, 0.5, 0.7375, 0.975])
    torch.testing.assert_close(axis.double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert images.shape == (5, 5, *SHAPE)
    bottom_right = torch.tensor([[axis[-1], axis[0]]])
    torch.testing.assert_close(images[-1, -1], vae.decode(bottom_right).mean[0])
    top_left = torch.tensor([[axis[0], axis[-1]]])
    torch.testing.assert_close(images[0, 0], vae.decode(top_left).mean[0])


def test_a_traversal_moves_one_unit_and_holds_the_others(generator):
    vae = bernoulli_vae(4)
    start = Batch(torch.rand(1, *SHAPE, generator=generator))
    images, values = traversals(vae, start, torch.tensor([2, 0]), 7)
    latent = vae.encode(start.images).mean[0].clone()
    latent[2] = values[5]
    torch.testing.assert_close(images[0, 5], vae.decode(latent[None]).mean[0])
    assert images.shape == (2, 7, *SHAPE)


def test_interpolations_begin_and_end_at_the_reconstructions(generator):
    vae = bernoulli_vae(3)
    first, second = torch.rand(2, 4, *SHAPE, generator=generator)
    between = interpolations(vae, Batch(first), Batch(second), 6)
    assert between.shape == (4, 6, *SHAPE)
    torch.testing.assert_close(between[:, 0], vae.reconstruct(first))
    torch.testing.assert_close(between[:, -1], vae.reconstruct(second))
    halfway = (vae.encode(first).mean + vae.encode(second).mean) / 2
    middle = interpolations(vae, Batch(first), Batch(second), 7)[:, 3]
    torch.testing.assert_close(middle, vae.decode(halfway).mean)


def test_the_most_active_units_vary_most():
    means = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1, 3.0, 2.0])
    assert most_active_units(means, 3).tolist() == [2, 3, 0]


def test_latent_means_join_batches(generator):
    vae = bernoulli_vae(3)
    images = ImageSet(torch.rand(1003, *SHAPE, generator=generator), None, 1)
    means, deviations = latent_means(vae, images)
    assert means.shape == deviations.shape == (1003, 3)
    torch.testing.assert_close(means[1000:], vae.encode(images.batch(slice(1000, None)).images).mean)
