"""Which jobs can train as one, by their configs."""

from functools import cache

import pytest

from tests.composing import composed
from vae_exp.sweep.stacks import largest_sizes, optimizer_word, stack_key

SMALL = ["data=digits", "model.hidden_dims=[32]"]


@cache
def config(*overrides: str):
    return composed("train", *SMALL, *overrides, with_hydra=True)


def key(*overrides: str, any_size: bool = False):
    return stack_key(config(*overrides), on_cpu=True, any_size=any_size)


def test_jobs_may_differ_in_seed_sizes_options_of_the_optimizer_and_what_comes_after_an_epoch():
    first = key()
    assert first.reason == ""
    other = key(
        "seed=7",
        "model.latent_dim=9",
        "model.hidden_dims=[64]",
        "optimizer.lr=1e-2",
        "optimizer.weight_decay=0",
        "scheduler=cosine",
        "trainer.early_stopping.patience=3",
        "evaluator=[nll]",
        "tracker=none",
    )
    assert other == first


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("loss", "overrides"),
    [
        ("beta_vae", ["loss.beta=2"]),
        ("beta_vae", ["+loss/schedule@loss.beta=linear"]),
        ("capacity", ["loss.gamma=2", "loss.capacity=7.5"]),
        ("free_bits", ["loss.free_nats=0"]),
    ],
)
def test_jobs_may_differ_in_scalars_of_the_loss(loss, overrides):
    assert key(f"loss={loss}", *overrides) == key(f"loss={loss}")
    assert key(f"loss={loss}").reason == ""


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden_dims=[32,32]",
        "model.activation=tanh",
        "model/likelihood=gaussian",
        "loss.num_samples=2",
        "loss=iwae",
        "optimizer=adamw",
        "data.validation_size=100",
        "trainer.epochs=7",
        "trainer.batch_size=50",
        "trainer.loss_reduction=mean",
        "trainer.max_grad_norm=1",
    ],
)
def test_jobs_that_differ_otherwise_are_no_stack(override):
    assert key(override).reason == ""
    assert key(override) != key()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model.posterior=flow"], "model.posterior=flow"),
        (["model/prior=vamp"], "model.prior=VampPrior"),
        (["model/likelihood=gaussian_optimal"], "model.likelihood=OptimalGaussianLikelihood"),
        (["model=vq", "loss=vq"], "model.encoder=VQEncoder"),
        (["loss=beta_tcvae"], "loss=BetaTCVAE"),
        (["optimizer._target_=torch.optim.NAdam"], "optimizer=NAdam"),
        (["trainer.ema_decay=0.9"], "trainer.ema_decay=0.9"),
        (["trainer.precision=bf16"], "trainer.precision=bf16"),
        (["trainer.execution=compile"], "trainer.execution=compile"),
        (["model=resnet"], "model.encoder.residual_blocks=2"),
        (["model=resnet", "model.encoder.residual_blocks=0"], "model.decoder.residual_blocks=2"),
    ],
)
def test_what_cannot_be_stacked_names_the_key(overrides, reason):
    assert key(*overrides, any_size=True).reason == reason


def test_large_nets_and_convolutions_are_left_alone_on_a_cpu_unless_a_size_is_given():
    large = ["data=mnist", "model.hidden_dims=[500]"]
    assert "786,000 weights" in key(*large).reason
    assert "convolutions" in key("model=conv").reason
    assert key(*large, any_size=True).reason == key("model=conv", any_size=True).reason == ""


def test_the_largest_sizes_are_those_of_each_axis():
    sizes = largest_sizes(config("model.latent_dim=9", "model.hidden_dims=[8,64]"), None)
    assert largest_sizes(config("model.latent_dim=3", "model.hidden_dims=[16,32]"), sizes) == {
        "latent_dim": 9,
        "hidden_dims": [16, 64],
    }


def test_only_jobs_with_the_same_learning_rate_in_every_epoch_have_one_word():
    first = optimizer_word(config("seed=1"), 1)
    assert optimizer_word(config("seed=2", "model.latent_dim=3"), 2) == first
    for override in ("optimizer.lr=1e-2", "scheduler=cosine"):
        assert optimizer_word(config(override), 1) != first
    plateau = config("scheduler=plateau")
    assert optimizer_word(plateau, 1) != optimizer_word(plateau, 2)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_grad_norm=${model.latent_dim}",
        "trainer.batch_size=${seed}",
        "model.encoder.activation=${oc.select:loss.word,relu}",
        "model.decoder.latent_dim=2",
    ],
)
def test_values_that_refer_to_others_are_compared_as_they_are(override):
    first, second = (key(override, f"model.latent_dim={size}", f"seed={10 * size}") for size in (2, 3))
    is_same = override.startswith("model.")
    assert (first == second) == is_same


def test_a_likelihood_that_refers_to_a_size_is_another_one():
    overrides = "model/likelihood=gaussian", "model.likelihood.sigma=${model.latent_dim}"
    assert key(*overrides, "model.latent_dim=2") != key(*overrides, "model.latent_dim=3")
