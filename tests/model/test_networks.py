import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.model.networks import ACTIVATIONS, activation_module, conv_stack, halved_sizes, transposed_conv_stack


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 65), width=st.integers(1, 65), depth=st.integers(0, 4))
def test_convolutions_halve_any_size_and_their_mirror_restores_it(height, width, depth):
    heights, widths = halved_sizes(height, depth), halved_sizes(width, depth)
    channels = [1, 2, 3, 2, 1][: depth + 1]
    features = conv_stack(channels, "relu")(torch.zeros(2, 1, height, width))
    assert features.shape == (2, channels[-1], heights[-1], widths[-1])
    mirror = transposed_conv_stack(channels[::-1], heights[::-1], widths[::-1], "relu")
    assert mirror(features).shape == (2, 1, height, width)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_a_function_of_each_value(name):
    values = torch.linspace(-2, 2, 9)
    assert activation_module(name)(values).shape == values.shape


def test_an_unknown_activation_names_those_that_exist():
    with pytest.raises(ValueError, match=r"model.activation=swish .* relu, leaky_relu"):
        activation_module("swish")
