"""What a CUDA graph forbids, checked on the CPU; and every combination of the parts that the configs offer.

A recording allows no read of a value on the host. A dispatch mode sees the operations that read one, on the CPU as
on CUDA: `item`, `bool` of a tensor, `nonzero` and what is built on it, error checks of factorisations. A function
mode sees the methods that copy to the host, which are no operations on the CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import make_train_step
from tests.composing import composed
from vae_exp.configuration.config_dir import config_dir
from vae_exp.configuration.instantiate import build_loss, build_vae
from vae_exp.data.images import ImageSet
from vae_exp.engine.cuda_graph import first_difference, host_state
from vae_exp.engine.train_step import ModelWithLoss, TrainStep
from vae_exp.errors import UserError
from vae_exp.model.vae import VAE

READS = {
    f"aten::{name}"
    for name in (
        "_local_scalar_dense", "is_nonzero", "nonzero", "nonzero_numpy", "masked_select", "equal",
        "_linalg_check_errors", "_unique2", "unique_dim", "unique_consecutive", "bincount",
        "repeat_interleave.Tensor",
    )
}  # fmt: skip
COPIES = {
    "cpu",
    "numpy",
    "tolist",
    "item",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
    "pin_memory",
}
CONSTANTS = {"aten::lift_fresh"}  # a tensor of a Python number: on CUDA a copy from the host that is waited for


class HostReadError(Exception):
    """Something that no recording allows."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in READS | CONSTANTS or f"{name}.{func._overloadname}" in READS:
            raise HostReadError(name)
        indices = args[1] if name in ("aten::index", "aten::index_put", "aten::index_put_") else ()
        if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
            raise HostReadError(f"{name} with a mask")
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in COPIES and args and isinstance(args[0], Tensor):
            raise HostReadError(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads() -> Iterator[None]:
    """A block in which nothing may be read on the host.

    Raises:
        HostReadError: names the operation.
    """
    with _Operations(), _Methods():
        yield


# Every combination


SHAPE = [1, 8, 8]
COUNT = 24
OWN_PRIOR = ("fsq", "hierarchical", "vq")
POSTERIORS = ("diagonal", "full_covariance", "flow")
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_dims": [8]},
    "conditional": {"hidden_dims": [8]},
    "conv": {"hidden_dims": [4], "latent_dim": 2},
    "resnet": {"hidden_dims": [8], "latent_dim": 2},
    "hierarchical": {"hidden_dims": [8], "top_hidden_dims": [8], "latent_dims": [3, 2]},
    "vq": {"hidden_dims": [4], "num_codes": 5, "code_dim": 2},
    "fsq": {"hidden_dims": [4], "encoder": {"levels": [4, 3]}},
    "prior/vamp": {"components": 3},
    "prior/flow": {"hidden_dims": [8]},
    "likelihood/discretized_logistic": {"levels": 17},
    "likelihood/discretized_logistic_mixture": {"levels": 17, "components": 2},
    "likelihood/categorical": {"levels": 17},
}


def options(group: str) -> list[str]:
    """The names of a config group's options, less parts of other options and old names."""
    names = sorted(path.stem for path in (Path(config_dir()) / group).glob("*.yaml"))
    return [name for name in names if not name.startswith("_") and name != "two_layer"]


MODELS, PRIORS, LIKELIHOODS = options("model"), options("model/prior"), options("model/likelihood")
LOSSES = options("loss")
Parts = tuple[str, str, str, str]  # model, prior, posterior, likelihood


@cache
def _base(model: str) -> dict[str, Any]:
    """Parts of a config as plain containers, which are copied faster."""
    config = composed("train", "data=digits", f"model={model}")
    return {key: OmegaConf.to_container(config[key]) for key in ("model", "data", "trainer")}


@cache
def _option(group: str, name: str) -> Any:
    return OmegaConf.load(Path(config_dir()) / group / f"{name}.yaml")


