"""How weights start."""

import math

import pytest
import torch
from torch import nn

from vae_exp.data.images import ImageSet
from vae_exp.model.decoders import ConvDecoder, MLPDecoder
from vae_exp.model.encoders import ConvEncoder, MLPEncoder
from vae_exp.model.initialization import init_bias_to_data_mean, initialize
from vae_exp.model.likelihoods import CategoricalLikelihood, FixedGaussianLikelihood

SHAPE = (1, 28, 28)


@pytest.mark.parametrize("make", [MLPEncoder, MLPDecoder, ConvEncoder, ConvDecoder])
def test_glorots_weights_are_uniform_within_his_bound_and_biases_zero(make):
    torch.manual_seed(0)
    module = make(SHAPE, 50, [200, 100], "tanh")
    initialize(module, "glorot_uniform")
    layers = [each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    assert len(layers) == 3
    for layer in layers:
        field = math.prod(layer.weight.shape[2:])
        outputs, inputs = layer.weight.shape[:2]
        if layer is layers[-1] and make in (MLPEncoder, ConvEncoder):  # a layer for means and one for variances
            outputs = outputs / 2
        bound = math.sqrt(6 / (field * (outputs + inputs)))
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert not layer.bias.any()


@pytest.mark.parametrize("make", [MLPEncoder, MLPDecoder, ConvEncoder, ConvDecoder])
def test_the_halves_of_gated_layers_are_initialized_as_layers_of_their_own(make):
    torch.manual_seed(0)
    module = make(SHAPE, 50, [200, 100], "gated")
    initialize(module, "glorot_uniform")
    layers = [each for each in module.modules() if getattr(each, "halves", 1) == 2]
    assert len(layers) >= 2
    for layer in layers:
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        shape = list(layer.weight.shape)
        field, outputs, inputs = math.prod(shape[2:]), shape[axis] / 2, shape[1 - axis]
        bound = math.sqrt(6 / (field * (outputs + inputs)))
        for half in layer.weight.chunk(2, axis):
            assert half.abs().max() <= bound
            assert half.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_torchs_own_initialisation_is_left_alone():
    torch.manual_seed(0)
    module = MLPEncoder(SHAPE, 2, [5], "tanh")
    before = [each.clone() for each in module.parameters()]
    initialize(module, "default")
    assert all(map(torch.equal, before, module.parameters()))


def test_the_output_starts_at_the_mean_image_but_for_the_clip():
    decoder = MLPDecoder((1, 1, 4), 2, [5], "tanh")
    with torch.no_grad():
        decoder.output.weight.zero_()
    init_bias_to_data_mean(decoder, torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 4))
    found = decoder(torch.randn(3, 2)).mean.flatten(1)
    torch.testing.assert_close(found, torch.tensor([0.001, 0.25, 0.5, 0.999]).expand(3, 4))


@pytest.mark.parametrize(
    "decoder",
    [
        ConvDecoder(SHAPE, 2, [5], "tanh"),
        MLPDecoder(SHAPE, 2, [5], "tanh", CategoricalLikelihood(4)),
        MLPDecoder(SHAPE, 2, [5], "tanh", FixedGaussianLikelihood(0.1, sigmoid_mean=False)),
        nn.Identity(),
    ],
)
def test_a_decoder_without_one_logit_for_each_value_is_refused(decoder):
    with pytest.raises(
        ValueError, match=r"model\.output_bias=data_mean needs a decoder with a linear layer 'output'"
    ):
        init_bias_to_data_mean(decoder, torch.full(SHAPE, 0.5))


def test_the_mean_image_is_that_of_all_images():
    pixels = torch.randint(256, (10_003, 2, 3, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ImageSet(pixels, None, 255).mean(), pixels.float().mean(0) / 255)
