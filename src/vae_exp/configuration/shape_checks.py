"""A dry run of the model and the loss on two blank images, and checks of labels and evaluators."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vae_exp.data.images import Batch, ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.engine.protocols import Evaluator
from vae_exp.errors import UserError, user_code_location
from vae_exp.model.conditional import ConditionalVAE
from vae_exp.model.likelihoods import OptimalGaussianLikelihood
from vae_exp.model.vae import VAE
from vae_exp.model.vq import VQEncoder
from vae_exp.objective.loss_terms import Loss, needs_labels

_log = logging.getLogger(__name__)


def check_labels(vae: VAE, images: ImageSet, split: str, loss: Loss | None = None) -> None:
    """Refuse data without labels that the model or the loss needs, or with other classes than the model's.

    Args:
        vae: The model.
        images: Of one split; there may be none.
        split: Which one, for the message.
        loss: The loss, in training.

    Raises:
        UserError: if there are no labels, or others than the model knows.
    """
    if not len(images):
        return
    if images.labels is None:
        if vae.needs_labels or getattr(loss, "needs_labels", False):
            part = "model" if vae.needs_labels else "loss"
            raise UserError(f"The {part} needs labels, and the data have none; use another {part}.")
        return
    if not isinstance(vae, ConditionalVAE):
        return
    least, most = int(images.labels.min()), int(images.labels.max())
    if least < 0 or most >= vae.classes:
        raise UserError(
            f"model.classes={vae.classes} is for labels from 0 to {vae.classes - 1}; those of the {split} images "
            f"go from {least} to {most}."
        )


def check_evaluators(evaluators: Mapping[str, Evaluator], vae: VAE, images: ImageSet) -> None:
    """Call `check` on every evaluator that defines it, with the images that it will score.

    Raises:
        UserError: with the reason why one cannot be used.
    """
    for evaluator in evaluators.values():
        check = getattr(evaluator, "check", None)
        if callable(check):
            check(vae, images)


def check_model_shapes(vae: VAE, model: Mapping[str, Any], image_shape: list[int]) -> None:
    """Encode and decode two blank images, and compare what comes out with what the config says.

    Args:
        vae: The model, on the CPU.
        model: The group `model` of its config.
        image_shape: `[channels, height, width]` of the data.

    Raises:
        UserError: if a part fails, or returns a distribution of another shape or kind.
    """
    was_training = vae.training
    vae.eval()
    images, labels = torch.zeros(2, *image_shape), torch.zeros(2, dtype=torch.int64)
    latent_dim = model["latent_dim"]
    encoder, decoder = model["encoder"]["_target_"], model["decoder"]["_target_"]
    with torch.no_grad():
        posterior = _call_or_user_error(
            partial(vae.encode, images, labels), f"model.encoder ({encoder}) on images of {image_shape}"
        )
        shape = _shape(posterior)
        expected = [2, shape[-1] if latent_dim is None else int(latent_dim)]
        if shape != expected:
            raise UserError(
                f"model.encoder ({encoder}) returns a posterior over {shape}; "
                f"expected {expected} for two images, as model.latent_dim={expected[1]} says."
            )
        _require_joint(posterior, 1, f"model.encoder ({encoder})")
        if not posterior.has_rsample:
            raise UserError(f"model.encoder ({encoder}) returns a posterior without rsample; gradients need one.")
        latents = sample(posterior, torch.Generator().manual_seed(0), (1,))
        likelihood = _call_or_user_error(
            partial(vae.decode, latents, labels), f"model.decoder ({decoder}) on latents of [1, 2, {expected[1]}]"
        )
        shape = _shape(likelihood)
        if shape != [1, 2, *image_shape]:
            raise UserError(
                f"model.decoder ({decoder}) returns a likelihood over {shape}; "
                f"expected {[1, 2, *image_shape]} for latents of [1, 2, {expected[1]}]."
            )
        _require_joint(likelihood, 2, f"model.decoder ({decoder})")
        prior = _call_or_user_error(vae.prior, f"model.prior ({model['prior']['_target_']})")
        if list(prior.event_shape) != expected[1:]:
            raise UserError(f"model.prior is over {list(prior.event_shape)}; expected {expected[1:]}.")
    vae.train(was_training)


def check_likelihood(loss: Loss, target: str, vae: VAE) -> None:
    """Refuse a loss that weighs draws under a likelihood whose σ is fitted to all of them.

    Args:
        loss: The loss.
        target: Its class, as the config names it.
        vae: The model.

    Raises:
        UserError: names the likelihoods and losses that fit.
    """
    draws = getattr(loss, "weighted_draws", 1)
    if draws > 1 and any(isinstance(each, OptimalGaussianLikelihood) for each in vae.modules()):
        raise UserError(
            f"loss ({target}) weighs {draws} draws of an image against one another, and "
            f"model/likelihood=gaussian_optimal fits σ to all draws alike: that σ is not the optimum of such a "
            f"loss, so that its gradient would be wrong. Use model/likelihood=gaussian_shared, which learns σ, "
            f"or loss=elbo."
        )


def check_loss_terms(loss: Loss, target: str, vae: VAE, image_shape: list[int]) -> None:
    """Compute a loss on two blank images; warn of parameters that it does not depend on.

    Args:
        loss: The loss.
        target: Its class, as the config names it.
        vae: The model, on the CPU.
        image_shape: `[channels, height, width]` of the data.

    Raises:
        UserError: if it fails, does not return one value per image, has no gradient, or leaves a codebook
            untrained.
    """
    labels = torch.zeros(2, dtype=torch.int64) if needs_labels(vae, loss) else None
    batch = Batch(torch.zeros(2, *image_shape), labels)
    was_training = vae.training
    with torch.random.fork_rng(devices=[]):
        try:
            terms = loss(vae.eval(), batch, torch.Generator().manual_seed(0))
            if isinstance(terms, Tensor | tuple):
                raise TypeError(
                    f"it returns a {type(terms).__name__}, and LossTerms(loss, distortion, rate) of "
                    f"vae_exp.objective.loss_terms is expected"
                )
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
    _warn_unused_parameters(vae, terms.loss, target)


def _warn_unused_parameters(vae: VAE, loss: Tensor, target: str) -> None:
    """Warn of parameters that the loss does not depend on; refuse a codebook that would stay as it was drawn."""
    parameters = [(name, x) for name, x in vae.named_parameters() if x.requires_grad]
    gradients = torch.autograd.grad(loss.sum(), [parameter for _, parameter in parameters], allow_unused=True)
    unused = [name for (name, _), gradient in zip(parameters, gradients, strict=True) if gradient is None]
    if isinstance(vae.encoder, VQEncoder) and "encoder.codebook" in unused:
        raise UserError(f"loss ({target}) does not train the codebook of model=vq; use loss=vq.")
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        _log.warning(
            "loss (%s) does not depend on %s%s: they will not be trained.", target, ", ".join(unused[:3]), more
        )


def _require_joint(distribution: Distribution, batch_axes: int, label: str) -> None:
    """A factorised density must be one density of the whole event, or sums over it are wrong."""
    extra = len(distribution.batch_shape) - batch_axes
    if extra:
        raise UserError(
            f"{label} returns a {type(distribution).__name__} with a batch of {list(distribution.batch_shape)}; "
            f"wrap it in torch.distributions.Independent(…, {extra}), so that log_prob sums over the event."
        )


def _call_or_user_error(part: Callable[[], Any], label: str) -> Distribution:
    try:
        result = part()
    except Exception as error:  # of a user's class
        raise UserError(f"{label} fails: {type(error).__name__}: {error}{user_code_location(error)}.") from error
    if not isinstance(result, Distribution):
        raise UserError(f"{label} returns a {type(result).__name__}; expected a torch.distributions object.")
    return result


def _shape(distribution: Distribution) -> list[int]:
    return [*distribution.batch_shape, *distribution.event_shape]
