import torch

from tests.builders import SHAPE, bernoulli_vae


def test_reconstruction_decodes_the_posterior_mean_and_not_a_draw(generator):
    vae = bernoulli_vae(2)
    images = torch.rand(4, *SHAPE, generator=generator)
    expected = torch.sigmoid(vae.decoder.output(vae.decoder.hidden(vae.encode(images).mean))).reshape(4, *SHAPE)
    torch.testing.assert_close(vae.reconstruct(images), expected)
    torch.testing.assert_close(vae.reconstruct(images), vae.reconstruct(images), rtol=0, atol=0)


def test_samples_are_images_and_follow_from_the_generator():
    vae = bernoulli_vae(2)
    first, again, other = (vae.sample(6, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (6, *SHAPE)
    assert ((first >= 0) & (first <= 1)).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_greyscale_values_are_scored_by_cross_entropy(generator):
    vae = bernoulli_vae(2)
    images = torch.rand(3, *SHAPE, generator=generator)
    likelihood = vae.decode(torch.randn(3, 2, generator=generator))
    probabilities = likelihood.mean
    expected = (images * probabilities.log() + (1 - images) * (1 - probabilities).log()).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.log_prob(images), expected, rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite():
    vae = bernoulli_vae(2, scale=1e4)
    images = torch.ones(2, *SHAPE)
    assert vae.decode(torch.tensor([[50.0, 50.0], [-50.0, 3.0]])).log_prob(images).isfinite().all()
