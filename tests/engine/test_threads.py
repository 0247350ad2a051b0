"""How many CPU threads a run takes, and the warning when they do not get their cores."""

import logging
from contextlib import suppress
from math import prod

import pytest
import torch

from vae_exp.data.images import ImageSet
from vae_exp.engine import thread_variables, threads
from vae_exp.engine.threads import ContentionWatch, choose_threads, count_step_flops, cpu_threads
from vae_exp.model.decoders import ConvDecoder, MLPDecoder
from vae_exp.model.encoders import ConvEncoder, MLPEncoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO


@pytest.fixture
def sixteen_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would take 16 threads, and the environment says nothing."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    for name in thread_variables.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def mlp(side: int, hidden: int) -> tuple[VAE, ImageSet]:
    shape = [1, side, side]
    vae = VAE(
        MLPEncoder(shape, 2, [hidden], "relu"), MLPDecoder(shape, 2, [hidden], "relu"), StandardNormalPrior(2)
    )
    return vae, ImageSet(torch.rand(2, *shape), None, 1)


def test_the_work_of_a_step_is_that_of_its_matrix_products():
    vae, images = mlp(3, 7)
    products = 9 * 7 + 7 * (2 * 2) + 2 * 7 + 7 * 9  # multiply-adds an image: one a weight
    state = torch.get_rng_state()
    assert count_step_flops(vae.train(), ELBO(), images, 50) == 3 * 2 * 50 * products
    assert vae.training
    assert torch.equal(torch.get_rng_state(), state)


def test_convolutions_count_by_their_positions():
    shape = [1, 8, 8]
    vae = VAE(ConvEncoder(shape, 2, [4], "relu"), ConvDecoder(shape, 2, [4], "relu"), StandardNormalPrior(2))
    expected = 0

    def count(module, inputs, output):
        nonlocal expected
        over = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        if hasattr(module, "weight"):
            expected += 2 * over.numel() * prod(module.weight[0].shape)

    for module in vae.modules():
        module.register_forward_hook(count)
    flops = count_step_flops(vae, ELBO(), ImageSet(torch.rand(2, *shape), None, 1), 2)
    assert flops == 3 * expected > 0


@pytest.mark.usefixtures("sixteen_threads")
def test_small_nets_take_one_thread_and_larger_ones_more():
    digits, mnist = ((vae, ELBO(), images) for vae, images in (mlp(8, 500), mlp(28, 500)))
    assert choose_threads("auto", count_step_flops(*digits, 100)) == 1
    flops = count_step_flops(*mnist, 100)
    assert 1 < choose_threads("auto", flops) < 16
    assert choose_threads("auto", 100 * flops) == 16


@pytest.mark.usefixtures("sixteen_threads")
def test_a_number_is_taken_as_far_as_there_are_cores_unless_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    assert [choose_threads(number, 0) for number in (1, 3, 100)] == [1, 3, 8]
    assert choose_threads(None, 0) == 16
    for name in thread_variables.VARIABLES:
        with monkeypatch.context() as patched:
            patched.setenv(name, "16")
            assert [choose_threads(requested, 0) for requested in ("auto", 2, None)] == [16] * 3
            for text in ("abc", "0", "-4"):  # no library takes these
                patched.setenv(name, text)
                assert choose_threads(2, 0) == 2


def test_threads_are_put_back_after_a_run():
    before = torch.get_num_threads()
    with suppress(ZeroDivisionError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("count", "remedy"), [(1, "fewer of them at a time"), (2, "trainer.threads=1")])
def test_wall_time_far_above_cpu_time_is_reported_once_with_the_remedy(
    caplog, monkeypatch, count: int, remedy: str
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    watch = ContentionWatch()
    with caplog.at_level(logging.WARNING):
        watch.add(1.9, 0.1)
        assert not caplog.records  # too short to tell
        for _ in range(3):
            watch.add(10.0, 4.0)
    [record] = caplog.records
    assert record.getMessage().startswith("11.9 s of training had 4.1 s of CPU time")
    assert remedy in record.getMessage()


def test_a_thread_that_has_its_core_is_not_reported(caplog):
    watch = ContentionWatch()
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            watch.add(1.0, 0.6)
        with watch.measure():
            pass
    assert not caplog.records
