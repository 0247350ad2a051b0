"""The VQ-VAE, against loops and enumerations."""

from math import log

import pytest
import torch

from vae_exp.data.images import Batch, ImageSet
from vae_exp.distributions.codebook import UniformCodebookPrior, VectorQuantizedPosterior
from vae_exp.distributions.kl import kl
from vae_exp.distributions.sampling import rsample, sample, sharded
from vae_exp.evaluation.codebook_usage import CodesEvaluator
from vae_exp.evaluation.figures import draw_figures
from vae_exp.model.vae import VAE
from vae_exp.model.vq import UniformCodesPrior, VQDecoder, VQEncoder
from vae_exp.objective.beta_vae import BetaVAE, CapacityVAE
from vae_exp.objective.disentangling import DIPVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.importance_weighted import IWAE
from vae_exp.objective.vq import VQ

SHAPE = (1, 6, 5)
CODES, CODE_DIM, POSITIONS = 7, 3, 3 * 3


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vq_vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(
        VQEncoder(SHAPE, CODES, CODE_DIM, [4], "relu"),
        VQDecoder(SHAPE, CODE_DIM, [4], "relu"),
        UniformCodesPrior(),
    )
    with torch.no_grad():
        vae.encoder.codebook.normal_()
        vae.encoder.output.weight.mul_(3)
    return vae


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=noise(3))


def test_each_position_takes_the_nearest_entry():
    torch.manual_seed(0)
    outputs, codebook = torch.randn(2, 4, 3), torch.randn(6, 3)
    codes = VectorQuantizedPosterior(outputs, codebook)
    for image in range(2):
        for position in range(4):
            distances = [(outputs[image, position] - entry).square().sum().item() for entry in codebook]
            nearest = distances.index(min(distances))
            assert codes.indices[image, position] == nearest
            assert torch.equal(codes.mean[image].reshape(4, 3)[position], codebook[nearest])


def test_the_nearest_entry_is_found_among_large_ones_that_are_close():
    """Vectors of length 100 a distance of 1 apart: ‖z‖² + ‖e‖² − 2 zᵀe in float32 has an error of about 0.01."""
    centre = torch.nn.functional.normalize(torch.randn(64, generator=noise(0)), dim=0) * 100
    outputs = centre + 0.1 * torch.randn(20, 49, 64, generator=noise(1))
    codebook = centre + 0.1 * torch.randn(512, 64, generator=noise(2))
    found = VectorQuantizedPosterior(outputs, codebook).indices
    for image in range(20):
        differences = outputs[image].double().unsqueeze(1) - codebook.double()
        assert torch.equal(found[image], differences.square().sum(dim=-1).argmin(dim=-1))


