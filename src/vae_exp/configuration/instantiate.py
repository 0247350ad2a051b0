"""The one room that calls `instantiate`: from a config to the objects of an experiment."""

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
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_exp.configuration.schema import DataConfig
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.distributions.sampling import sample
from vae_exp.engine import torchrun
from vae_exp.engine.device import check_memory
from vae_exp.engine.protocols import Evaluator
from vae_exp.errors import UserError, did_you_mean, user_code_location
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.gaussian_likelihoods import OptimalGaussianLikelihood
from vae_exp.model.initialization import initialize, start_at_mean
from vae_exp.model.vae import VAE
from vae_exp.model.vq import VQEncoder
from vae_exp.objective.loss_terms import Loss

_log = logging.getLogger(__name__)
Node = Mapping[str, Any]
T = TypeVar("T")


def build_splits(data: DataConfig, may_download: bool = True) -> DataSplits:
    """The splits that `data` describes; nothing is opened yet.

    Args:
        data: The group `data`.
        may_download: Whether the source may download files that are missing.
    """
    source = _create(data.source, "data.source", needs=("train", "test"))
    if not may_download and hasattr(source, "may_download"):
        source.may_download = False
    return DataSplits(
        source,
        data.image_shape,
        data.validation_size,
        data.split_seed,
        data.binarization,
        data.binarization_seed,
    )


_LEAST_OF_SCHEDULERS = {"step_size": 1, "T_max": 1, "milestones": 1, "patience": 0}


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
        initialize(part, model.get("initialization", "torch"))
    vae = _create({"_target_": model["_target_"]}, "model", arguments=parts)
    if not isinstance(vae, VAE):
        raise UserError(f"model._target_={model['_target_']} is not a vae_exp.model.vae.VAE.")
    _check_fit(vae, model, list(image_shape))
    return vae


def init_output_bias(vae: VAE, output_bias: str, images: ImageSet) -> None:
    """Start the decoder at the mean of the training images, if `model.output_bias` says so.

    Raises:
        UserError: if the decoder has no bias for it.
    """
    if output_bias != "data_mean":
        return
    try:
        start_at_mean(vae.decoder, images.mean())
    except ValueError as error:
        raise UserError(str(error)) from error


def check_labels(vae: VAE, images: ImageSet, split: str) -> None:
    """Refuse data whose labels are not the classes of a conditional model.

    Args:
        vae: The model.
        images: Of one split; there may be none.
        split: Which one, for the message.

    Raises:
        UserError: if there are no labels, or others than the model knows.
    """
    if not isinstance(vae, ConditionalVAE) or not len(images):
        return
    if images.labels is None:
        raise UserError("model=conditional needs labels, and the data have none; use another model.")
    least, most = int(images.labels.min()), int(images.labels.max())
    if least < 0 or most >= vae.classes:
        raise UserError(
            f"model.classes={vae.classes} is for labels from 0 to {vae.classes - 1}; those of the {split} images "
            f"go from {least} to {most}."
        )


def build_loss(
    loss: Node,
    vae: VAE,
    image_shape: Sequence[int],
    training_images: int | None = None,
    batch_size: int | None = None,
    device: torch.device | None = None,
) -> Loss:
    """The loss, tried on two blank images; `reduction` is the training step's and not passed on.

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
    arguments = {key: value for key, value in loss.items() if key != "reduction"}
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
    _check_likelihood(built, loss["_target_"], vae)
    if batch_size is not None and device is not None:
        check_memory(built, vae, image_shape, -(-batch_size // torchrun.world_size()), device)
    _check_terms(built, loss["_target_"], vae, list(image_shape))
    return built


def build_optimizer(optimizer: Node, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser over these parameters; torch's fused kernels are used unless the config says otherwise."""
    trained = list(parameters)
    factory = _create({**optimizer, "_partial_": True}, "optimizer")
    built = _finish(_fused(factory, optimizer, trained), "optimizer", optimizer, Optimizer, trained)
    if isinstance(built, torch.optim.LBFGS | torch.optim.SparseAdam):
        raise UserError(
            f"optimizer._target_={optimizer['_target_']} needs a closure or sparse gradients; "
            f"use one that steps on the gradients of a batch, such as torch.optim.Adam."
        )
    return built


