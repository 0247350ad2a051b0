"""Which steps a CUDA graph can hold: every model, prior, posterior, likelihood and objective."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW

from tests.engine.recordable import (
    LIKELIHOODS,
    LOSSES,
    MODELS,
    OWN_PRIOR,
    POSTERIORS,
    PRIORS,
    HostReadError,
    covering,
    host_read,
    model_of,
    no_host_reads,
    read_by,
    step_of,
)
from vae_exp.engine.ema import ExponentialMovingAverage
from vae_exp.objective.beta_vae import BetaVAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.schedules import Linear
from vae_exp.objective.vq import VQ

PLAIN = ("mlp", "standard_normal", "diagonal", "bernoulli")


@pytest.mark.quick(1)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_reads_on_the_host(loss: str):
    """Every prior with every posterior; likelihoods and models take turns, so that each meets the loss."""
    reads = {parts: host_read(parts, [loss])[loss] for parts in covering(loss)}
    assert {parts: read for parts, read in reads.items() if read not in (None, "refused")} == {}
    assert None in reads.values()


@pytest.mark.quick(2)
@pytest.mark.parametrize("model", MODELS)
def test_no_model_reads_on_the_host_with_any_likelihood(model: str):
    loss = "vq" if model == "vq" else "elbo"
    reads = {
        likelihood: host_read((model, "standard_normal", "diagonal", likelihood), [loss])[loss]
        for likelihood in LIKELIHOODS
    }
    assert reads == dict.fromkeys(LIKELIHOODS)


@pytest.mark.parametrize(
    "options",
    [{"codebook_decay": 0.9}, {"restart_below": 0.9}, {"codebook_decay": 0.9, "restart_below": 0.9}],
)
def test_codebooks_that_follow_and_restart_read_nothing(options):
    vae = model_of(("vq", "standard_normal", "diagonal", "bernoulli"), **options)
    before = vae.encoder.codebook.clone()
    step = step_of(vae, VQ(position_reduction="sum"), lambda parameters: Adam(parameters, fused=True))
    assert read_by(step) is None
    assert not torch.equal(vae.encoder.codebook, before)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "prior"), [
    (model, prior) for model, prior in product(MODELS, PRIORS) if model not in OWN_PRIOR or prior == PRIORS[0]
])  # fmt: skip
def test_no_combination_reads_on_the_host(model: str, prior: str):
    """The whole product; a model that takes a prior (conditional ones take no VampPrior) takes every part."""
    posteriors = POSTERIORS[:1] if model in OWN_PRIOR else POSTERIORS
    reads = {
        (posterior, likelihood, loss): read
        for posterior, likelihood in product(posteriors, LIKELIHOODS)
        for loss, read in host_read((model, prior, posterior, likelihood), LOSSES).items()
    }
    assert {key: read for key, read in reads.items() if read not in (None, "refused")} == {}
    recordable = {key[:2] for key, read in reads.items() if read is None}
    is_refused = (model, prior) == ("conditional", "vamp")
    assert recordable == (set() if is_refused else set(product(posteriors, LIKELIHOODS)))


@pytest.mark.parametrize("kind", [Adam, AdamW, SGD, Adagrad])
def test_fused_optimizers_clipping_averages_dynamic_pixels_and_schedules_read_nothing(kind: type):
    vae, loss = model_of(PLAIN), BetaVAE(Linear(0.0, 1.0, 10, "step"))
    options = {"ema": ExponentialMovingAverage(vae, 0.9), "dynamic_binarization": True}
    assert read_by(step_of(vae, loss, partial(kind, fused=True), **options)) is None


# What finds it


def _reads(read) -> str | None:
    """What a loss that does this with its values reads."""

    class Reading(ELBO):
        def __call__(self, vae, batch, generator):
            terms = super().__call__(vae, batch, generator)
            read(terms.loss)
            return terms

    return read_by(step_of(model_of(PLAIN), Reading(), SGD))


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda loss: loss.sum().item(), "Tensor.item"),
        (lambda loss: loss.detach().cpu(), "Tensor.cpu"),
        (lambda loss: loss.nonzero(), "aten::nonzero"),
        (lambda loss: loss[loss > 0], "aten::index with a mask"),
        (lambda loss: loss.detach().masked_select(loss > 0), "aten::masked_select"),
        (lambda loss: torch.linalg.cholesky(loss.detach()[0] * torch.eye(2)), "aten::_linalg_check_errors"),
        (lambda loss: loss * torch.tensor(2.0), "aten::lift_fresh"),
        (lambda loss: loss.sum(), None),
        (lambda loss: torch.where(loss > 0, loss, 0.0), None),
        (lambda loss: torch.linalg.cholesky_ex(loss.detach().exp()[0] * torch.eye(2)), None),
    ],
)  # fmt: skip
def test_reads_on_the_host_are_named(read, name: str | None):
    assert _reads(read) == name


def test_reads_in_a_backward_pass_are_named():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    weight = nn.Parameter(torch.ones(2))
    with no_host_reads(), pytest.raises(HostReadError, match="_local_scalar_dense"):
        Reads.apply(weight).sum().backward()
