"""Priors and posteriors by normalising flows, against the change of variables and quadrature."""

import pytest
import torch
from torch.distributions import Distribution

from tests.builders import SHAPE
from vae_exp.data.images import Batch
from vae_exp.distributions.kl import kl
from vae_exp.distributions.sampling import rsample, sample
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.encoders import MLPEncoder
from vae_exp.model.flows import FlowHead, FlowPrior
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bent(module: torch.nn.Module) -> torch.nn.Module:
    """With weights that are far from where they start, so that the flow is far from the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


@pytest.fixture(autouse=True)
def _weights() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["prior", "posterior"])
def flow(request: pytest.FixtureRequest) -> Distribution:
    """A density over two units."""
    if request.param == "prior":
        return bent(FlowPrior(2))()
    return bent(FlowHead(3, 2))(torch.randn(1, 3))


def grid(side: int = 801, reach: float = 20.0) -> tuple[torch.Tensor, float]:
    axis = torch.linspace(-reach, reach, side)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


@pytest.mark.quick(1)
def test_it_integrates_to_one(flow: Distribution):
    with torch.no_grad():
        places, cell = grid()
        density = flow.log_prob(places).double().exp()
    assert density.sum().item() * cell == pytest.approx(1, abs=2e-3)


@pytest.mark.slow
def test_its_draws_have_the_moments_of_its_density(flow: Distribution):
    with torch.no_grad():
        places, cell = grid()
        weight = flow.log_prob(places).double().exp().unsqueeze(-1) * cell
        drawn = sample(flow, noise(), (40_000,)).reshape(-1, 2).double()
        mean = (weight * places).sum(dim=0)
        variance = (weight * (places - mean) ** 2).sum(dim=0)
        error = (variance / len(drawn)).sqrt()
        assert ((drawn.mean(dim=0) - mean).abs() < 5 * error).all()
        torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.06, atol=0)
        away = (flow.mean.reshape(-1).double() - mean).abs() / variance.sqrt()
        assert away.max() < 0.02
        torch.testing.assert_close(flow.stddev.reshape(-1).double(), variance.sqrt(), rtol=0.05, atol=0)


def test_its_density_is_the_change_of_variables_of_autograd(flow: Distribution):
    """log N(f(z); μ, σ) + log |det ∂f/∂z|, the Jacobian by autograd."""
    for place in torch.randn(4, 2):
        value = place if not flow.batch_shape else place.unsqueeze(0)
        jacobian = torch.autograd.functional.jacobian(lambda z: flow.transform(z).reshape(2), value).reshape(2, 2)
        expected = flow.base.log_prob(flow.transform(value)) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(flow.log_prob(value), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_rate_of_a_flow_is_the_divergence_by_quadrature():
    posterior, prior = bent(FlowHead(3, 2))(torch.randn(1, 3)), bent(FlowPrior(2))()
    with torch.no_grad():
        places, cell = grid()
        q, p = posterior.log_prob(places).double(), prior.log_prob(places).double()
        expected = (q.exp() * (q - p)).sum().item() * cell
        estimates = (
            kl(posterior, prior, sample(posterior, noise(), (1,))),
            [kl(posterior, prior, sample(posterior, noise(seed), (2000,))).item() for seed in range(20)],
        )
    found = torch.tensor(estimates[1])
    assert abs(found.mean().item() - expected) < 5 * found.std().item() / 20**0.5 + 2e-3
    assert estimates[0].shape == (1,)


def test_gradients_pass_through_the_draws_and_the_density():
    """∂/∂θ of E_q[z²] by the draws, against finite differences with the same noise."""
    head, features = bent(FlowHead(3, 2)).double(), torch.randn(5, 3).double()

    def second_moment() -> torch.Tensor:
        return rsample(head(features), noise(), (7,)).square().mean()

    weight = head.flow.transform.transforms[0].hyper[0].weight
    [gradient] = torch.autograd.grad(second_moment(), weight)
    place, step = (2, 3), 1e-5
    with torch.no_grad():
        weight[place] += step
        above = second_moment()
        weight[place] -= 2 * step
        below = second_moment()
    assert gradient[place].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-5)


def test_draws_are_shaped_as_those_of_any_posterior_and_follow_the_generator():
    posterior = FlowHead(3, 4)(torch.randn(5, 3))
    assert posterior.batch_shape == (5,)
    assert posterior.event_shape == (4,)
    one, other = (rsample(posterior, noise(), (3, 2)) for _ in range(2))
    assert one.shape == (3, 2, 5, 4)
    assert torch.equal(one, other)
    assert posterior.log_prob(one).shape == (3, 2, 5)
    before = torch.get_rng_state()
    _ = posterior.mean, rsample(posterior, noise())
    assert torch.equal(before, torch.get_rng_state())


def test_images_and_draws_may_be_crossed():
    """As the aggregate posterior needs it: each latent under each image's posterior."""
    head = bent(FlowHead(3, 2))
    features, places = torch.randn(5, 3), torch.randn(7, 2)
    crossed = head(features).log_prob(places.unsqueeze(1))
    apart = torch.stack([head(each.unsqueeze(0)).log_prob(places.unsqueeze(1)).squeeze(1) for each in features])
    torch.testing.assert_close(crossed, apart.T)


