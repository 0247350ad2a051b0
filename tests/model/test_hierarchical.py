"""Two stochastic layers, against an independent composition and quadrature."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.builders import SHAPE
from vae_exp.data.images import Batch
from vae_exp.distributions.sampling import rsample, sample, sharded
from vae_exp.model.hierarchical import BottomLayerDecoder, TwoLayerEncoder, TwoLayerPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE

DIMS = [1, 1]


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_layer_vae(dims: list[int] = DIMS, scale: float = 1.5) -> VAE:
    torch.manual_seed(0)
    vae = VAE(
        TwoLayerEncoder(SHAPE, dims, [5], [4], "tanh"),
        BottomLayerDecoder(SHAPE, dims, hidden_dims=[5], activation="tanh"),
        TwoLayerPrior(dims, [4], "tanh"),
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(scale)
    return vae.eval()


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=noise(3)).round()


def normal(layer, given: torch.Tensor) -> Normal:
    """The Gaussian of a layer by the formulas of the paper."""
    mean, log_variance = layer.gaussian.mean_and_log_variance(layer.hidden(given)).chunk(2, dim=-1)
    return Normal(mean, (0.5 * log_variance).exp())


def test_the_densities_are_those_of_the_paper():
    vae, x = two_layer_vae([3, 2]), images()
    z = torch.randn(5, 4, 5)
    lower, upper = z[..., :3], z[..., 3:]
    posterior = normal(vae.encoder.lower, x.flatten(1)).log_prob(lower).sum(-1) + normal(
        vae.encoder.upper, lower
    ).log_prob(upper).sum(-1)
    prior = Normal(0.0, 1.0).log_prob(upper).sum(-1) + normal(vae.prior.lower, upper).log_prob(lower).sum(-1)
    torch.testing.assert_close(vae.encode(x).log_prob(z), posterior)
    torch.testing.assert_close(vae.prior().log_prob(z), prior)


def test_torchs_own_draws_have_the_moments_of_the_distribution():
    prior = two_layer_vae([3, 2]).prior()
    torch.manual_seed(0)
    drawn = prior.sample((50_000,))
    assert drawn.shape == (50_000, 5)
    assert not drawn.requires_grad
    torch.testing.assert_close(drawn.mean(0), prior.mean.detach(), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn.var(0), prior.variance.detach(), atol=0, rtol=0.06)
    assert prior.rsample((2,)).requires_grad


def test_the_decoder_looks_at_the_lower_layer_alone():
    vae, z = two_layer_vae([3, 2]), torch.randn(4, 5)
    changed = torch.cat([z[:, :3], torch.randn(4, 2)], dim=1)
    assert torch.equal(vae.decode(z).mean, vae.decode(changed).mean)
    assert not torch.equal(vae.decode(z).mean, vae.decode(changed.flip(1)).mean)


@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_draws_have_the_moments_of_the_density(part: str):
    vae = two_layer_vae()
    distribution = vae.prior() if part == "prior" else vae.encode(images(1))
    axis = torch.linspace(-12, 12, 801)
    places = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        weight = distribution.log_prob(places).double().exp().unsqueeze(-1) * (axis[1] - axis[0]).double() ** 2
        drawn = sample(distribution, noise(), (60_000,)).reshape(-1, 2).double()
    assert weight.sum().item() == pytest.approx(1, abs=1e-3)
    mean = (weight * places).sum(dim=0)
    centred = places - mean
    covariance = (weight * centred).T @ centred.double()
    assert (drawn.mean(dim=0) - mean).abs().max() < 0.03
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0.03, atol=0.03)


def test_the_bounds_hold_and_tighten_towards_the_evidence_by_quadrature():
    vae, x = two_layer_vae(), images()
    axis = torch.linspace(-12, 12, 601)
    places = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        joint = vae.prior().log_prob(places).unsqueeze(1) + vae.decode(places.unsqueeze(1)).log_prob(x)
        evidence = joint.double().logsumexp(dim=0) + 2 * (axis[1] - axis[0]).double().log()
        elbo = -ELBO(20_000)(vae, Batch(x), noise()).loss.double()
        iwae = -IWAE(20_000)(vae, Batch(x), noise()).loss.double()
    assert (elbo < evidence).all()
    assert (elbo < iwae).all()
    torch.testing.assert_close(iwae, evidence, rtol=0, atol=0.02)


def test_the_rate_is_that_of_the_lower_layer_and_the_mean_one_of_the_upper():
    """KL of the joint by the chain rule, the inner expectations by many draws."""
    vae, x = two_layer_vae(), images(2)
    with torch.no_grad():
        terms = ELBO(20_000)(vae, Batch(x), noise())
        below = normal(vae.encoder.lower, x.flatten(1))
        lower = below.sample((20_000,))
        above = normal(vae.encoder.upper, lower)
        by_upper = kl_divergence(above, Normal(0.0, 1.0)).sum(-1)
        upper = above.sample()
        by_lower = (below.log_prob(lower) - normal(vae.prior.lower, upper).log_prob(lower)).sum(-1)
    torch.testing.assert_close(terms.rate, (by_upper + by_lower).mean(dim=0), rtol=0.02, atol=0.02)


def test_draws_of_a_part_of_a_batch_are_those_of_the_whole():
    vae, x = two_layer_vae([3, 2]), images(6)
    whole = rsample(vae.encode(x), noise(), (4,))
    with sharded((2, 5, 6)):
        part = rsample(vae.encode(x[2:5]), noise(), (4,))
    torch.testing.assert_close(part, whole[:, 2:5])


def test_mean_and_variance_are_those_of_many_draws():
    vae, x = two_layer_vae([2, 2]), images()
    for distribution in (vae.encode(x), vae.prior()):
        with torch.no_grad():
            drawn = sample(distribution, noise(), (50_000,)).double()
            away = (distribution.mean - drawn.mean(dim=0)).abs() / drawn.std(dim=0)
        assert away.max() < 0.03
        torch.testing.assert_close(distribution.stddev.double(), drawn.std(dim=0), rtol=0.03, atol=0)


def test_the_moments_of_the_first_layer_are_exact():
    vae, x = two_layer_vae([3, 2]), images()
    lower = normal(vae.encoder.lower, x.flatten(1))
    torch.testing.assert_close(vae.encode(x).mean[:, :3], lower.mean)
    torch.testing.assert_close(vae.encode(x).stddev[:, :3], lower.stddev)


@pytest.mark.parametrize("dims", [[3], [3, 2, 1], [3, 0]])
def test_other_than_two_layers_are_refused(dims: list[int]):
    with pytest.raises(ValueError, match="must be two numbers of units"):
        TwoLayerPrior(dims, [4], "tanh")


def test_the_prior_passes_the_widths_in_reverse():
    layers = [
        each for each in TwoLayerPrior([3, 2], [7, 4], "tanh").modules() if isinstance(each, torch.nn.Linear)
    ]
    assert [(each.in_features, each.out_features) for each in layers] == [(2, 4), (4, 7), (7, 6)]
