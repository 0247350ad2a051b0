"""What all candidates share: images, batch size, device and a config that has a plain loop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vae_exp.configuration.instantiate import build_splits
from vae_exp.configuration.schema import DataConfig
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError

_COMPARABLE = {
    "model.encoder": "vae_exp.model.encoders.MLPEncoder",
    "model.decoder": "vae_exp.model.decoders.MLPDecoder",
    "model.likelihood": "vae_exp.model.likelihoods.BernoulliLikelihood",
    "model.prior": "vae_exp.model.priors.StandardNormalPrior",
    "loss": "vae_exp.objective.elbo.ELBO",
    "optimizer": "torch.optim.Adam",
}


@dataclass(frozen=True)
class Case:
    """What all candidates work on.

    Args:
        config: The benchmark's config as plain containers, all interpolations resolved.
        images: The training images in host memory, a whole number of batches.
        batch_size: Images per step.
        device: Where to train.

    Raises:
        UserError: if the plain loop cannot be the config's net, loss and optimiser.
    """

    config: Mapping[str, Any]
    images: ImageSet
    batch_size: int
    device: torch.device

    def __post_init__(self) -> None:
        for key, expected in _COMPARABLE.items():
            node: Any = self.config
            for part in key.split("."):
                node = node[part]
            if node.get("_target_") != expected:
                raise UserError(
                    f"{key}._target_={node.get('_target_')} has no plain loop beside it; use {expected}."
                )
        encoder, decoder = self.config["model"]["encoder"], self.config["model"]["decoder"]
        mine, other = decoder["activation"], encoder["activation"]
        if mine != other:
            raise UserError(f"model.decoder.activation={mine} is not the encoder's; use {other}.")
        if mine == "gated":
            raise UserError("model.activation=gated is not the plain loop's; use relu or another activation.")
        posterior = self.config["model"].get("posterior", "diagonal")
        if posterior != "diagonal":
            raise UserError(f"model.posterior={posterior} is not the plain loop's; use diagonal.")
        if self.config["data"].get("augment"):
            raise UserError(f"data.augment={self.config['data']['augment']} is not the plain loop's; use [].")
        if self.images.is_dynamic:
            raise UserError("data.binarization=dynamic is not the plain loop's; use none or fixed.")
        samples = self.config["loss"].get("num_samples", 1)
        if samples != 1:
            raise UserError(f"loss.num_samples={samples} is not the plain loop's; use 1.")


def training_images(data: DataConfig, batch_size: int) -> ImageSet:
    """The training images in host memory, as many as whole batches hold.

    Raises:
        UserError: if they are fewer than one batch.
    """
    images = build_splits(data).train
    if batch_size > len(images):
        raise UserError(f"batch_size=[{batch_size}] is larger than the {len(images)} training images; use fewer.")
    return images.take(len(images) // batch_size * batch_size)