@pytest.mark.slow
def test_the_elbo_of_a_flow_vae_is_that_of_quadrature():
    encoder = MLPEncoder(SHAPE, 2, [5], "tanh", "flow")
    vae = bent(VAE(encoder, MLPDecoder(SHAPE, 2, [5], "tanh"), FlowPrior(2))).eval()
    images = torch.rand(6, *SHAPE, generator=noise(3)).round()
    with torch.no_grad():
        places, cell = grid(401, 12.0)
        joint = (
            vae.prior().log_prob(places).unsqueeze(1) + vae.decode(places.unsqueeze(1)).log_prob(images)
        ).double()
        q = vae.encode(images).log_prob(places.unsqueeze(1)).double()
        expected = (q.exp() * (joint - q)).sum(dim=0) * cell
        evidence = joint.logsumexp(dim=0) + torch.tensor(cell).log()
        found = torch.stack([-ELBO(2000)(vae, Batch(images), noise(seed)).loss.double() for seed in range(20)])
    assert (expected < evidence).all()
    assert ((found.mean(dim=0) - expected).abs() < 5 * found.std(dim=0) / 20**0.5 + 1e-3).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FlowHead(3, 1), "model.posterior=flow needs at least 2 latent units, not 1"),
        (lambda: FlowPrior(2, transforms=0), "model.prior.transforms=0 must be a whole number of at least 1"),
        (
            lambda: FlowPrior(2, hidden_dims=[4, 0]),
            r"model.prior.hidden_dims=\[4, 0\] must be a list of widths of at least 1",
        ),
    ],
)
def test_what_makes_no_flow_is_refused(make, told: str):
    with pytest.raises(ValueError, match=told):
        make()


def test_one_unit_may_have_a_flow_for_its_prior():
    prior = bent(FlowPrior(1))()
    axis = torch.linspace(-30, 30, 6001)
    total = prior.log_prob(axis.unsqueeze(-1)).double().exp().sum() * (axis[1] - axis[0])
    assert total.item() == pytest.approx(1, abs=1e-3)


def test_a_flow_is_drawn_in_float32_when_networks_compute_in_bfloat16():
    vae = VAE(MLPEncoder(SHAPE, 2, [5], "tanh", "flow"), MLPDecoder(SHAPE, 2, [5], "tanh"), StandardNormalPrior(2))
    vae.compute_dtype = torch.bfloat16
    posterior = vae.encode(torch.rand(4, *SHAPE))
    assert rsample(posterior, noise()).dtype == torch.float32
