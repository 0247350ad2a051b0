"""From a config to the objects of an experiment; the only caller of `instantiate`."""

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_exp.configuration.renames import RENAMED_ARGUMENTS, RENAMED_KEYS
from vae_exp.configuration.schema import DataConfig
from vae_exp.configuration.shape_checks import check_likelihood, check_loss_terms, check_model_shapes
from vae_exp.configuration.value_checks import check_scheduler
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits, Source
from vae_exp.engine import torchrun
from vae_exp.engine.device import check_memory
from vae_exp.engine.flat_parameter import FlatParameter, can_be_flat
from vae_exp.engine.protocols import Evaluator
from vae_exp.errors import ArgumentError, UserError, did_you_mean, user_code_location
from vae_exp.model.initialization import init_bias_to_data_mean, initialize
from vae_exp.model.vae import VAE
from vae_exp.model.vq import VQEncoder
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
Node = Mapping[str, Any]
T = TypeVar("T")


def build_source(data: DataConfig) -> Source:
    """The source that `data` names; nothing is opened yet."""
    nulls = [name for name, value in data.source.items() if value is None]  # which Hydra's ~ cannot remove
    ignored = _not_taken(nulls, data.source.get("_target_"))
    node = {name: value for name, value in data.source.items() if name not in ignored}
    source: Source = _create(node, "data.source", needs=("train", "test"))
    return source


def build_splits(data: DataConfig, may_download: bool = True) -> DataSplits:
    """The splits that `data` describes; nothing is opened yet.

    Args:
        data: The group `data`.
        may_download: Whether the source may download files that are missing.
    """
    source = build_source(data)
    if not may_download and hasattr(source, "may_download"):
        source.may_download = False
    return DataSplits(
        source,
        data.image_shape,
        data.validation_size,
        data.split_seed,
        data.binarization,
        data.binarization_seed,
        data.augment,
    )


def build_vae(model: Node, image_shape: Sequence[int]) -> VAE:
    """The model, checked with two blank images before anything is trained.

    Args:
        model: The group `model`, all interpolations resolved.
        image_shape: `[channels, height, width]` of the data.

    Raises:
        UserError: if a part cannot be built, or if the parts do not fit one another or the images.
    """
    nodes = {"encoder": _with_posterior(model), "decoder": model["decoder"], "prior": model["prior"]}
    parts = {name: _create_module(node, f"model.{name}") for name, node in nodes.items()}
    for part in parts.values():
        initialize(part, model.get("initialization", "default"))
    vae = _create({"_target_": model["_target_"]}, "model", arguments=parts)
    if not isinstance(vae, VAE):
        raise UserError(f"model._target_={model['_target_']} is not a vae_exp.model.vae.VAE.")
    check_model_shapes(vae, model, list(image_shape))
    return vae


def init_output_bias(vae: VAE, output_bias: str, images: ImageSet) -> None:
    """Start the decoder at the mean of the training images, if `model.output_bias` says so.

    Raises:
        UserError: if the decoder has no bias for it.
    """
    if output_bias != "data_mean":
        return
    try:
        init_bias_to_data_mean(vae.decoder, images.mean())
    except ValueError as error:
        raise UserError(str(error)) from error


def init_codebook(vae: VAE, images: ImageSet) -> None:
    """Start the codebook at outputs for training images, if `model.encoder.codebook_init` says so."""
    if isinstance(vae.encoder, VQEncoder):
        vae.encoder.init_codebook(
            lambda count: images.random_subset(count).with_fixed_binarization().batch().images
        )


