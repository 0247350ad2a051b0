"""What a user's own parts get, good and bad."""

import logging
from math import nan
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import Bernoulli, Independent, Laplace

from tests.composing import composed
from vae_exp.configuration.instantiate import (
    build_evaluators,
    build_loss,
    build_optimizer,
    build_scheduler,
    build_source,
    build_splits,
    build_vae,
)
from vae_exp.configuration.parsing import parse_config, resolve_to_dict
from vae_exp.configuration.schema import TrainConfig
from vae_exp.configuration.shape_checks import check_labels
from vae_exp.data.images import Batch, ImageSet
from vae_exp.errors import UserError
from vae_exp.model.encoders import MLPEncoder
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

SHAPE = [1, 8, 8]


class LaplaceEncoder(nn.Module):
    """A user's own encoder: another posterior, no `image_shape`."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, latent_dim))

    def forward(self, images: torch.Tensor) -> Independent:
        return Independent(Laplace(self.net(images), 1.0), 1)


class LooseEncoder(LaplaceEncoder):
    """Forgets to wrap its posterior in Independent."""

    def forward(self, images: torch.Tensor) -> Laplace:
        return Laplace(self.net(images), 1.0)


class LooseDecoder(nn.Module):
    """Forgets it too."""

    def __init__(self, **sizes: object) -> None:
        super().__init__()
        self.net = nn.Linear(2, 64)

    def forward(self, latents: torch.Tensor) -> Bernoulli:
        return Bernoulli(logits=self.net(latents).unflatten(-1, SHAPE))


class BareEncoder(nn.Module):
    def __init__(self, **sizes: object) -> None:
        super().__init__()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


class BrokenEncoder(BareEncoder):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images @ torch.zeros(3, 3)


def not_a_module(**sizes: object) -> int:
    return 3


def model(*overrides: str) -> dict:
    plain = OmegaConf.to_container(composed("train", "data=digits", *overrides), resolve=True)
    return plain["model"]


def own(name: str) -> str:
    return f"_target_={__name__}.{name}"


def own_encoder(name: str, drop: bool = True) -> list[str]:
    """Overrides for an encoder of a user's own with a width; without the keys of the default one."""
    keys = [f"~model.encoder.{key}" for key in ("image_shape", "hidden_dims", "activation")]
    return [f"model.encoder.{own(name)}", "+model.encoder.width=9", *(keys if drop else [])]


def test_a_users_encoder_needs_no_fork(generator):
    vae = build_vae(model(*own_encoder("LaplaceEncoder")), SHAPE)
    assert isinstance(vae.encoder, LaplaceEncoder)
    assert vae.training
    terms = ELBO(3)(vae, Batch(torch.rand(4, *SHAPE)), generator)
    assert terms.rate.shape == (4,)


@pytest.mark.quick(9)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.encoder.latent_dim=3"], r"posterior over \[2, 3\]; expected \[2, 2\].*model\.latent_dim=2"),
        (["model.decoder.image_shape=[1,4,4]"], r"model\.decoder .* likelihood over \[1, 2, 1, 4, 4\]; expected"),
        (["model.decoder.latent_dim=3"], r"model\.decoder .* fails"),
        (["model.encoder.image_shape=[1,4,4]"], r"model\.encoder .* on images of \[1, 8, 8\] fails"),
        (["model.prior.latent_dim=5"], r"model\.prior is over \[5\]; expected \[2\]"),
        ([f"model.encoder.{own('BareEncoder')}"], r"returns a Tensor; expected a torch\.distributions object"),
        (
            [f"model.encoder.{own('BrokenEncoder')}"],
            r"model\.encoder \(tests\..*\.BrokenEncoder\).* fails",
        ),
        ([f"model.encoder.{own('not_a_module')}"], r"is not a torch\.nn\.Module"),
        (["model.encoder._target_=no_such_package.Encoder"], r"model\.encoder\._target_=no_such_package\.Encoder"),
        (["model.encoder._target_=vae_exp.model.encoders.Nope"], r"encoders\.Nope cannot be instantiated"),
        (["model._target_=torch.nn.Identity"], r"model\._target_=torch\.nn\.Identity"),
        (["model.activation=swish"], r"model\.activation=swish must be one of relu"),
        (
            ["model.encoder.hidden_dims=[0]"],
            r"layers of \[64, 0\] units; every width must be at least 1",
        ),
        (
            [f"model.encoder.{own('OptionEncoder')}"],
            r"OptionEncoder cannot be instantiated: it needs my_option; say \+model\.encoder\.my_option=…$",
        ),
        (["+model.encoder.depth=3"], r"model\.encoder\._target_=.*depth"),
        (own_encoder("LooseEncoder"), r"model\.encoder .*Independent\(…, 1\)"),
        ([f"model.decoder.{own('LooseDecoder')}"], r"model\.decoder .*Independent\(…, 3\)"),
        (
            [*own_encoder("LaplaceEncoder"), "model.posterior=full_covariance"],
            r"model\.posterior=full_covariance needs an encoder that takes posterior",
        ),
    ],
)
def test_parts_that_do_not_fit_say_so_before_the_first_step(overrides, message):
    with pytest.raises(UserError, match=message):
        build_vae(model(*overrides), SHAPE)


