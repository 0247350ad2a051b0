from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.distributions import Independent

from vae_exp.model.decoders import ConvDecoder, MLPDecoder
from vae_exp.model.encoders import ConvEncoder, MLPEncoder

ENCODERS = [MLPEncoder, ConvEncoder, partial(ConvEncoder, residual_blocks=1)]
DECODERS = [MLPDecoder, ConvDecoder, partial(ConvDecoder, residual_blocks=1)]
shapes = st.tuples(st.sampled_from([1, 3]), st.integers(1, 33), st.integers(1, 33))
names = st.sampled_from(["relu", "gated"])
widths = st.lists(st.integers(1, 9), max_size=3)


def _built(net, *arguments):
    """A net; shapes that it refuses to normalise say nothing of it."""
    try:
        return net(*arguments)
    except ValueError as error:
        assume("would normalise alone" not in str(error))
        raise


@pytest.mark.parametrize("encoder", ENCODERS)
@settings(max_examples=25)
@given(shape=shapes, hidden=widths, latent_dim=st.integers(1, 5), batch=st.integers(1, 3), activation=names)
def test_an_encoder_gives_a_posterior_for_every_image(encoder, shape, hidden, latent_dim, batch, activation):
    posterior = _built(encoder, shape, latent_dim, hidden, activation)(torch.rand(batch, *shape))
    assert isinstance(posterior, Independent)
    assert posterior.batch_shape == (batch,)
    assert posterior.event_shape == (latent_dim,)
    assert (posterior.stddev > 0).all()


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=25)
@given(
    shape=shapes,
    hidden=widths,
    latent_dim=st.integers(1, 5),
    leading=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    activation=names,
)
def test_a_decoder_gives_a_likelihood_for_every_latent(decoder, shape, hidden, latent_dim, leading, activation):
    likelihood = _built(decoder, shape, latent_dim, hidden, activation)(torch.randn(*leading, latent_dim))
    assert list(likelihood.batch_shape) == leading
    assert likelihood.event_shape == shape
    assert likelihood.log_prob(torch.rand(*leading, *shape)).shape == tuple(leading)


@pytest.mark.parametrize("decoder", DECODERS)
def test_samples_are_decoded_as_they_would_be_alone(decoder, generator):
    torch.manual_seed(0)
    net = decoder((1, 5, 6), 3, [4, 8], "tanh")
    latents = torch.randn(2, 4, 3, generator=generator)
    together = net(latents).mean
    for sample in range(2):
        for image in range(4):
            alone = net(latents[sample, image][None]).mean[0]
            torch.testing.assert_close(together[sample, image], alone, rtol=1e-5, atol=1e-6)


def test_hidden_widths_are_listed_from_the_image_inwards():
    encoder, decoder = MLPEncoder((1, 4, 4), 2, [10, 6], "relu"), MLPDecoder((1, 4, 4), 2, [10, 6], "relu")
    assert [layer.out_features for layer in encoder.hidden if hasattr(layer, "out_features")] == [10, 6]
    assert [layer.out_features for layer in decoder.hidden if hasattr(layer, "out_features")] == [6, 10]
    encoder, decoder = ConvEncoder((1, 8, 8), 2, [4, 6], "relu"), ConvDecoder((1, 8, 8), 2, [4, 6], "relu")
    inwards = [each for each in encoder.modules() if isinstance(each, torch.nn.Conv2d)]
    outwards = [each for each in decoder.modules() if isinstance(each, torch.nn.ConvTranspose2d)]
    assert [(each.in_channels, each.out_channels) for each in inwards] == [(1, 4), (4, 6)]
    assert [(each.in_channels, each.out_channels) for each in outwards] == [(6, 4), (4, 1)]


@pytest.mark.parametrize("part", [*ENCODERS, *DECODERS])
def test_no_hidden_layers_make_a_linear_part(part):
    module = part((1, 4, 4), 2, [], "relu")
    assert not any(isinstance(each, torch.nn.ReLU) for each in module.modules())


def test_the_minimalist_net_has_its_number_of_parameters():
    encoder, decoder = MLPEncoder((1, 28, 28), 2, [500], "relu"), MLPDecoder((1, 28, 28), 2, [500], "relu")
    count = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
    assert count == (784 * 500 + 500) + 2 * (500 * 2 + 2) + (2 * 500 + 500) + (500 * 784 + 784)
