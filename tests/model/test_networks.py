import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae_exp.model.networks import (
    ACTIVATIONS,
    ResidualBlock,
    activation_module,
    check_group_norm,
    conv_stack,
    mlp,
    strided_sizes,
    transposed_conv_stack,
)


@settings(max_examples=40)
@given(height=st.integers(1, 65), width=st.integers(1, 65), depth=st.integers(0, 4))
def test_convolutions_halve_any_size_and_their_mirror_restores_it(height, width, depth):
    heights, widths = strided_sizes(height, depth), strided_sizes(width, depth)
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
    for name in ("swish", "gated"):  # a gated layer is none of its own
        with pytest.raises(ValueError, match=rf"model.activation={name} .* relu, leaky_relu"):
            activation_module(name)


def test_a_gated_layer_is_one_layer_times_the_sigmoid_of_another():
    torch.manual_seed(0)
    net, values = mlp([3, 4], "gated"), torch.randn(5, 3)
    weight, bias = net[0].weight, net[0].bias
    expected = (values @ weight[:4].T + bias[:4]) * torch.sigmoid(values @ weight[4:].T + bias[4:])
    torch.testing.assert_close(net(values), expected)


def test_a_gated_convolution_is_gated_channel_by_channel():
    torch.manual_seed(0)
    net, images = conv_stack([2, 3], "gated"), torch.randn(4, 2, 6, 5)
    outputs = torch.nn.functional.conv2d(images, net[0].weight, net[0].bias, stride=2, padding=1)
    torch.testing.assert_close(net(images), outputs[:, :3] * outputs[:, 3:].sigmoid())


@pytest.mark.parametrize("activation", ["relu", "gated"])
def test_a_residual_block_starts_as_the_identity_and_learns(activation: str):
    torch.manual_seed(0)
    block, features = ResidualBlock(6, activation), torch.randn(2, 6, 5, 4)
    assert torch.equal(block(features), features)
    block(features).square().mean().backward()
    assert block.inner[-1].weight.grad.abs().sum() > 0


def test_a_residual_block_treats_every_image_as_it_would_alone():
    torch.manual_seed(0)
    block, features = ResidualBlock(4, "silu"), torch.randn(3, 4, 5, 5)
    torch.nn.init.normal_(block.inner[-1].weight)
    alone = torch.cat([block(each.unsqueeze(0)) for each in features])
    torch.testing.assert_close(block(features), alone, rtol=1e-4, atol=1e-5)


def test_a_residual_block_normalises_activates_and_convolves_twice():
    torch.manual_seed(0)
    block, features = ResidualBlock(8, "relu"), torch.randn(2, 8, 5, 5)
    torch.nn.init.normal_(block.inner[-1].weight)
    one, other = (each for each in block.inner if isinstance(each, torch.nn.Conv2d))
    norm = torch.nn.GroupNorm(8, 8)
    expected = features + other(torch.relu(norm(one(torch.relu(norm(features))))))
    torch.testing.assert_close(block(features), expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 8])
def test_residual_blocks_that_would_normalise_single_numbers_are_refused(channels: int):
    with pytest.raises(ValueError, match=r"model\.hidden_dims=.* comes to a map of 1x1"):
        check_group_norm([16, 16, channels], [1, 8, 8], 1)
    check_group_norm([16, 16, channels], [1, 8, 8], 0)
    check_group_norm([16, 16, channels], [1, 8, 16], 1)
    check_group_norm([channels, channels], [1, 8, 8], 1)


@pytest.mark.parametrize("channels", [3, 6, 12, 16])
def test_what_is_not_refused_trains_on_a_single_image(channels: int):
    check_group_norm([channels] * 3, [1, 8, 8], 1)
    stack = conv_stack([1, *[channels] * 3], "relu", 1).train()
    assert stack(torch.rand(1, 1, 8, 8)).shape == (1, channels, 1, 1)