def model_of(parts: Parts, **encoder: Any) -> VAE:
    """A small model of these parts, always the same.

    Args:
        parts: The options of the groups.
        encoder: Other options of its encoder.

    Raises:
        UserError: if a part does not take another.
    """
    model, prior, posterior, likelihood = parts
    config = OmegaConf.create(_base(model))
    chosen = {"likelihood": likelihood} | ({} if model in OWN_PRIOR else {"prior": prior})
    for part, name in chosen.items():
        config.model[part] = OmegaConf.merge(_option(f"model/{part}", name), SMALL.get(f"{part}/{name}", {}))
    config.model = OmegaConf.merge(config.model, {"posterior": posterior, **SMALL[model]})
    config.model.encoder = OmegaConf.merge(config.model.encoder, encoder)
    config.data.image_shape = SHAPE
    torch.manual_seed(0)
    return build_vae(OmegaConf.to_container(config.model, resolve=True), SHAPE)


def loss_of(name: str, vae: VAE) -> Any:
    """The loss with its defaults, on few samples.

    Raises:
        UserError: if the model cannot serve it.
    """
    config = OmegaConf.create({**_base("mlp"), "loss": _option("loss", name)})
    settings = OmegaConf.to_container(config.loss, resolve=True)
    settings |= {key: min(settings[key], 4) for key in ("num_samples", "num_bounds") if key in settings}
    return build_loss(settings, vae, SHAPE, COUNT)


def images() -> ImageSet:
    """Grey images of 17 levels with labels of ten classes."""
    pixels = torch.randint(17, (COUNT, *SHAPE), generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels.to(torch.uint8), torch.arange(COUNT) % 10, 16)


def step_of(
    vae: VAE, loss: Any, optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer], **options: Any
) -> TrainStep:
    """A training step on batches of four, on the device of the model, that checks nothing on the host."""
    data, parameters = images().to(next(vae.parameters()).device), list(vae.parameters())
    step = make_train_step(
        ModelWithLoss(vae, loss),
        optimizer(parameters),
        data if vae.needs_labels else data.without_labels(),
        [4] * (COUNT // 4),
        **{"max_grad_norm": 1.0} | options,
    )
    step._on_host = False
    return step


def covering(loss: str) -> list[Parts]:
    """Every prior with every posterior, and every likelihood and model at least once, for one loss."""
    if loss == "vq":
        return [("vq", "standard_normal", "diagonal", likelihood) for likelihood in LIKELIHOODS]
    models = [model for model in MODELS if model not in OWN_PRIOR]
    pairs = enumerate(product(PRIORS, POSTERIORS), start=LOSSES.index(loss))
    parts = [
        (models[at % len(models)], prior, posterior, LIKELIHOODS[at % len(LIKELIHOODS)])
        for at, (prior, posterior) in pairs
    ]
    return [*parts, ("hierarchical", "standard_normal", "diagonal", "bernoulli"), ("mlp", *parts[0][1:])]


def host_read(parts: Parts, losses: list[str]) -> dict[str, str | None]:
    """What a step with these parts reads on the host, by loss; `refused` where a part does not take another."""
    try:
        vae = model_of(parts)
    except UserError:
        return dict.fromkeys(losses, "refused")
    return {loss: _host_read(vae, loss) for loss in losses}


def _host_read(vae: VAE, loss: str) -> str | None:
    try:
        built = loss_of(loss, vae)
    except UserError:
        return "refused"
    return read_by(step_of(vae, built, lambda parameters: torch.optim.SGD(parameters, lr=1e-6)))


def read_by(step: TrainStep) -> str | None:
    """What the second step reads or changes on the host; the first may prepare constants, as warm-up steps do."""
    step(4)
    before = host_state(step.model_with_loss, step.optimizer)
    try:
        with no_host_reads():
            step(4)
    except HostReadError as error:
        return str(error)
    changed = first_difference(before, host_state(step.model_with_loss, step.optimizer))
    return None if changed is None else f"{changed} changes"
