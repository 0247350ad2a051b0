"""What a loss means on data, against the same in closed form."""

from functools import partial

import pytest
import torch
from torch.distributions import Independent, Normal

from tests.builders import SHAPE, bernoulli_vae, linear_gaussian_vae, noise
from tests.model.test_vq import vq_vae
from vae_exp.data.images import Batch, ImageSet
from vae_exp.errors import UserError
from vae_exp.evaluation.loss_check import LossReport, check_loss
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
    Likelihood,
)
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE
from vae_exp.objective.loss_terms import Loss, LossTerms
from vae_exp.objective.vq import VQ


def grey(count: int = 50) -> ImageSet:
    return ImageSet(torch.rand(count, *SHAPE, generator=noise(3)), None, 1)


def black_and_white(count: int = 50) -> ImageSet:
    return ImageSet(torch.rand(count, *SHAPE, generator=noise(3)).round(), None, 1)


class PerPixel:
    """The mistake of dividing the distortion by the pixels and leaving the rate as it is."""

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        terms = ELBO()(vae, batch, generator)
        return LossTerms(terms.distortion / 6 + terms.rate, terms.distortion, terms.rate)


@pytest.mark.parametrize(
    ("loss", "weight", "beta"),
    [(ELBO(), 1, 1), (BetaVAE(4.0), 1, 4), (BetaVAE(0.0), 1, 0), (PerPixel(), 1 / 6, 6)],
)
def test_the_weights_of_distortion_and_rate_are_found(loss: Loss, weight: float, beta: float):
    result = check_loss(bernoulli_vae(2), loss, grey(), noise())
    assert result.distortion_weight == pytest.approx(weight, rel=1e-4)
    assert result.effective_beta == pytest.approx(beta, abs=1e-3)


def test_a_rate_that_is_lost_in_the_rounding_of_the_loss_gives_no_beta():
    """The model of a large image: 77,000 nats of distortion, and a posterior near the prior."""

    def loss(vae: VAE, batch: Batch, generator: torch.Generator, scale: float) -> LossTerms:
        count = len(batch)
        distortion = 77_000 + 900 * torch.randn(count, generator=generator)
        rate = scale * torch.rand(count, generator=generator)
        return LossTerms(distortion + rate, distortion, rate)

    for scale in (1e-4, 1e-2, 0.1):  # the last digit of the loss is 0.008
        result = check_loss(bernoulli_vae(2), partial(loss, scale=scale), grey(256), noise())
        assert (result.distortion_weight, result.effective_beta) == (pytest.approx(1, abs=1e-4), None)
        assert "β" not in result.to_log_lines()[0]
    result = check_loss(bernoulli_vae(2), partial(loss, scale=30.0), grey(256), noise())
    assert result.effective_beta == pytest.approx(1, abs=0.01)


def test_a_loss_that_is_not_in_nats_is_reported():
    result = check_loss(bernoulli_vae(2), PerPixel(), black_and_white(), noise())
    assert len(result.warnings) == 1
    assert "The loss is 0.1667 times what it would be in nats" in result.warnings[0]