def exit_quietly() -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{__name__}.ModelPart", r"tests\..* has no ModelPart; known here: |has no ModelPart; did you mean"),
        ("no_such_package.Data", r"No module named 'no_such_package'"),
        ("vae_exp.data.augmentation.check_augmentations", r"it needs names; say .*names=…"),
    ],
)
def test_a_target_in_a_target_is_named_where_it_fails(target: str, message: str, tmp_path):
    source = {
        "_target_": "vae_exp.data.dataset.DatasetSource",
        "root": str(tmp_path),
        "dataset": {"_target_": target},
    }
    beginning = rf"^data\.source\.dataset\._target_={target} cannot be instantiated: .*"
    with pytest.raises(UserError, match=beginning + f"({message})"):
        build_source(SimpleNamespace(source=source))


def test_a_part_that_ends_the_program_leaves_a_message():
    with pytest.raises(
        UserError, match=r"^data\.source\._target_=.* cannot be instantiated: SystemExit: 0 \(.*, line"
    ):
        build_source(SimpleNamespace(source={"_target_": f"{__name__}.exit_quietly"}))


@pytest.mark.parametrize(
    ("overrides", "unexpected"),
    [
        (
            own_encoder("LaplaceEncoder", drop=False),
            "encoder.activation encoder.hidden_dims encoder.image_shape",
        ),
        (["+model.likelihood.depth=3"], "decoder.likelihood.depth"),
    ],
)
def test_all_keys_that_a_class_does_not_take_are_named_with_the_remedy(overrides: list[str], unexpected: str):
    with pytest.raises(UserError, match="does not take ") as refused:
        build_vae(model(*overrides), SHAPE)
    removed = [word for word in str(refused.value).split() if word.startswith("~")]
    assert sorted(removed) == [f"~model.{key}" for key in unexpected.split()]
    build_vae(model(*overrides, *removed), SHAPE)


class SummedELBO:
    """Returns one number for the whole batch."""

    def __call__(self, vae: object, batch: Batch, generator: torch.Generator) -> LossTerms:
        return LossTerms(*[batch.images.sum()] * 3)


class DetachedLoss:
    """Forgets that what it returns is differentiated."""

    def __call__(self, vae, batch, generator) -> LossTerms:
        score = vae.decode(vae.encode(batch.images).mean).log_prob(batch.images).detach()
        return LossTerms(loss=-score, distortion=-score, rate=0 * score)


class TensorLoss:
    def __call__(self, vae, batch, generator) -> torch.Tensor:
        return ELBO()(vae, batch, generator).loss


class OptionEncoder(MLPEncoder):
    def __init__(self, image_shape, latent_dim, hidden_dims, activation, my_option) -> None:
        super().__init__(image_shape, latent_dim, hidden_dims, activation)


class EquationLoss:
    """Fails with a message that reads like that of a key."""

    def __init__(self) -> None:
        raise ValueError("x=y has no solution")


class MisspeltLoss:
    """Fails in a line of its own, below a line of a library."""

    def __call__(self, vae, batch, generator) -> LossTerms:
        return self.score(vae.encode(batch.images))

    def score(self, posterior) -> LossTerms:
        return posterior.log_prob(torch.zeros(3, 3, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EquationLoss", r"^loss\._target_=.*EquationLoss cannot .* x=y has no solution \(.*, line \d+\)$"),
        ("MisspeltLoss", r"fails on two images: .* \(.*test_instantiate\.py, line \d+\)\.$"),
        (
            "TensorLoss",
            r"it returns a Tensor, and LossTerms\(loss, distortion, rate\) of vae_exp\.objective\.loss",
        ),
        ("SummedELBO", r"loss .* 'loss' of shape \[\]; expected one value per image"),
        ("DetachedLoss", r"loss .* returns a 'loss' without a gradient"),
    ],
)
def test_a_loss_that_is_none_is_refused(name: str, message: str):
    vae = build_vae(model(), SHAPE)
    with pytest.raises(UserError, match=message) as refused:
        build_loss({"_target_": f"{__name__}.{name}"}, vae, SHAPE)
    assert vae.training
    if name == "MisspeltLoss":
        assert f"line {MisspeltLoss.score.__code__.co_firstlineno + 1})" in str(refused.value)