def build_scheduler(scheduler: Node, optimizer: Optimizer) -> LRScheduler | None:
    """The learning rate scheduler of this optimiser; None where the config names none."""
    if not scheduler.get("_target_"):
        return None
    for (
        name,
        least,
    ) in _LEAST_OF_SCHEDULERS.items():  # torch fails after an epoch, or takes them for something else
        values = scheduler.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int) and value < least:
                raise UserError(f"scheduler.{name}={values} must be at least {least}.")
    built = _create({**scheduler, "_partial_": True}, "scheduler")
    return _finish(built, "scheduler", scheduler, LRScheduler, optimizer)


def build_evaluators(evaluators: Node) -> dict[str, Evaluator]:
    """The evaluators by name."""
    return {
        name: _create(node, f"evaluator.{name}", needs=("run", "every_n_epochs"))
        for name, node in evaluators.items()
    }


def check_evaluators(evaluators: Mapping[str, Evaluator], vae: VAE, images: ImageSet) -> None:
    """Let evaluators look at what they will score; those that mind have a method `check`.

    Raises:
        UserError: with the reason why one cannot be used.
    """
    for evaluator in evaluators.values():
        check = getattr(evaluator, "check", None)
        if callable(check):
            check(vae, images)


def _create(node: Node, key: str, needs: Sequence[str] = (), arguments: Mapping[str, Any] | None = None) -> Any:
    """Instantiate a node; whatever goes wrong names the key and the target."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}={node} cannot be instantiated; expected a mapping with _target_.")
    try:
        built = instantiate(dict(node), _convert_="all", **(arguments or {}))
    except Exception as error:  # of a constructor, wrapped or not as Hydra's version has it
        raise _explained(error, key, node) from error
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


def _finish(factory: Any, key: str, node: Node, kind: type[T], argument: Any) -> T:
    try:
        built = factory(argument)
    except Exception as error:  # of a constructor
        raise _explained(error, key, node) from error
    if not isinstance(built, kind):
        raise UserError(f"{key} makes a {type(built).__name__}; expected a {kind.__module__}.{kind.__name__}.")
    return built


def _fused(factory: Any, optimizer: Node, parameters: Sequence[nn.Parameter]) -> Any:
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


def _explained(error: Exception, key: str, node: Node) -> UserError:
    """The root of an instantiation error in one line: all keys that a target does not take, or what it raised."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    if isinstance(root, UserError):
        return root
    if isinstance(root, ValueError) and re.match(r"[\w.]+=", str(root)):  # names the key and the value itself
        return UserError(str(root))
    beginning = f"{key}._target_={node['_target_']} cannot be instantiated"
    unexpected = list(_unexpected_keys(node, key))
    if isinstance(root, TypeError) and unexpected:
        removed = " ".join(f"~{each}" for each in unexpected)
        remedy = f"leave out what you added, and remove what the defaults add: {removed}"
        return UserError(f"{beginning}: it does not take {', '.join(unexpected)}; {remedy}")
    module, _, name = node["_target_"].rpartition(".")
    if isinstance(root, ImportError) and module in sys.modules:
        classes = [key for key, value in vars(sys.modules[module]).items() if isinstance(value, type)]
        return UserError(f"{beginning}: {module} has no {name}; {did_you_mean(name, classes)}")
    reason = f"{type(root).__name__}: {root}"
    if root is error and isinstance(error, InstantiationException):
        reason = " ".join(str(error).partition("full_key:")[0].split())
    return UserError(f"{beginning}: {reason}{user_code_location(root)}")


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
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return []
    return [name for name in arguments if name not in parameters]


def _check_fit(vae: VAE, model: Node, image_shape: list[int]) -> None:
    was_training = vae.training
    vae.eval()
    images = torch.zeros(2, *image_shape)
    latent_dim = model["latent_dim"]
    encoder, decoder = model["encoder"]["_target_"], model["decoder"]["_target_"]
    with torch.no_grad(), vae.given(torch.zeros(2, dtype=torch.int64)):
        posterior = _tried(vae.encode, images, f"model.encoder ({encoder}) on images of {image_shape}")
        found = _shape(posterior)
        wanted = [2, found[-1] if latent_dim is None else int(latent_dim)]
        if found != wanted:
            raise UserError(
                f"model.encoder ({encoder}) returns a posterior over {found}; "
                f"expected {wanted} for two images, as model.latent_dim={wanted[1]} says."
            )
        _require_joint(posterior, 1, f"model.encoder ({encoder})")
        if not posterior.has_rsample:
            raise UserError(f"model.encoder ({encoder}) returns a posterior without rsample; gradients need one.")
        latents = sample(posterior, torch.Generator().manual_seed(0), (1,))
        likelihood = _tried(vae.decode, latents, f"model.decoder ({decoder}) on latents of [1, 2, {wanted[1]}]")
        found = _shape(likelihood)
        if found != [1, 2, *image_shape]:
            raise UserError(
                f"model.decoder ({decoder}) returns a likelihood over {found}; "
                f"expected {[1, 2, *image_shape]} for latents of [1, 2, {wanted[1]}]."
            )
        _require_joint(likelihood, 2, f"model.decoder ({decoder})")
        prior = _tried(vae.prior, None, f"model.prior ({model['prior']['_target_']})")
        if list(prior.event_shape) != wanted[1:]:
            raise UserError(f"model.prior is over {list(prior.event_shape)}; expected {wanted[1:]}.")
    vae.train(was_training)


