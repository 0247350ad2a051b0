"""Every likelihood adds up to one, and agrees with scipy or torch where they have it."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from vae_exp.distributions.discretized import CategoricalLevels, DiscreteLevels, DiscretizedLogistic
from vae_exp.model.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    FixedGaussianLikelihood,
    OptimalGaussianLikelihood,
    PerPixelGaussianLikelihood,
    SharedGaussianLikelihood,
)

OF_LEVELS = [
    DiscretizedLogisticLikelihood(17),
    DiscretizedLogisticMixtureLikelihood(3, 17),
    CategoricalLikelihood(17),
]
OVER_THE_LINE = [
    FixedGaussianLikelihood(0.3),
    FixedGaussianLikelihood(0.3, sigmoid_mean=False),
    SharedGaussianLikelihood(0.2),
    OptimalGaussianLikelihood().eval(),
    PerPixelGaussianLikelihood(),
]
ALL = [*OF_LEVELS, *OVER_THE_LINE, BernoulliLikelihood(), ContinuousBernoulliLikelihood()]


def outputs(likelihood, *leading: int, seed: int = 0) -> torch.Tensor:
    """A decoder's outputs for images of [2, 3, 4]."""
    shape = (*leading, likelihood.parameters_per_value, 2, 3, 4)
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("likelihood", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("leading", [(5,), (7, 5)])
def test_outputs_become_one_distribution_over_each_image(likelihood, leading):
    distribution = likelihood(outputs(likelihood, *leading))
    assert distribution.batch_shape == leading
    assert distribution.event_shape == (2, 3, 4)
    images = torch.rand(5, 2, 3, 4).round()
    assert distribution.log_prob(images).shape == leading
    assert distribution.mean.shape == (*leading, 2, 3, 4)


@pytest.mark.parametrize("likelihood", OF_LEVELS, ids=lambda each: type(each).__name__)
def test_the_probabilities_of_all_levels_add_up_to_one(likelihood):
    pixels = likelihood(outputs(likelihood, 5)).base_dist
    levels = torch.linspace(0, 1, 17, dtype=torch.float64)
    total = torch.stack([pixels.log_prob(level.expand(5, 2, 3, 4)).exp() for level in levels]).sum(0)
    torch.testing.assert_close(total, torch.ones(5, 2, 3, 4, dtype=torch.float64))


@pytest.mark.parametrize("likelihood", OF_LEVELS, ids=lambda each: type(each).__name__)
def test_the_mean_is_the_sum_over_levels(likelihood):
    pixels = likelihood(outputs(likelihood, 5)).base_dist
    levels = torch.linspace(0, 1, 17, dtype=torch.float64)
    by_hand = sum(level * pixels.log_prob(level.expand(5, 2, 3, 4)).exp() for level in levels)
    torch.testing.assert_close(pixels.mean, by_hand)


@pytest.mark.parametrize("likelihood", OF_LEVELS, ids=lambda each: type(each).__name__)
def test_draws_have_the_frequencies_of_the_levels(likelihood):
    torch.manual_seed(0)
    pixels = likelihood(outputs(likelihood)).base_dist
    drawn = pixels.sample((20_000,))
    assert DiscreteLevels(17).check(drawn).all()
    for level in torch.linspace(0, 1, 17, dtype=torch.float64)[[0, 3, 8, 16]]:
        probability = pixels.log_prob(level.expand(2, 3, 4)).exp()
        frequency = ((drawn - level).abs() < 1e-3).double().mean(0)
        error = (probability * (1 - probability) / 20_000).sqrt()
        assert ((frequency - probability).abs() < 5 * error + 1e-9).all()


def optimal_gaussian(sigma: float) -> OptimalGaussianLikelihood:
    likelihood = OptimalGaussianLikelihood().eval()
    likelihood.set_variance(torch.tensor(sigma**2))
    return likelihood


@pytest.mark.parametrize("make", [FixedGaussianLikelihood, SharedGaussianLikelihood, optimal_gaussian])
def test_sigma_is_the_standard_deviation_of_a_pixel(make):
    likelihood = make(0.3)
    parameters = outputs(likelihood, 5)
    images = torch.rand(5, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = torch.sigmoid(parameters[:, 0]).numpy()
    truth = scipy.stats.norm(mean, 0.3).logpdf(images.numpy()).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(likelihood(parameters).log_prob(images).detach(), truth, rtol=1e-6)


@settings(max_examples=60)
@given(st.floats(-40, 40))
def test_the_continuous_bernoulli_integrates_to_one_over_the_unit_interval(logit):
    likelihood = ContinuousBernoulliLikelihood()
    places = torch.linspace(0, 1, 40_001, dtype=torch.float64)
    distribution = likelihood(torch.full((40_001, 1, 1, 1, 1), logit, dtype=torch.float64))
    density = distribution.log_prob(places.reshape(-1, 1, 1, 1)).exp()
    assert torch.trapezoid(density, places).item() == pytest.approx(1, abs=1e-6)
    assert torch.trapezoid(places * density, places).item() == pytest.approx(distribution.mean[0].item(), abs=1e-6)


@settings(max_examples=100)
@given(st.floats(-12, 12), st.floats(0, 1))
def test_the_continuous_bernoulli_is_torchs_where_torchs_is_right(logit, value):
    ours = ContinuousBernoulliLikelihood()(torch.full((1, 1, 1, 1, 1), logit, dtype=torch.float64))
    theirs = torch.distributions.ContinuousBernoulli(logits=torch.tensor(logit, dtype=torch.float64))
    place = torch.tensor(value, dtype=torch.float64)
    assert ours.log_prob(place.expand(1, 1, 1, 1)).item() == pytest.approx(theirs.log_prob(place).item(), abs=1e-5)


def test_the_continuous_bernoulli_is_right_for_large_logits_in_float32():
    """At a logit of l ≫ 1 the density is l exp(−l (1 − x))."""
    logits = torch.tensor([20.0, 50.0, -50.0, 500.0])
    value = torch.tensor([1.0, 0.9, 0.1, 1.0])
    distribution = ContinuousBernoulliLikelihood()(logits.reshape(4, 1, 1, 1, 1))
    away = torch.tensor([0.0, 0.1, 0.1, 0.0])
    expected = logits.abs().log() - logits.abs() * away
    torch.testing.assert_close(distribution.log_prob(value.reshape(4, 1, 1, 1)), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_continuous_bernoulli_keeps_its_digits_near_zero():
    """d/dl log p(x) = x − E[x]."""
    logits = torch.tensor([-0.3, -0.101, -0.099, -1e-4, 0.0, 1e-6, 0.05, 0.1, 3.0], requires_grad=True)
    distribution = ContinuousBernoulliLikelihood()(logits.reshape(9, 1, 1, 1, 1))
    [found] = torch.autograd.grad(distribution.log_prob(torch.full((9, 1, 1, 1), 0.75)).sum(), logits)
    exact = ContinuousBernoulliLikelihood()(logits.detach().double().reshape(9, 1, 1, 1, 1)).mean.flatten()
    torch.testing.assert_close(found.double(), 0.75 - exact, rtol=1e-5, atol=1e-6)


LOGITS = [-500.0, -60.0, -17.0, -1.01, -0.99, -0.002, -1e-4, 0.0, 5e-4, 0.3, 3.0, 20.0, 100.0]


def truncated_exponential(logit: float) -> tuple[scipy.stats.rv_continuous, bool]:
    """Scipy's density ∝ exp(−|l| y) over [0, 1], and whether x is 1 − y; uniform for l near zero."""
    if abs(logit) < 1e-3:
        return scipy.stats.uniform(), False
    return scipy.stats.truncexpon(abs(logit), scale=1 / abs(logit)), logit > 0


@pytest.mark.parametrize("logit", LOGITS)
def test_the_variance_of_the_continuous_bernoulli_is_scipys_in_float32(logit):
    parameter = torch.tensor(logit, requires_grad=True)
    variance = ContinuousBernoulliLikelihood()(parameter.expand(1, 1, 1, 1, 1)).variance
    assert variance.item() == pytest.approx(truncated_exponential(logit)[0].var(), rel=2e-5)
    assert torch.autograd.grad(variance.sum(), parameter)[0].isfinite()


@pytest.mark.parametrize("logit", LOGITS)
def test_draws_of_the_continuous_bernoulli_are_distributed_as_scipys(logit):
    torch.manual_seed(0)
    drawn = ContinuousBernoulliLikelihood()(torch.full((1, 1, 1, 1), logit)).sample((20_000,)).flatten().double()
    truth, mirrored = truncated_exponential(logit)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert scipy.stats.kstest(1 - drawn if mirrored else drawn, truth.cdf).pvalue > 1e-3


@settings(max_examples=100)
@given(st.floats(-2, 3), st.floats(1e-4, 10), st.sampled_from([2, 17, 256]), st.data())
def test_the_discretised_logistic_is_a_difference_of_scipys_distribution_functions(loc, scale, levels, data):
    level = data.draw(st.integers(0, levels - 1))
    step = 1 / (levels - 1)
    found = DiscretizedLogistic(
        torch.tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64), levels
    ).log_prob(torch.tensor(level * step, dtype=torch.float64))
    logistic = scipy.stats.logistic(loc, scale)
    low, high = level * step - step / 2, level * step + step / 2
    if level == 0:
        expected = logistic.logcdf(high)
    elif level == levels - 1:
        expected = logistic.logsf(low)
    else:
        tail = (
            (logistic.logcdf(high), logistic.logcdf(low))
            if low < loc
            else (logistic.logsf(low), logistic.logsf(high))
        )
        expected = tail[0] + np.log(-np.expm1(tail[1] - tail[0])) if tail[1] < tail[0] else -np.inf
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_discretised_logistic_loses_nothing_far_out_in_float32():
    """Where the difference of two float32 sigmoids is zero; the truth is in float64."""
    value = torch.linspace(0, 1, 256)
    narrow = [torch.tensor(0.9), torch.tensor(1e-3)]
    found = DiscretizedLogistic(*narrow, 256).log_prob(value)
    truth = DiscretizedLogistic(*(each.double() for each in narrow), 256).log_prob(value.double())
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-4)
    assert truth.min() < -500


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_gradients_of_the_discretised_logistic_agree_with_finite_differences(levels):
    loc = torch.tensor([0.2, 0.5, 0.98], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.01, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    for level in (0, levels // 2, levels - 1):
        value = torch.full((3,), level / (levels - 1), dtype=torch.float64)
        assert torch.autograd.gradcheck(
            lambda a, b, v=value: DiscretizedLogistic(a, b, levels).log_prob(v), (loc, scale)
        )


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_discretised_logistic_has_gradients_at_every_scale_in_float32(levels):
    """P of an inner level → δ/(4 s) for s → ∞, so that d log P/d log s → −1; the ends have ½ each."""
    log_scale = torch.tensor([-100.0, 20.0, 29.0, 85.0, 200.0], requires_grad=True)
    for level in {0, levels // 2, levels - 1}:
        parameters = torch.stack([torch.zeros(5), log_scale]).reshape(1, 2, 1, 1, 5)
        pixels = DiscretizedLogisticLikelihood(levels)(parameters)
        density = pixels.base_dist.log_prob(torch.full((1, 1, 1, 5), level / (levels - 1))).flatten()
        [gradient] = torch.autograd.grad(density.sum(), log_scale)
        assert gradient.isfinite().all()
        inner = 0 < level < levels - 1
        torch.testing.assert_close(gradient[1:3], torch.full((2,), -1.0 if inner else 0.0), rtol=1e-4, atol=1e-6)
        if not inner:
            torch.testing.assert_close(density[1:], torch.full((4,), -math.log(2)))


def test_the_mixture_is_the_weighted_sum_of_its_components():
    likelihood = DiscretizedLogisticMixtureLikelihood(3, 17)
    parameters = outputs(likelihood, 5)
    image = torch.randint(17, (5, 2, 3, 4), generator=torch.Generator().manual_seed(1)) / 16
    total = torch.zeros(5, dtype=torch.float64)
    for place in np.ndindex(2, 3, 4):
        logits = parameters[:, 0:3][(slice(None), slice(None), *place)].numpy()
        location = parameters[:, 3:6][(slice(None), slice(None), *place)]
        log_scale = parameters[:, 6:9][(slice(None), slice(None), *place)]
        each = DiscretizedLogistic((location + 1) / 2, log_scale.clamp(min=-7).exp() / 2, 17)
        values = each.log_prob(image[(slice(None), *place)].double().unsqueeze(-1)).numpy()
        total += torch.from_numpy(logsumexp(logits - logsumexp(logits, axis=1, keepdims=True) + values, axis=1))
    torch.testing.assert_close(likelihood(parameters).log_prob(image.double()), total)


def test_the_categorical_is_torchs_cross_entropy():
    likelihood = CategoricalLikelihood(256)
    parameters = outputs(likelihood, 5)
    levels = torch.randint(256, (5, 2, 3, 4), generator=torch.Generator().manual_seed(1))
    expected = -torch.nn.functional.cross_entropy(parameters, levels, reduction="none").flatten(1).sum(1)
    images = (levels / 255).double()  # the way that pixels are scaled, in float32
    torch.testing.assert_close(likelihood(parameters).log_prob(images), expected)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_the_fixed_gaussian_is_scipys(sigma):
    likelihood = FixedGaussianLikelihood(sigma)
    parameters, images = outputs(likelihood, 5), torch.rand(5, 2, 3, 4, dtype=torch.float64)
    mean = 1 / (1 + np.exp(-parameters[:, 0].numpy()))
    expected = scipy.stats.norm(mean, sigma).logpdf(images.numpy()).sum(axis=(1, 2, 3))
    torch.testing.assert_close(likelihood(parameters).log_prob(images), torch.from_numpy(expected))


def test_the_per_pixel_gaussian_is_scipys():
    likelihood = PerPixelGaussianLikelihood(min_sigma=0.5, sigmoid_mean=False)
    parameters, images = outputs(likelihood, 5), torch.rand(5, 2, 3, 4, dtype=torch.float64)
    scale = np.maximum(np.exp(parameters[:, 1].numpy()), 0.5)
    expected = scipy.stats.norm(parameters[:, 0].numpy(), scale).logpdf(images.numpy()).sum(axis=(1, 2, 3))
    torch.testing.assert_close(likelihood(parameters).log_prob(images), torch.from_numpy(expected))


def test_the_optimal_sigma_is_the_best_of_all():
    likelihood = OptimalGaussianLikelihood(sigmoid_mean=False)
    parameters, images = outputs(likelihood, 5), torch.rand(5, 2, 3, 4, dtype=torch.float64)
    best = likelihood(parameters).log_prob(images).sum().item()
    error = (images - parameters[:, 0]).square().mean().item()
    for sigma in (0.9 * error**0.5, error**0.5, 1.1 * error**0.5):
        fixed = FixedGaussianLikelihood(sigma, sigmoid_mean=False)(parameters).log_prob(images).sum().item()
        assert fixed <= best + 1e-9
    size = 5 * 2 * 3 * 4
    assert best == pytest.approx(-size / 2 * (math.log(2 * math.pi * error) + 1))  # Rybkin et al., equation 9
    assert likelihood.variance.item() == pytest.approx(error, rel=1e-5)


def test_holding_the_optimal_sigma_fixed_does_not_change_the_gradient():
    likelihood = OptimalGaussianLikelihood(sigmoid_mean=False)
    parameters = outputs(likelihood, 5).requires_grad_()
    images = torch.rand(5, 2, 3, 4, dtype=torch.float64)
    [found] = torch.autograd.grad(likelihood(parameters).log_prob(images).sum(), parameters)
    error = (images - parameters[:, 0]).square().mean()
    [expected] = torch.autograd.grad(-images.numel() / 2 * error.log(), parameters)
    torch.testing.assert_close(found, expected)


def gradients_of_bound(num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of −log (1/K) Σₖ N(x; μₖ, σ²) by μ, σ² the mean square of all errors: ours, and written out."""
    likelihood = OptimalGaussianLikelihood(sigmoid_mean=False)
    parameters = outputs(likelihood, num_samples, 5).requires_grad_()
    images = torch.rand(5, 2, 3, 4, dtype=torch.float64)
    bound = likelihood(parameters).log_prob(images).logsumexp(dim=0).sum()
    [found] = torch.autograd.grad(bound, parameters)
    squares = (images - parameters[:, :, 0]).square().flatten(2)
    variance = squares.mean()
    densities = -squares.sum(dim=-1) / (2 * variance) - 12 * variance.log()  # 24 values of an image
    [truth] = torch.autograd.grad(densities.logsumexp(dim=0).sum(), parameters)
    return found, truth


def test_the_optimal_sigma_has_another_gradient_under_weighted_draws():
    """Why `build_loss` refuses the pairing: one draw is exact, several are not."""
    found, truth = gradients_of_bound(1)
    torch.testing.assert_close(found, truth)
    found, truth = gradients_of_bound(5)
    assert (found - truth).norm() > 0.05 * truth.norm()


def test_configs_of_earlier_versions_name_a_momentum():
    assert OptimalGaussianLikelihood(momentum=0.01, sigmoid_mean=False).sigmoid_mean is False


def test_the_optimal_sigma_is_that_of_training_when_others_are_scored():
    likelihood = OptimalGaussianLikelihood(sigmoid_mean=False).eval()
    parameters = outputs(likelihood, 5)
    near = likelihood(parameters).log_prob(parameters[:, 0])
    expected = scipy.stats.norm(0, 1).logpdf(0) * 24  # the variance is still 1, however small these errors
    torch.testing.assert_close(near, torch.full((5,), expected, dtype=torch.float64))


def test_the_shared_sigma_is_learned():
    likelihood = SharedGaussianLikelihood(1.0)
    parameters = outputs(likelihood, 5)
    (-likelihood(parameters).log_prob(torch.sigmoid(parameters[:, 0]) + 0.1).sum()).backward()
    assert likelihood.log_sigma.grad.item() > 0  # errors of 0.1 want a σ below 1


def test_categorical_levels_are_the_nearest_ones():
    levels = CategoricalLevels(torch.randn(256))
    for level in range(256):
        scaled = torch.tensor(level, dtype=torch.uint8).to(torch.float32).div_(255)
        assert levels.log_prob(scaled) == levels.logits[level]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FixedGaussianLikelihood(0.0), "sigma=0.0 must be a finite number greater than 0"),
        (lambda: SharedGaussianLikelihood(-1.0), "initial_sigma=-1.0"),
        (lambda: SharedGaussianLikelihood(1e-3), "initial_sigma=0.001 must be a finite number greater than 0.001"),
        (
            lambda: FixedGaussianLikelihood(0.1, sigmoid_mean="maybe"),
            "sigmoid_mean=maybe must be one of true, false",
        ),
        (lambda: PerPixelGaussianLikelihood(0.0), "min_sigma=0.0"),
        (lambda: DiscretizedLogisticLikelihood(1), "levels=1 must be a whole number of at least 2"),
        (lambda: DiscretizedLogisticMixtureLikelihood(0), "components=0 must be a whole number of at least 1"),
        (lambda: CategoricalLikelihood(1), "levels=1"),
    ],
)
def test_values_out_of_range_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_mean_of_many_values_is_that_of_each():
    loc, scale = torch.rand(3, 2**14), torch.rand(3, 2**14) * 0.1 + 1e-3
    mean = DiscretizedLogistic(loc, scale, 17).mean
    assert mean.shape == loc.shape
    part = mean[2, -5:]
    torch.testing.assert_close(part, DiscretizedLogistic(loc[2, -5:], scale[2, -5:], 17).mean)
    levels = torch.linspace(0, 1, 17)[:, None]
    probabilities = DiscretizedLogistic(loc[2, -5:], scale[2, -5:], 17).log_prob(levels).exp()
    torch.testing.assert_close(part, (levels * probabilities).sum(0), atol=1e-5, rtol=1e-4)