def test_parameters_that_a_loss_does_not_depend_on_are_told(caplog):
    vae = build_vae(model(), SHAPE)
    build_loss({"_target_": "vae_exp.objective.elbo.ELBO"}, vae, SHAPE)
    assert not caplog.records
    vae.encoder.spare = nn.Parameter(torch.zeros(2))
    with caplog.at_level(logging.WARNING):
        build_loss({"_target_": "vae_exp.objective.elbo.ELBO"}, vae, SHAPE)
    [record] = caplog.records
    assert "does not depend on encoder.spare: they will not be trained" in record.getMessage()


def test_a_loss_that_leaves_the_codebook_as_it_was_drawn_is_refused():
    vae = build_vae(model("model=vq"), SHAPE)
    with pytest.raises(UserError, match=r"does not train the codebook of model=vq; use loss=vq"):
        build_loss({"_target_": "vae_exp.objective.elbo.ELBO"}, vae, SHAPE)
    build_loss({"_target_": "vae_exp.objective.vq.VQ", "position_reduction": "mean"}, vae, SHAPE)


def test_labels_of_every_split_are_classes_of_the_model():
    vae = build_vae(model("model=conditional", "model.classes=3"), SHAPE)
    images = ImageSet(torch.zeros(4, *SHAPE), torch.tensor([0, 1, 2, 3]), 1)
    with pytest.raises(UserError, match=r"model\.classes=3 .* those of the validation images go from 0 to 3"):
        check_labels(vae, images, "validation")
    check_labels(vae, images.take(3), "validation")
    check_labels(vae, images.take(0), "validation")
    check_labels(build_vae(model(), SHAPE), images, "validation")
    with pytest.raises(UserError, match=r"The model needs labels"):
        check_labels(vae, ImageSet(images.pixels, None, 1), "test")


def test_a_key_that_has_moved_is_named_with_its_current_name():
    with pytest.raises(UserError, match=r"reduction is trainer\.loss_reduction now, so rename it in your YAML$"):
        build_loss(
            {"_target_": "vae_exp.objective.elbo.ELBO", "reduction": "sum"}, build_vae(model(), SHAPE), SHAPE
        )


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_optimizers_that_need_more_than_gradients_are_refused(name):
    with pytest.raises(UserError, match=rf"optimizer\._target_=torch\.optim\.{name}"):
        build_optimizer({"_target_": f"torch.optim.{name}", "lr": 0.1}, nn.Linear(2, 2).parameters())


class AdagradOfTorch211(torch.optim.Adagrad):
    """Has `fused` in its signature, and no such kernel for the device of these parameters."""

    __module__ = "torch.optim.adagrad"

    def step(self, closure=None):
        if self.defaults["fused"]:
            raise RuntimeError("`fused=True` requires all the params to be on supported devices")
        return super().step(closure)


def test_an_optimizer_without_a_fused_kernel_for_the_device_does_without(monkeypatch):
    monkeypatch.setattr(torch.optim, "Adagrad", AdagradOfTorch211)
    net = nn.Linear(2, 2)
    built = build_optimizer({"_target_": "torch.optim.Adagrad", "lr": 0.1}, net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    built.step()
    assert not built.defaults["fused"]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_a_fused_kernel_is_used_where_there_is_one(name):
    built = build_optimizer({"_target_": f"torch.optim.{name}", "lr": 0.1}, nn.Linear(2, 2).parameters())
    assert built.defaults["fused"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Nope"}, r"optimizer\._target_=torch\.optim\.Nope"),
        (
            {"_target_": "torch.optim.Adam", "lr": 1e-3, "foo": 3},
            r"optimizer\._target_=.* does not take optimizer\.foo; .* ~optimizer\.foo",
        ),
        (
            {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [2.0, 0.9]},
            r"optimizer\._target_=torch\.optim\.Adam .*Invalid beta",
        ),
        ({"_target_": "builtins.list"}, r"optimizer"),
    ],
)
def test_an_optimizer_that_cannot_be_built_names_its_key(node, message):
    with pytest.raises(UserError, match=message):
        build_optimizer(node, nn.Linear(2, 2).parameters())