def _check_likelihood(loss: Loss, target: str, vae: VAE) -> None:
    draws = getattr(loss, "weighted_draws", 1)
    if draws > 1 and any(isinstance(each, OptimalGaussianLikelihood) for each in vae.modules()):
        raise UserError(
            f"loss ({target}) weighs {draws} draws of an image against one another, and "
            f"model/likelihood=gaussian_optimal fits σ to all draws alike: that σ is not the optimum of such a "
            f"loss, so that its gradient would be wrong. Use model/likelihood=gaussian_shared, which learns σ, "
            f"or loss=elbo."
        )


def _check_terms(loss: Loss, target: str, vae: VAE, image_shape: list[int]) -> None:
    images = torch.zeros(2, *image_shape)
    was_training = vae.training
    with torch.random.fork_rng(devices=[]):
        try:
            with vae.given(torch.zeros(2, dtype=torch.int64)):
                terms = loss(vae.eval(), images, torch.Generator().manual_seed(0))
            shapes = {name: list(getattr(terms, name).shape) for name in ("loss", "distortion", "rate")}
        except Exception as error:  # of a user's class
            reason = f"{type(error).__name__}: {error}{user_code_location(error)}"
            raise UserError(f"loss ({target}) fails on two images: {reason}.") from error
        finally:
            vae.train(was_training)
    for name, shape in shapes.items():
        if shape != [2]:
            raise UserError(
                f"loss ({target}) returns '{name}' of shape {shape}; expected one value per image, [2]."
            )
    if not terms.loss.requires_grad:
        raise UserError(
            f"loss ({target}) returns a 'loss' without a gradient: nothing of the model depends on it."
        )
    _tell_idle_parameters(vae, terms.loss, target)


def _tell_idle_parameters(vae: VAE, loss: Tensor, target: str) -> None:
    """Warn of parameters that the loss does not depend on; refuse a codebook that would stay as it was drawn."""
    named = [(name, each) for name, each in vae.named_parameters() if each.requires_grad]
    gradients = torch.autograd.grad(loss.sum(), [each for _, each in named], allow_unused=True)
    idle = [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]
    if isinstance(vae.encoder, VQEncoder) and "encoder.codebook" in idle:
        raise UserError(f"loss ({target}) does not train the codebook of model=vq; use loss=vq.")
    if idle:
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        _log.warning(
            "loss (%s) does not depend on %s%s: they will not be trained.", target, ", ".join(idle[:3]), more
        )


def _require_joint(distribution: Distribution, batch_axes: int, what: str) -> None:
    """A factorised density must be one density of the whole event, or sums over it go astray."""
    loose = len(distribution.batch_shape) - batch_axes
    if loose:
        raise UserError(
            f"{what} returns a {type(distribution).__name__} with a batch of {list(distribution.batch_shape)}; "
            f"wrap it in torch.distributions.Independent(…, {loose}), so that log_prob sums over the event."
        )


def _tried(part: Any, argument: Tensor | None, what: str) -> Distribution:
    try:
        result = part() if argument is None else part(argument)
    except Exception as error:  # of a user's class
        raise UserError(f"{what} fails: {type(error).__name__}: {error}{user_code_location(error)}.") from error
    if not isinstance(result, Distribution):
        raise UserError(f"{what} returns a {type(result).__name__}; expected a torch.distributions object.")
    return result


def _shape(distribution: Distribution) -> list[int]:
    return [*distribution.batch_shape, *distribution.event_shape]
