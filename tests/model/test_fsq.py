"""FSQ, against the authors' code written out in loops."""

from math import floor, log, tan, tanh

import pytest
import torch

from tests.builders import noise
from vae_exp.data.images import Batch
from vae_exp.distributions.codebook import FiniteScalarPosterior
from vae_exp.distributions.sampling import rsample, sample
from vae_exp.model.fsq import FSQDecoder, FSQEncoder
from vae_exp.model.vae import VAE
from vae_exp.model.vq import UniformCodesPrior
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.vq import VQ

SHAPE, POSITIONS = (1, 6, 5), 9
LEVELS = [8, 5, 2, 3]


def fsq_vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(FSQEncoder(SHAPE, LEVELS, [4], "relu"), FSQDecoder(SHAPE, LEVELS, [4], "relu"), UniformCodesPrior())
    with torch.no_grad():
        vae.encoder.output.weight.mul_(20)
    return vae


def images(count: int = 5) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=noise(3))


def bounds(levels: int) -> tuple[float, float, float]:
    """half_l, offset and shift of the listing in Mentzer et al. 2023, appendix A.1."""
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = 0.0 if levels % 2 else 0.5
    return half, offset, tan(offset / half)


def test_numbers_are_bounded_rounded_and_indexed_as_in_the_paper():
    vae, x = fsq_vae(), images()
    outputs, codes = vae.encoder.grid_outputs(x), vae.encode(x)
    for image in range(len(x)):
        for position in range(POSITIONS):
            index, basis, entry = 0, 1, []
            for number, levels in enumerate(LEVELS):
                half, offset, shift = bounds(levels)
                z = outputs[image, position, number].item()
                integer = round(tanh(z + shift) * half - offset)
                entry.append(integer / (levels // 2))
                index += (integer + levels // 2) * basis
                basis *= levels
            assert codes.indices[image, position] == index
            assert codes.entries[image, position].tolist() == pytest.approx(entry)
            assert vae.encoder.codebook[index].tolist() == pytest.approx(entry)
    assert len(codes.indices.unique()) > 10


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_every_level_can_be_reached_and_no_other(levels: int):
    encoder = FSQEncoder(SHAPE, [levels], [4], "relu")
    z = torch.linspace(-9, 9, 4001)
    encoder.grid_outputs = lambda images: z.reshape(1, -1, 1)
    codes = encoder(images())
    assert codes.indices.unique().tolist() == list(range(levels))
    assert floor(codes.entries.min().item()) == -1
    assert len(encoder.codebook) == levels


def test_gradients_pass_the_rounding_and_not_the_bound():
    """d/dz of tanh(z + s) h / ⌊L/2⌋, by hand."""
    vae, x = fsq_vae(), images(2)
    outputs = vae.encoder.grid_outputs(x).detach().requires_grad_()
    vae.encoder.grid_outputs = lambda images: outputs
    drawn = rsample(vae.encode(x), noise(), (1,))
    weights = torch.randn(drawn.shape, generator=noise())
    (drawn * weights).sum().backward()
    expected = torch.zeros_like(outputs)
    for number, levels in enumerate(LEVELS):
        half, _, shift = bounds(levels)
        slope = (1 - torch.tanh(outputs[..., number].detach() + shift) ** 2) * half / (levels // 2)
        expected[..., number] = slope * weights.reshape(outputs.shape)[..., number]
    torch.testing.assert_close(outputs.grad, expected)


def test_the_elbo_trains_it_and_its_rate_is_that_of_a_uniform_choice():
    vae, x = fsq_vae(), images()
    terms = ELBO()(vae, Batch(x), noise())
    torch.testing.assert_close(terms.rate, torch.full((5,), POSITIONS * log(8 * 5 * 2 * 3)))
    terms.loss.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in vae.parameters())
    assert list(vae.encoder.state_dict()) == [name for name, _ in vae.encoder.named_parameters()]


def test_draws_from_the_prior_are_combinations_of_levels():
    vae = fsq_vae()
    drawn = sample(vae.prior(), noise(), (3000,)).reshape(-1, len(LEVELS))
    assert len(drawn.unique(dim=0)) == 240
    assert isinstance(vae.encode(images()), FiniteScalarPosterior)
    assert vae.sample(3, noise()).shape == (3, *SHAPE)


def test_a_loss_that_trains_a_codebook_is_refused():
    with pytest.raises(
        TypeError, match="loss=vq trains a codebook, and model=fsq has none to train; use loss=elbo"
    ):
        VQ(position_reduction="sum")(fsq_vae(), Batch(images()), noise())


@pytest.mark.parametrize("levels", [[], [8, 1], [2.5, 3], [1024, 1024, 2]])
def test_levels_without_a_choice_or_too_many_codes_are_refused(levels: list[int]):
    with pytest.raises(ValueError, match=r"model\.encoder\.levels=.* must be integers of at least 2"):
        FSQEncoder(SHAPE, levels, [4], "relu")