def test_schedulers_need_an_optimizer_and_may_be_absent():
    optimizer = build_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1}, nn.Linear(2, 2).parameters())
    assert build_scheduler({"_target_": None}, optimizer) is None
    assert build_scheduler({}, optimizer) is None
    with pytest.raises(UserError, match=r"scheduler\._target_=.*step_size"):
        build_scheduler({"_target_": "torch.optim.lr_scheduler.StepLR"}, optimizer)


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("StepLR", "step_size", 0, "a whole number of at least 1"),
        ("StepLR", "step_size", 1.5, "a whole number of at least 1"),
        ("StepLR", "gamma", nan, "a finite number of at least 0"),
        ("CosineAnnealingLR", "T_max", "abc", "a whole number of at least 1"),
        ("CosineAnnealingLR", "eta_min", -1, "a finite number of at least 0"),
        ("CosineAnnealingLR", "T_max", None, "a whole number of at least 1"),
        ("CosineAnnealingLR", "T_max", [1, 1], "a whole number of at least 1"),
        ("MultiStepLR", "milestones", [3, -1], "a list of whole numbers of at least 1"),
        ("MultiStepLR", "milestones", 1, "a list of whole numbers of at least 1"),
        ("ReduceLROnPlateau", "patience", "abc", "a whole number of at least 0"),
        ("ReduceLROnPlateau", "factor", "half", "a finite number of at least 0 and below 1"),
        ("ReduceLROnPlateau", "min_lr", "abc", "a finite number of at least 0"),
        ("ReduceLROnPlateau", "min_lr", [0, -1], "a finite number of at least 0"),
        ("ReduceLROnPlateau", "factor", 1, "a finite number of at least 0 and below 1"),
    ],
)
def test_schedules_that_torch_would_stumble_over_are_refused_by_their_key(name, key, value, expected):
    optimizer = build_optimizer({"_target_": "torch.optim.SGD", "lr": 0.1}, nn.Linear(2, 2).parameters())
    with pytest.raises(UserError, match=rf"scheduler\.{key}=.* must be {expected}"):
        build_scheduler({"_target_": f"torch.optim.lr_scheduler.{name}", key: value}, optimizer)


def test_a_source_or_evaluator_without_its_methods_is_refused():
    with pytest.raises(UserError, match=r"evaluator\.mine\._target_=.* without 'run'"):
        build_evaluators({"mine": {"_target_": "torch.nn.Identity"}})
    config = composed("train", "data=digits", "data.source._target_=fractions.Fraction")
    with pytest.raises(UserError, match=r"data\.source\._target_=fractions\.Fraction .* without 'train'"):
        build_splits(parse_config(config, TrainConfig).data)


@pytest.mark.quick(2)
@pytest.mark.parametrize("loss", ["iwae", "miwae", "ciwae", "piwae", "dreg", "stl"])
def test_the_optimal_sigma_is_refused_where_draws_are_weighted(loss):
    config = resolve_to_dict(composed("train", "data=digits", "model/likelihood=gaussian_optimal", f"loss={loss}"))
    vae = build_vae(config["model"], SHAPE)
    several = {**config["loss"], "num_samples": 5}
    with pytest.raises(
        UserError, match=r"loss \(.*\) weighs \d+ draws of an image .* model/likelihood=gaussian_shared"
    ):
        build_loss(several, vae, SHAPE)
    one = {**config["loss"], "num_samples": 1, **({"num_bounds": 1} if loss == "piwae" else {})}
    assert build_loss(one, vae, SHAPE).weighted_draws == 1
    shared = resolve_to_dict(composed("train", "data=digits", "model/likelihood=gaussian_shared"))
    assert build_loss(several, build_vae(shared["model"], SHAPE), SHAPE).weighted_draws >= 5


@pytest.mark.quick(1)
@pytest.mark.parametrize("loss", ["beta_tcvae", "info_vae", "dip_vae"])
def test_a_batch_of_one_is_refused_where_images_are_compared(loss):
    config = resolve_to_dict(composed("train", "data=digits", f"loss={loss}"))
    vae = build_vae(config["model"], SHAPE)
    with pytest.raises(UserError, match=r"trainer\.batch_size=1 is too small for loss .*it must be at least 2"):
        build_loss(config["loss"], vae, SHAPE, 1000, 1)
    build_loss(config["loss"], vae, SHAPE, 1000, 2)
    build_loss({"_target_": "vae_exp.objective.elbo.ELBO"}, vae, SHAPE, 1000, 1)


def test_a_data_set_smaller_than_a_batch_is_refused():
    config = resolve_to_dict(composed("train", "data=digits", "loss=beta_tcvae", "loss.dataset_size=10"))
    vae = build_vae(config["model"], SHAPE)
    with pytest.raises(
        UserError, match=r"loss\.dataset_size=10 is less than trainer\.batch_size=100; leave it out"
    ):
        build_loss(config["loss"], vae, SHAPE, 1000, 100)
    build_loss(config["loss"], vae, SHAPE, 1000, 10)
