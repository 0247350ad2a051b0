"""A mixture of Gaussians that is fitted to the codes of training images after training, to draw samples from."""

import hashlib
import json
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from vae_exp.data.images import ImageSet
from vae_exp.distributions.codebook import UniformCodebookPrior
from vae_exp.distributions.sampling import sample
from vae_exp.errors import UserError, quantity
from vae_exp.model.vae import VAE
from vae_exp.storage.atomic_io import MAX_BYTES, write_atomically

_log = logging.getLogger(__name__)
_BATCH = 500  # images
_MAX_ITERATIONS = 300
_NAMES = ("weights", "means", "covariances")


class FittedPrior(nn.Module):
    """Σₖ wₖ N(μₖ, Σₖ) in place of p(z) (Ghosh et al. 2020, section 4: density estimation after training).

    Args:
        weights: w, `[components]`.
        means: μ, `[components, latent_dim]`.
        covariances: Σ, `[components, latent_dim, latent_dim]`.
    """

    weights: Tensor
    means: Tensor
    scale_tril: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float())
        self.register_buffer("means", means.float())
        self.register_buffer("scale_tril", torch.linalg.cholesky(covariances.double()).float())

    def forward(self) -> Distribution:
        """The distribution, with event shape `[latent_dim]`."""
        components = MultivariateNormal(self.means, scale_tril=self.scale_tril, validate_args=False)
        return MixtureSameFamily(Categorical(self.weights, validate_args=False), components, validate_args=False)


def prior_name(vae: VAE) -> str:
    """What samples of a model are drawn from, for titles and messages."""
    return "a mixture fitted to the codes" if isinstance(vae.prior, FittedPrior) else "p(z)"


def load_or_fit_prior(
    path: Path, vae: VAE, images: ImageSet, components: int, seed: int, about: Mapping[str, Any]
) -> FittedPrior:
    """The mixture that a file holds, if it is of these very weights and settings; else fit it and write the file.

    It is fitted by expectation maximisation (scikit-learn) to one draw z ~ q(z|x) for each image. Draws, because
    the mixture stands for the aggregate posterior, which is what the decoder was trained on; posterior means are
    narrower, in a unit that is not used without any width.

    Args:
        path: The `.npz` file.
        vae: The model, in evaluation mode.
        images: The training images.
        components: Gaussians of the mixture.
        seed: Of the draws and of the start of the fit.
        about: What else the file says of itself, such as the checkpoint.

    Raises:
        UserError: if the latents have no density, or if so many components cannot be fitted.
    """
    if isinstance(vae.prior(), UniformCodebookPrior):
        raise UserError(
            "prior=fitted fits a density to latents, and the codes of a VQ-VAE have none; use prior=model."
        )
    about = {**about, "weights": _digest(vae), "images": len(images), "components": components, "seed": seed}
    identity = json.dumps(about)
    arrays = _read(path, identity)
    if arrays is None:
        if len(images) < components:
            raise UserError(f"components={components} needs as many training images; the run has {len(images)}.")
        arrays = _fit(_draw_codes(vae, images, seed), components, seed)
        contents: dict[str, Any] = {"identity": np.array(identity), **arrays}
        write_atomically(path, lambda file: np.savez(file, **contents))
        mixture = quantity(components, "Gaussian")
        _log.info("A mixture of %s was fitted to %d codes: %s", mixture, len(images), path)
    else:
        _log.info("The mixture is that of %s", path)
    return FittedPrior(*(torch.from_numpy(arrays[name]) for name in _NAMES)).to(images.device)


def _draw_codes(vae: VAE, images: ImageSet, seed: int) -> np.ndarray:
    """One draw from the posterior of each image, `[N, latent_dim]`."""
    generator = torch.Generator(images.device).manual_seed(seed)
    batches = images.with_fixed_binarization().batches(_BATCH)
    with torch.no_grad():
        draws = [sample(vae.encode(batch.images, batch.labels), generator).cpu() for batch in batches]
    return torch.cat(draws).double().numpy()


def _fit(codes: np.ndarray, components: int, seed: int) -> dict[str, np.ndarray]:
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, max_iter=_MAX_ITERATIONS, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say follows
        try:
            mixture.fit(codes)
        except ValueError as error:
            raise UserError(f"components={components} cannot be fitted to {len(codes)} codes: {error}") from error
    if not mixture.converged_:
        _log.warning("The mixture has not converged after %d iterations.", _MAX_ITERATIONS)
    return {"weights": mixture.weights_, "means": mixture.means_, "covariances": mixture.covariances_}


def _read(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """The arrays of a file of this identity; None for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(member.file_size for member in file.zip.infolist()) > MAX_BYTES or file["identity"] != identity:
                return None
            return {name: file[name] for name in _NAMES}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _digest(vae: VAE) -> str:
    digest = hashlib.sha256()
    for name, tensor in vae.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