def test_gradients_of_a_draw_pass_straight_through_to_the_encoder():
    outputs, codebook = torch.randn(2, 4, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    drawn = rsample(VectorQuantizedPosterior(outputs, codebook), noise(), (2,))
    weights = torch.randn(2, 2, 12)
    (drawn * weights).sum().backward()
    torch.testing.assert_close(outputs.grad.flatten(1), weights.sum(dim=0))
    assert codebook.grad is None
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(
    ("loss", "weight"),
    [(VQ(0.3, position_reduction="mean"), 1 / POSITIONS), (VQ(0.3, position_reduction="sum"), 1)],
)
def test_the_loss_is_the_papers_written_out(loss: VQ, weight: float):
    """Equation 3 in loops, averaged over positions (section 3.2); gradients where the paper wants them."""
    vae, x = vq_vae(), images()
    terms = loss(vae, Batch(x), noise())
    codes = vae.encode(x)
    distortion = -vae.decode(codes.mean).log_prob(x)
    squares = torch.zeros(len(x))
    for image in range(len(x)):
        for position in range(POSITIONS):
            entry = vae.encoder.codebook[codes.indices[image, position]]
            squares[image] += weight * (codes.outputs[image, position] - entry).square().sum()
    torch.testing.assert_close(terms.distortion, distortion)
    torch.testing.assert_close(terms.loss, distortion + 1.3 * squares)
    torch.testing.assert_close(terms.rate, torch.full((5,), POSITIONS * log(CODES)))
    [codebook] = torch.autograd.grad(terms.loss.sum(), vae.encoder.codebook)
    entries = codes.outputs.detach().reshape(-1, CODE_DIM)
    expected = torch.zeros_like(codebook)
    for output, index in zip(entries, codes.indices.flatten(), strict=True):
        expected[index] += 2 * weight * (vae.encoder.codebook[index].detach() - output)
    torch.testing.assert_close(codebook, expected)


def test_without_commitment_the_encoder_learns_from_the_decoder_alone():
    vae, x = vq_vae(), images()
    weight = vae.encoder.output.weight
    [without] = torch.autograd.grad(VQ(0.0, position_reduction="sum")(vae, Batch(x), noise()).loss.sum(), weight)
    [distortion] = torch.autograd.grad(
        VQ(0.0, position_reduction="sum")(vae, Batch(x), noise()).distortion.sum(), weight
    )
    [committed] = torch.autograd.grad(VQ(0.5, position_reduction="sum")(vae, Batch(x), noise()).loss.sum(), weight)
    torch.testing.assert_close(without, distortion)
    assert not torch.allclose(committed, without)


def test_the_rate_is_the_divergence_of_one_code_from_a_uniform_choice():
    """Σ over all joint codes of q log (q / p), enumerated; q is one at the codes taken."""
    vae, x = vq_vae(), images(2)
    posterior, prior = vae.encode(x), vae.prior()
    assert isinstance(prior, UniformCodebookPrior)
    one = 1.0 * log(1.0 / (1 / CODES))
    found = kl(posterior, prior, sample(posterior, noise(), (1,)))
    torch.testing.assert_close(found, torch.full((2,), POSITIONS * one))


def test_draws_from_the_prior_are_entries_each_equally_often():
    vae = vq_vae()
    drawn = sample(vae.prior(), noise(), (4000,)).reshape(-1, CODE_DIM)
    found = torch.cdist(drawn, vae.encoder.codebook).argmin(dim=1)
    assert torch.equal(vae.encoder.codebook[found], drawn)
    shares = torch.bincount(found, minlength=CODES) / len(found)
    assert (shares - 1 / CODES).abs().max() < 4 * (1 / CODES / len(found)) ** 0.5
    assert vae.sample(3, noise()).shape == (3, *SHAPE)


@pytest.mark.parametrize("objective", [IWAE(3), IWAE(1)])
def test_objectives_that_weigh_latents_cannot_use_codes(objective):
    with pytest.raises(NotImplementedError, match="codes of a codebook have no density over latents"):
        objective(vq_vae(), Batch(images()), noise())


@pytest.mark.parametrize(
    "objective", [BetaVAE(4.0), CapacityVAE(10.0, 5.0), DIPVAE(1, 1.0, 1.0), DIPVAE(2, 1.0, 1.0)]
)
def test_objectives_that_weigh_a_constant_cannot_use_codes(objective):
    with pytest.raises(
        TypeError, match="of codes does not train; use loss=vq with model=vq, loss=elbo with model=fsq"
    ):
        objective(vq_vae(), Batch(images()), noise())


def test_torchs_own_draws_of_the_prior_are_entries_of_the_codebook():
    prior = vq_vae().prior()
    drawn = prior.sample((3,))
    assert drawn.shape == (3, *prior.event_shape)
    entries = drawn.unflatten(-1, (prior.positions, -1)).flatten(0, 1)
    assert torch.cdist(entries, prior.codebook).min(dim=1).values.max() < 1e-5


def test_the_vq_objective_needs_codes():
    from tests.builders import SHAPE as SMALL
    from tests.builders import bernoulli_vae

    with pytest.raises(TypeError, match="needs the codes of model=vq, not a posterior of type DiagonalGaussian"):
        VQ(position_reduction="sum")(bernoulli_vae(2), Batch(torch.rand(2, *SMALL)), noise())


def test_the_elbo_of_codes_has_the_rate_of_the_choice():
    vae, x = vq_vae(), images()
    terms = ELBO()(vae, Batch(x), noise())
    torch.testing.assert_close(terms.loss, terms.distortion + POSITIONS * log(CODES))


def test_use_of_the_codebook_is_counted():
    vae = vq_vae().eval()
    pixels = ImageSet(images(40), None, 1)
    found = dict(CodesEvaluator(7, None).run(vae, pixels, noise()))
    counts = [0.0] * CODES
    for index in vae.encode(pixels.batch().images).indices.flatten().tolist():
        counts[index] += 1
    shares = [count / sum(counts) for count in counts if count]
    assert found["codebook_used"] == len(shares)
    assert found["code_perplexity"] == pytest.approx(2.718281828 ** -sum(p * log(p) for p in shares), rel=1e-6)


def test_a_part_of_a_batch_is_encoded_as_the_whole():
    vae, x = vq_vae(), images()
    with sharded((1, 3, 5)):
        part = rsample(vae.encode(x[1:3]), noise())
    torch.testing.assert_close(part, rsample(vae.encode(x), noise())[1:3])


def test_another_reduction_over_positions_is_refused():
    with pytest.raises(ValueError, match=r"loss\.position_reduction=none must be one of mean, sum"):
        VQ(position_reduction="none")


@pytest.mark.parametrize(("codes", "code_dim"), [(1, 3), (4, 0)])
def test_a_codebook_without_a_choice_is_refused(codes: int, code_dim: int):
    with pytest.raises(ValueError, match=r"model\.(num_codes=1|code_dim=0) must be a whole number"):
        VQEncoder(SHAPE, codes, code_dim, [4], "relu")


def test_codes_are_not_traversed():
    pixels = ImageSet(images(20), None, 1)
    names = [picture.name for picture in draw_figures(vq_vae().eval(), pixels, noise(), 4, 3)]
    assert names == ["reconstructions", "samples", "interpolations", "latent_scatter"]
