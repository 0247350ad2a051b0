from math import exp, log1p

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Independent, kl_divergence

from vae_exp.distributions.bernoulli import (
    LogitBernoulli,
    SummedBernoulli,
    summed_by_products,
    summed_by_softplus,
)
from vae_exp.distributions.sampling import sample

ROUNDING = 2.0**-24  # of float32, relative to one
shapes = st.sampled_from(
    [
        ((), ()),
        ((3,), (3,)),
        ((4, 3), (3,)),
        ((3,), (4, 3)),
        ((5, 1, 3), (4, 1)),
        ((2, 1, 1, 2), (3, 1, 2)),
        ((0,), ()),
    ]
)


def pair(dtype: torch.dtype, shapes_: tuple[tuple[int, ...], tuple[int, ...]], seed: int) -> tuple[Tensor, Tensor]:
    """Logits of either sign and values between 0 and 1, both ends among them."""
    drawn = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(shapes_[0], generator=drawn, dtype=dtype)
    values = (1.5 * torch.rand(shapes_[1], generator=drawn, dtype=dtype) - 0.25).clamp(0, 1)
    return logits, values


@settings(max_examples=80)
@given(shapes, st.integers(0, 2**31))
def test_log_prob_is_that_of_torch_in_double_precision(shapes_, seed):
    logits, values = pair(torch.float64, shapes_, seed)
    expected = Bernoulli(logits=logits, validate_args=False).log_prob(values)
    found = LogitBernoulli(logits=logits, validate_args=False).log_prob(values)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@settings(max_examples=80)
@given(shapes, st.integers(0, 2**31))
def test_gradients_are_those_of_torch(shapes_, seed):
    logits, values = pair(torch.float64, shapes_, seed)

    def gradients(family: type[Bernoulli]) -> tuple[Tensor, ...]:
        one, other = logits.clone().requires_grad_(), values.clone().requires_grad_()
        log_prob = family(logits=one, validate_args=False).log_prob(other)
        weight = torch.linspace(-1, 2, log_prob.numel(), dtype=log_prob.dtype).reshape(log_prob.shape)
        return torch.autograd.grad((weight * log_prob).sum(), (one, other))

    found, expected = gradients(LogitBernoulli), gradients(Bernoulli)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("one", "other"), [((3,), (3,)), ((2, 3), (3,)), ((3, 1), (2, 1, 4))])
def test_first_and_second_derivatives_are_those_of_the_function(one, other):
    logits, values = pair(torch.float64, (one, other), 0)

    def log_prob(logits: Tensor, values: Tensor) -> Tensor:
        return LogitBernoulli(logits=logits, validate_args=False).log_prob(values)

    inputs = (logits.requires_grad_(), values.requires_grad_())
    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradgradcheck(log_prob, inputs)


@pytest.mark.parametrize("wanted", ["logits", "values"])
def test_a_gradient_is_computed_where_it_is_wanted(wanted: str):
    given_ = dict(zip(("logits", "values"), pair(torch.float64, ((3,), (3,)), 0), strict=True))
    given_[wanted].requires_grad_()
    LogitBernoulli(logits=given_["logits"], validate_args=False).log_prob(given_["values"]).sum().backward()
    assert {name for name, each in given_.items() if each.grad is not None} == {wanted}


@settings(max_examples=200)
@given(
    st.floats(min_value=-(2.0**13), max_value=2.0**13, width=32),
    st.one_of(st.sampled_from([0.0, 1.0]), st.floats(min_value=0.0, max_value=1.0, width=32)),
)
def test_in_single_precision_it_is_within_some_roundings_of_the_truth(logit: float, value: float):
    truth = value * logit - max(logit, 0.0) - log1p(exp(-abs(logit)))
    found = LogitBernoulli(logits=torch.tensor(logit)).log_prob(torch.tensor(value)).item()
    assert abs(found - truth) <= 4 * ROUNDING * (1 + abs(logit))


@settings(max_examples=200)
@given(st.floats(min_value=-60, max_value=60, width=32), st.sampled_from([0.0, 1.0]))
def test_in_single_precision_black_and_white_are_a_rounding_from_the_truth(logit: float, value: float):
    found = LogitBernoulli(logits=torch.tensor(logit)).log_prob(torch.tensor(value)).item()
    exact = Bernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    expected = exact.log_prob(torch.tensor(value, dtype=torch.float64)).item()
    assert abs(found - expected) <= 2 * ROUNDING * max(1.0, abs(expected))