class Off:
    """A loss one of whose terms is no number for some image."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        terms = ELBO()(vae, batch, generator)
        getattr(terms, self.name)[1] = self.value
        return terms


@pytest.mark.parametrize(("name", "value"), [("rate", "nan"), ("distortion", "inf"), ("loss", "-inf")])
def test_a_loss_that_yields_no_numbers_is_refused(name: str, value: str):
    with pytest.raises(UserError, match=rf"loss \(.*\.Off\) yields {name}={value} on the first images"):
        check_loss(bernoulli_vae(2), Off(name, float(value)), grey(), noise())


def test_a_weight_beyond_single_precision_is_refused():
    with pytest.raises(UserError, match=r"BetaVAE\) yields loss=inf on the first images"):
        check_loss(bernoulli_vae(2), BetaVAE(1e40), grey(), noise())


def test_a_posterior_of_no_numbers_is_refused():
    vae = bernoulli_vae(2)
    vae.encoder.forward = lambda images: Independent(Normal(images.flatten(1)[:, :2] * float("nan"), 1.0), 1)
    with pytest.raises(UserError, match=r"loss \(.*ELBO\) (fails|yields \w+=nan) on the first images"):
        check_loss(vae, ELBO(), grey(), noise())


def test_a_bound_of_several_samples_has_no_weights():
    result = check_loss(bernoulli_vae(2), IWAE(5), grey(), noise())
    assert result.distortion_weight is None
    assert result.effective_beta is None


def test_no_bernoulli_is_below_the_entropy_of_the_grey_values():
    images = grey()
    result = check_loss(bernoulli_vae(2), ELBO(), images, noise())
    pixels = images.batch().images.double()
    best = -torch.distributions.Bernoulli(probs=pixels, validate_args=False).log_prob(pixels).sum(dim=(1, 2, 3))
    assert result.entropy_floor == pytest.approx(best.mean().item())
    assert check_loss(bernoulli_vae(2), ELBO(), black_and_white(), noise()).entropy_floor == 0


def test_the_mean_image_is_scored_as_every_image_would_be():
    images = grey()
    result = check_loss(bernoulli_vae(2), ELBO(), images, noise())
    pixels = images.batch().images.double()
    mean = torch.distributions.Bernoulli(probs=pixels.mean(dim=0), validate_args=False)
    assert result.mean_image_distortion == pytest.approx(-mean.log_prob(pixels).sum(dim=(1, 2, 3)).mean().item())


def test_images_of_one_value_have_no_entropy():
    result = check_loss(bernoulli_vae(2), ELBO(), ImageSet(torch.zeros(9, *SHAPE), None, 1), noise())
    assert (result.entropy_floor, result.mean_image_distortion) == (0, 0)


def test_a_bernoulli_on_grey_images_is_reported_and_on_black_and_white_ones_not():
    assert "losses are cross-entropies" in check_loss(bernoulli_vae(2), ELBO(), grey(), noise()).warnings[0]
    assert check_loss(bernoulli_vae(2), ELBO(), black_and_white(), noise()).warnings == ()


def test_a_density_on_black_and_white_images_is_reported():
    vae = linear_gaussian_vae(2, noise())
    [concern] = check_loss(vae, ELBO(), black_and_white(), noise()).warnings
    assert "it may grow without bound" in concern
    assert check_loss(vae, ELBO(), grey(), noise()).warnings == ()


def vae_of(likelihood: Likelihood, shape: tuple[int, int, int] = SHAPE) -> VAE:
    torch.manual_seed(0)
    decoder = MLPDecoder(shape, 2, [5], "tanh", likelihood)
    return VAE(MLPEncoder(shape, 2, [5], "tanh"), decoder, StandardNormalPrior(2))


OF_LEVELS = [
    DiscretizedLogisticLikelihood,
    lambda levels: DiscretizedLogisticMixtureLikelihood(2, levels),
    CategoricalLikelihood,
]


@pytest.mark.parametrize("likelihood", OF_LEVELS)
@pytest.mark.parametrize(("levels", "concerns"), [(256, 0), (300, 1)])
def test_more_grey_levels_than_those_of_the_data_are_reported(likelihood, levels: int, concerns: int):
    pixels = torch.randint(256, (30, *SHAPE), generator=noise()).to(torch.uint8)
    result = check_loss(vae_of(likelihood(levels)), ELBO(), ImageSet(pixels, None, 255), noise())
    assert len(result.warnings) == concerns


@pytest.mark.parametrize("likelihood", OF_LEVELS)
@pytest.mark.parametrize(("scale", "kind", "white"), [(1, torch.uint8, 16), (1 / 16, torch.float32, 1)])
def test_fewer_levels_than_the_pixels_take_are_refused(likelihood, scale: float, kind: torch.dtype, white: int):
    """The probabilities of 17 values under 9 levels add up to more than one."""
    pixels = (torch.randint(17, (30, *SHAPE), generator=noise()) * scale).to(kind)
    images = ImageSet(pixels, None, white)
    with pytest.raises(
        UserError, match=r"levels=9 is less than the 17 values .* Set model\.likelihood\.levels=17"
    ):
        check_loss(vae_of(likelihood(9)), ELBO(), images, noise())
    pixel = likelihood(9)(torch.zeros(1, likelihood(9).parameters_per_value, 1, 1, 1)).base_dist
    values = torch.arange(17) / 16
    assert sum(pixel.log_prob(value.reshape(1, 1, 1, 1)).exp().item() for value in values) > 1.1
    assert check_loss(vae_of(likelihood(17)), ELBO(), images, noise()).warnings == ()


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "advice"),
    [
        ((1, 4, 4), torch.uint8, "greyscale", "discretized_logistic model.likelihood.levels=256"),
        (
            (1, 4, 4),
            torch.float32,
            "continuous",
            "gaussian_shared or gaussian_optimal suits",
        ),
        ((3, 4, 4), torch.uint8, "colour", "gaussian_shared, gaussian_optimal or discretized_logistic"),
        ((3, 4, 4), torch.float32, "colour", "gaussian_shared or gaussian_optimal suits"),
    ],
)
def test_the_advice_on_a_bernoulli_fits_the_images(shape, dtype, kind, advice):
    white = 255 if dtype == torch.uint8 else 1
    pixels = (torch.rand(30, *shape, generator=noise()) * white).to(dtype)
    [concern] = check_loss(
        vae_of(BernoulliLikelihood(), shape), ELBO(), ImageSet(pixels, None, white), noise()
    ).warnings
    assert f"These are {kind} images and the likelihood is a Bernoulli" in concern
    assert advice in concern
    assert ("binarization" in concern) == (kind == "greyscale")


def test_the_random_state_and_the_mode_of_the_model_stay():
    vae = bernoulli_vae(2).train()
    before = torch.get_rng_state()
    check_loss(vae, ELBO(), grey(), noise())
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training


def test_it_is_reported_in_a_line_and_the_concerns():
    result = LossReport(1.0, 4.0, 2.5, 200.0, 784, ("Something.",))
    assert result.to_log_lines() == [
        "Loss in nats per image of 784 values: β = 4; no distortion below 2.50 (entropy of the grey values); "
        "the mean image alone scores 200.00.",
        "Something.",
    ]
    assert LossReport(None, None, None, None, 784, ()).to_log_lines() == ["Loss in nats per image of 784 values."]


def test_a_rate_that_is_the_same_for_all_images_has_no_weight():
    result = check_loss(
        vq_vae(),
        VQ(position_reduction="sum"),
        ImageSet(torch.rand(30, 1, 6, 5, generator=noise(3)), None, 1),
        noise(),
    )
    assert result.effective_beta is None