def build_loss(
    loss: Node,
    vae: VAE,
    image_shape: Sequence[int],
    training_images: int | None = None,
    batch_size: int | None = None,
    device: torch.device | None = None,
) -> Loss:
    """The loss, tried on two blank images.

    Args:
        loss: The group `loss`, all interpolations resolved.
        vae: The model that it will score, on the CPU.
        image_shape: `[channels, height, width]` of the data.
        training_images: How many there are; what a loss takes for its `dataset_size` where the config has null.
        batch_size: Images of a training step; None leaves it unchecked.
        device: Where eager steps in float32 will run; None leaves their memory unchecked.

    Raises:
        UserError: if it cannot be built, does not return one term per image, does not fit the likelihood or the
            size of a batch, or needs more memory than the device has.
    """
    arguments = dict(loss)
    if "dataset_size" in arguments and arguments["dataset_size"] is None:
        arguments["dataset_size"] = training_images
    built: Loss = _create(arguments, "loss")
    if not callable(built):
        raise UserError(f"loss._target_={loss['_target_']} makes no callable; expected (vae, images, generator).")
    least = getattr(built, "least_batch", 1)
    if batch_size is not None and batch_size < least:
        raise UserError(
            f"trainer.batch_size={batch_size} is too small for loss ({loss['_target_']}), which compares the "
            f"images of a batch; it must be at least {least}."
        )
    if batch_size is not None and "dataset_size" in arguments and arguments["dataset_size"] < batch_size:
        raise UserError(
            f"loss.dataset_size={arguments['dataset_size']} is less than trainer.batch_size={batch_size}; leave "
            f"it out for the number of training images."
        )
    check_likelihood(built, loss["_target_"], vae)
    if batch_size is not None and device is not None:
        check_memory(built, vae, image_shape, -(-batch_size // torchrun.world_size()), device)
    check_loss_terms(built, loss["_target_"], vae, list(image_shape))
    return built


def build_optimizer(optimizer: Node, parameters: Iterable[nn.Parameter], *, may_be_flat: bool = True) -> Optimizer:
    """The optimiser of the parameters that are not frozen; with torch's fused kernels where the config allows.

    On a GPU, one that treats every number alone is given all of them as one parameter, unless that is forbidden.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    factory = _create({**optimizer, "_partial_": True}, "optimizer")
    factory = prefer_fused_kernel(factory, optimizer, trained)
    built = _complete_partial(factory, "optimizer", optimizer, Optimizer, trained)
    if may_be_flat and can_be_flat(built, trained):
        built = _complete_partial(factory, "optimizer", optimizer, Optimizer, [FlatParameter(trained)])
    if isinstance(built, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise UserError(
            f"optimizer._target_={optimizer['_target_']} needs a closure or sparse gradients; "
            f"use one that steps on the gradients of a batch, such as torch.optim.Adam."
        )
    return built


def prefer_fused_kernel(factory: Any, optimizer: Node, parameters: Sequence[nn.Parameter]) -> Any:
    """The factory with `fused=True` where torch has such a kernel and the user has not chosen between them.

    A signature promises too much: Adagrad of torch 2.11 has `fused`, and no such kernel for CUDA. So one is tried.
    """
    target = getattr(factory, "func", factory)
    of_torch = getattr(target, "__module__", "").startswith("torch.optim.")
    chosen = any(optimizer.get(name) is not None for name in ("fused", "foreach", "differentiable"))
    if not of_torch or chosen or "fused" not in signature(target).parameters:
        return factory
    fused = partial(factory, fused=True)
    try:
        probe = nn.Parameter(parameters[0].new_zeros(1))
        probe.grad = torch.zeros_like(probe)
        fused([probe]).step()
    except Exception:  # without the kernel, or because of other options, which the caller reports
        return factory
    return fused


def build_scheduler(scheduler: Node, optimizer: Optimizer) -> LRScheduler | None:
    """The learning rate scheduler of this optimiser; None where the config names none."""
    if not scheduler.get("_target_"):
        return None
    check_scheduler("scheduler", scheduler)
    built = _create({**scheduler, "_partial_": True}, "scheduler")
    return _complete_partial(built, "scheduler", scheduler, LRScheduler, optimizer)


def build_evaluators(evaluators: Node) -> dict[str, Evaluator]:
    """The evaluators by name."""
    return {
        name: _create(node, f"evaluator.{name}", needs=("run", "every_n_epochs"))
        for name, node in evaluators.items()
    }


def _create(node: Node, key: str, needs: Sequence[str] = (), arguments: Mapping[str, Any] | None = None) -> Any:
    """Instantiate a node; whatever goes wrong names the key and the target."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}={node} cannot be instantiated; expected a mapping with _target_.")
    try:
        built = instantiate(dict(node), _convert_="all", **(arguments or {}))
    except (Exception, SystemExit) as error:  # of a constructor, wrapped or not as Hydra's version has it
        raise _as_user_error(error, key, node) from error
    for name in needs:
        if not hasattr(built, name):
            raise UserError(f"{key}._target_={node['_target_']} makes an object without '{name}'.")
    return built


def _with_posterior(model: Node) -> Node:
    """The encoder's node, with `model.posterior` for one that takes it: a user's own may have just one kind."""
    encoder: Node = model["encoder"]
    posterior = model.get("posterior", "diagonal")
    if posterior == "diagonal" or "posterior" in encoder:
        return encoder
    if "posterior" in _not_taken(["posterior"], encoder.get("_target_")):
        raise UserError(
            f"model.posterior={posterior} needs an encoder that takes posterior; {encoder['_target_']} does not."
        )
    return {**encoder, "posterior": posterior}


def _create_module(node: Node, key: str) -> nn.Module:
    built = _create(node, key)
    if not isinstance(built, nn.Module):
        raise UserError(f"{key}._target_={node.get('_target_')} is not a torch.nn.Module.")
    return built


def _complete_partial(factory: Any, key: str, node: Node, kind: type[T], argument: Any) -> T:
    try:
        built = factory(argument)
    except Exception as error:  # of a constructor
        raise _as_user_error(error, key, node) from error
    if not isinstance(built, kind):
        raise UserError(f"{key} makes a {type(built).__name__}; expected a {kind.__module__}.{kind.__name__}.")
    return built


def _as_user_error(error: BaseException, key: str, node: Node) -> UserError:
    """The root of an instantiation error in one line: all keys that a target does not take, or what it raised."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, UserError) and not isinstance(root, ArgumentError):
        return root
    unexpected = list(_unexpected_keys(node, key)) if isinstance(root, TypeError) else []
    key, node = _failing_node(error, key, node)
    named = re.match(r"[\w.]+(?==)", str(root)) if isinstance(root, ValueError) else None
    if named and (isinstance(root, ArgumentError) or named[0].rpartition(".")[2] in node):
        return UserError(str(root) if "." in named[0] else f"{key}.{root}")
    beginning = f"{key}._target_={node['_target_']} cannot be instantiated"
    if unexpected:
        names = {**RENAMED_KEYS, **RENAMED_ARGUMENTS}
        remedies = [
            f"{name} is {names[name]} now, so rename it in your YAML" for name in unexpected if name in names
        ]
        if removed := " ".join(f"~{name}" for name in unexpected if name not in names):
            remedies.append(f"leave out what you added, and remove what the defaults add: {removed}")
        return UserError(f"{beginning}: it does not take {', '.join(unexpected)}; {'; '.join(remedies)}")
    missing = re.search(r"missing \d+ required \S+ arguments?: (.*)", str(root))
    if missing and isinstance(root, TypeError):
        absent = [name for name in re.findall(r"'(\w+)'", missing[1]) if name not in node]
        if absent and not _not_taken(absent, node["_target_"]):
            remedy = " ".join(f"+{key}.{name}=…" for name in absent)
            return UserError(f"{beginning}: it needs {', '.join(absent)}; say {remedy}")
    module, _, name = node["_target_"].rpartition(".")
    if isinstance(root, ImportError) and module in sys.modules and not hasattr(sys.modules[module], name):
        classes = [key for key, value in vars(sys.modules[module]).items() if isinstance(value, type)]
        return UserError(f"{beginning}: {module} has no {name}; {did_you_mean(name, classes)}")
    reason = f"{type(root).__name__}: {root}"
    if root is error and isinstance(error, InstantiationException):
        reason = " ".join(str(error).partition("full_key:")[0].split())
    return UserError(f"{beginning}: {reason}{user_code_location(root)}")


def _failing_node(error: BaseException, key: str, node: Node) -> tuple[str, Node]:
    """The key and the node that Hydra's message names: a node in this one, or itself."""
    path = str(error).rpartition("full_key: ")[2].strip() if isinstance(error, InstantiationException) else ""
    inner: Any = node
    for part in path.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return (f"{key}.{path}", inner) if isinstance(inner, Mapping) and "_target_" in inner else (key, node)


def _unexpected_keys(node: Node, key: str) -> Iterator[str]:
    """The keys of a node, and of the nodes in it, that are no arguments of its target."""
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _unexpected_keys(value, f"{key}.{name}")
    arguments = [name for name in node if not name.startswith("_")]
    yield from (f"{key}.{name}" for name in _not_taken(arguments, node["_target_"]))


def _not_taken(arguments: Sequence[str], target: Any) -> list[str]:
    """Those arguments that are not in the signature of a target; none where it cannot be known."""
    try:
        located = get_object(target)
        bare = getattr(located, "__init__", None) is nn.Module.__init__  # which takes **kwargs to refuse them
        parameters = {} if bare else signature(located).parameters
    except Exception:  # importing a module may raise anything, and some classes in C have no signature
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [name for name in arguments if name not in parameters]