@pytest.mark.parametrize("logit", [-3e38, -1e4, -104.0, -0.0, 0.0, 104.0, 1e4, 3e38])
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_extreme_logits_have_finite_densities_and_gradients(logit: float, value: float):
    logits = torch.tensor([logit], requires_grad=True)
    found = LogitBernoulli(logits=logits).log_prob(torch.tensor([value]))
    found.sum().backward()
    expected = value * logit - max(logit, 0.0) - (0.6931472 if logit == 0 else 0.0)
    torch.testing.assert_close(found.item(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(logits.grad.item(), value - (0.5 if logit == 0 else float(logit > 0)))


def test_a_logit_that_is_not_a_number_stays_visible():
    assert LogitBernoulli(logits=torch.tensor(float("nan")), validate_args=False).log_prob(torch.ones(())).isnan()


def test_logits_and_values_are_left_as_they_are():
    logits, values = pair(torch.float32, ((4, 3), (3,)), 0)
    copies = logits.clone(), values.clone()
    LogitBernoulli(logits=logits).log_prob(values)
    assert torch.equal(logits, copies[0])
    assert torch.equal(values, copies[1])


def test_its_gradient_can_be_differentiated_again():
    logits, values = pair(torch.float64, ((4, 3), (4, 3)), 0)

    def score(logits: Tensor) -> Tensor:
        return LogitBernoulli(logits=logits, validate_args=False).log_prob(values)

    assert torch.autograd.gradgradcheck(score, (logits.detach().requires_grad_(),))


def test_it_is_a_bernoulli_in_every_other_way(generator):
    logits = torch.tensor([[-1.0, 0.5], [2.0, 0.0]])
    mine, theirs = LogitBernoulli(logits=logits), Bernoulli(logits=logits)
    torch.testing.assert_close(mine.mean, theirs.mean)
    torch.testing.assert_close(mine.entropy(), theirs.entropy())
    assert torch.equal(kl_divergence(mine, theirs), torch.zeros(2, 2))
    assert torch.equal(sample(mine, generator, (9,)), sample(theirs, torch.Generator().manual_seed(1), (9,)))
    torch.testing.assert_close(
        LogitBernoulli(probs=theirs.probs).log_prob(torch.ones(2)), theirs.log_prob(torch.ones(2))
    )


def test_it_can_be_expanded_inside_independent():
    logits = torch.tensor([[-1.0, 0.5]])
    expanded = Independent(LogitBernoulli(logits=logits), 1).expand((3,))
    expected = Independent(Bernoulli(logits=logits.expand(3, 2)), 1).log_prob(torch.ones(3, 2))
    torch.testing.assert_close(expanded.log_prob(torch.ones(3, 2)), expected)


# An image at once


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 5, 7), (3, 8, 8), (1, 1, 1), (1, 32, 32)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("binary", [True, False])
def test_an_image_is_scored_as_the_sum_of_its_pixels(shape: tuple[int, int, int], spread: float, binary: bool):
    torch.manual_seed(0)
    logits, images = spread * torch.randn(4, 3, *shape), torch.rand(3, *shape)
    images = images.round() if binary else images
    exact = images.double() * logits.double() - torch.nn.functional.softplus(logits.double())
    found = SummedBernoulli(LogitBernoulli(logits=logits, validate_args=False), 3, validate_args=False)
    with torch.no_grad():
        torch.testing.assert_close(found.log_prob(images).double(), exact.sum(dim=(2, 3, 4)), rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("score", [summed_by_products, summed_by_softplus])
@pytest.mark.parametrize("pixels", [1, 49, 784, 3072])
@pytest.mark.parametrize("spread", [0.0, 3.0, 300.0])
def test_both_ways_to_score_agree_with_double_precision(score, pixels: int, spread: float):
    torch.manual_seed(0)
    logits, values = spread * torch.randn(5, pixels), torch.rand(5, pixels)
    exact = values.double() * logits.double() - torch.nn.functional.softplus(logits.double(), threshold=100)
    torch.testing.assert_close(score(logits, values).double(), exact.sum(dim=-1), rtol=2e-6, atol=1e-5)


def test_scoring_changes_neither_logits_nor_images():
    logits, images = torch.randn(4, 3, 1, 6, 6), torch.rand(3, 1, 6, 6)
    before = logits.clone(), images.clone()
    SummedBernoulli(LogitBernoulli(logits=logits, validate_args=False), 3, validate_args=False).log_prob(images)
    assert torch.equal(logits, before[0])
    assert torch.equal(images, before[1])


def test_gradients_are_those_of_the_pixels():
    logits, images = torch.randn(4, 3, 1, 6, 6, requires_grad=True), torch.rand(3, 1, 6, 6)
    found = SummedBernoulli(LogitBernoulli(logits=logits, validate_args=False), 3, validate_args=False)
    [gradient] = torch.autograd.grad(found.log_prob(images).sum(), logits)
    torch.testing.assert_close(gradient, images - logits.sigmoid())


def test_an_image_can_be_differentiated_twice():
    logits = torch.randn(2, 1, 2, 3, dtype=torch.float64, requires_grad=True)
    images = torch.rand(2, 1, 2, 3, dtype=torch.float64)

    def scores(logits: Tensor) -> Tensor:
        return SummedBernoulli(LogitBernoulli(logits=logits, validate_args=False), 3).log_prob(images)

    assert torch.autograd.gradgradcheck(scores, (logits,))


def test_more_images_than_latents_are_crossed():
    logits, images = torch.randn(4, 1, 1, 6, 6), torch.rand(3, 1, 6, 6)
    found = SummedBernoulli(LogitBernoulli(logits=logits, validate_args=False), 3, validate_args=False)
    crossed = found.log_prob(images)
    assert crossed.shape == (4, 3)
    alone = SummedBernoulli(LogitBernoulli(logits=logits[:, 0], validate_args=False), 3, validate_args=False)
    torch.testing.assert_close(crossed[:, 1], alone.log_prob(images[1].expand(4, 1, 6, 6)))
