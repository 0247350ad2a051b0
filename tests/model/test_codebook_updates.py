"""Codebooks that follow data, restart and are resumed, against loops over the formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import SHAPE, fit, grey_images, make_trainer, noise
from vae_exp.data.images import Batch
from vae_exp.engine.checkpoint import load_checkpoint
from vae_exp.model.codebook_updates import (
    draw_outputs,
    move_to_averages,
    restart_codes,
    spread_outputs,
    sum_by_code,
)
from vae_exp.model.vae import VAE
from vae_exp.model.vq import UniformCodesPrior, VQDecoder, VQEncoder
from vae_exp.objective.vq import VQ
from vae_exp.runs.warm_start import freeze

CODES, CODE_DIM = 5, 2
ALL = {"codebook_init": "data", "codebook_decay": 0.9, "restart_below": 0.2}


def alone(values: torch.Tensor) -> None:
    """The sum over the processes of one process."""


def vq_vae(**options) -> VAE:
    torch.manual_seed(0)
    return VAE(
        VQEncoder(SHAPE, CODES, CODE_DIM, [4], "relu", **options),
        VQDecoder(SHAPE, CODE_DIM, [4], "relu"),
        UniformCodesPrior(),
    )


def test_moving_averages_are_those_of_the_paper():
    """N ← γ N + (1 − γ) n, m ← γ m + (1 − γ) Σ z, e = m / N in float64 loops; N starts at one, m at e."""
    decay, codebook, usage = 0.9, torch.randn(CODES, CODE_DIM, generator=noise(0)), torch.ones(CODES)
    numbers, totals = np.ones(CODES), codebook.double().numpy().copy()
    for step in range(30):
        outputs = torch.randn(7, CODE_DIM, generator=noise(step))
        indices = torch.randint(CODES - 1, (7,), generator=noise(step))  # the last entry is never used
        sums, counts = sum_by_code(outputs, indices, CODES, alone)
        usage.mul_(decay).add_(counts, alpha=1 - decay)
        move_to_averages(codebook, usage, sums, counts, decay)
        for code in range(CODES):
            own = [z.double().numpy() for z, index in zip(outputs, indices.tolist(), strict=True) if index == code]
            numbers[code] = decay * numbers[code] + (1 - decay) * len(own)
            totals[code] = decay * totals[code] + (1 - decay) * sum(own, start=np.zeros(CODE_DIM))
        np.testing.assert_allclose(usage.numpy(), numbers, rtol=1e-5)
        np.testing.assert_allclose(codebook.numpy(), totals / numbers[:, None], rtol=1e-4, atol=1e-6)


def test_an_entry_that_is_not_used_stays_when_its_average_use_vanishes():
    codebook, usage = torch.randn(CODES, CODE_DIM, generator=noise(0)), torch.ones(CODES)
    before = codebook.clone()
    for _ in range(200):
        sums, counts = sum_by_code(torch.ones(3, CODE_DIM), torch.zeros(3, dtype=torch.int64), CODES, alone)
        usage.mul_(0.5).add_(counts, alpha=0.5)
        move_to_averages(codebook, usage, sums, counts, 0.5)
    assert usage[1] == 0
    assert torch.equal(codebook[1:], before[1:])
    torch.testing.assert_close(codebook[0], torch.ones(CODE_DIM))


def test_entries_below_the_share_of_even_use_are_moved():
    codebook, usage = torch.zeros(4, CODE_DIM), torch.tensor([9.0, 0.9, 1.1, 1.0])  # even use is 3
    candidates = torch.arange(8.0).reshape(4, CODE_DIM) + 1
    restart_codes(codebook, usage, candidates, 1 / 3)
    assert codebook.tolist() == [[0, 0], [3, 4], [0, 0], [0, 0]]
    assert usage.tolist() == [9.0, 3.0, pytest.approx(1.1), 1.0]


def test_two_processes_draw_the_outputs_of_the_whole_batch():
    outputs = torch.randn(11, CODE_DIM, generator=noise(0))
    whole = draw_outputs(outputs, 0, 11, 400, noise(), alone)
    rows = (torch.rand(400, generator=noise()) * 11).long()
    assert torch.equal(whole, outputs[rows])
    assert len(rows.unique()) == 11
    parts = [draw_outputs(outputs[:4], 0, 11, 400, noise(), alone)]
    parts.append(draw_outputs(outputs[4:], 4, 11, 400, noise(), alone))
    assert torch.equal(parts[0] + parts[1], whole)


def test_dead_entries_restart_at_outputs_of_the_whole_batch():
    vae = vq_vae(restart_below=0.99)
    images = torch.rand(4, *SHAPE, generator=noise(1))
    with torch.no_grad():
        vae.encoder.codebook[0] = vae.encoder.grid_outputs(images).mean(dim=(0, 1))
        vae.encoder.codebook[1:] = 1e3  # nearest to no output
    vae.train().encode(images)
    vae.encoder.usage.mul_(0)
    outputs = vae.encoder.grid_outputs(images).detach().flatten(0, 1)
    assert len(outputs) > len(images)
    vae.encoder.after_step(noise(), None, alone)
    rows = (torch.rand(CODES, generator=noise()) * len(outputs)).long()
    torch.testing.assert_close(vae.encoder.codebook.detach()[1:], outputs[rows][1:])


def test_the_first_entries_are_different_outputs_for_training_images():
    vae, images = vq_vae(codebook_init="data"), grey_images(40).batch().images
    vae.encoder.init_codebook(lambda count: images[:count])
    outputs = vae.encoder.grid_outputs(images).flatten(0, 1)
    distances = torch.cdist(vae.encoder.codebook, outputs).min(dim=1).values
    torch.testing.assert_close(distances, torch.zeros(CODES), atol=1e-5, rtol=0)
    assert len(vae.encoder.codebook.unique(dim=0)) == CODES
    assert isinstance(vae.encoder.codebook, torch.nn.Parameter)


def test_too_few_outputs_are_taken_more_than_once():
    outputs = torch.randn(3, CODE_DIM, generator=noise(0))
    chosen = spread_outputs(outputs, 8)
    assert torch.equal(chosen.unique(dim=0), outputs.unique(dim=0))
    assert len(chosen) == 8


def test_without_options_entries_are_drawn_and_trained_as_before():
    vae = vq_vae()
    before = vae.encoder.codebook.detach().clone()
    vae.encoder.init_codebook(lambda count: pytest.fail("no image is needed"))
    assert torch.equal(vae.encoder.codebook, before)
    assert [name for name in vae.encoder.state_dict() if not name.startswith(("hidden", "output"))] == ["codebook"]
    assert "encoder.codebook" in dict(vae.named_parameters())


def test_averaged_entries_have_no_gradient_and_no_term_in_the_loss():
    vae, x = vq_vae(codebook_decay=0.9).eval(), grey_images(6).batch().images
    codes = vae.encode(x)
    squares = (codes.outputs - codes.entries).square().flatten(1).sum(dim=1) / codes.outputs.shape[1]
    terms = VQ(0.3, position_reduction="mean")(vae, Batch(x), noise())
    torch.testing.assert_close(terms.loss, terms.distortion + 0.3 * squares)
    assert "encoder.codebook" not in dict(vae.named_parameters())


@pytest.mark.parametrize("options", [{"restart_below": 0.5}, {"codebook_decay": 0.9}, ALL])
def test_a_resumed_run_has_the_same_entries_to_the_bit(options, tmp_path: Path):
    def trainer(name: str, epochs: int):
        vae = vq_vae(**options)
        return make_trainer(
            tmp_path / name, train=grey_images(11), vae=vae, loss=VQ(position_reduction="sum"), epochs=epochs
        ), vae

    (whole, expected), (part, _), (rest, resumed) = trainer("a", 6), trainer("b", 3), trainer("b", 6)
    fit(whole)
    fit(part)
    rest.load_state_dict(load_checkpoint(tmp_path / "b" / "checkpoints" / "last.pt", torch.device("cpu")))
    fit(rest)
    before = vq_vae(**options).encoder.codebook
    assert not torch.equal(expected.encoder.codebook, before)
    assert expected.encoder.usage.min() != expected.encoder.usage.max()
    for name, value in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_only_training_steps_change_the_entries():
    vae = vq_vae(**ALL)
    before = vae.encoder.codebook.clone()
    vae.eval().encode(grey_images(4).batch().images)
    vae.encoder.after_step(noise(), None, alone)
    assert torch.equal(vae.encoder.codebook, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_init": "zeros"}, r"model\.encoder\.codebook_init=zeros must be one of uniform, data"),
        (
            {"codebook_decay": 1.0},
            r"model\.encoder\.codebook_decay=1\.0 must be a finite number greater than 0 and below 1",
        ),
        ({"restart_below": 0}, r"model\.encoder\.restart_below=0 must be .* greater than 0 and below 1, or null"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vq_vae(**options)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_codebook_of_a_frozen_encoder_stays(tmp_path: Path, is_frozen: bool):
    vae = vq_vae(**ALL)
    freeze(vae, ["encoder"] if is_frozen else [])
    before = vae.encoder.codebook.clone()
    fit(make_trainer(tmp_path, train=grey_images(11), vae=vae, loss=VQ(position_reduction="sum")))
    assert torch.equal(vae.encoder.codebook, before) == is_frozen
