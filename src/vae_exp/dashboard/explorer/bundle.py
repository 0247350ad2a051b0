"""The latent space of a run as bytes for the page: one JSON object and its arrays."""

import json
import logging
import time
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vae_exp.dashboard.explorer.layers import DecoderLayer, decoder_layers
from vae_exp.data.images import ImageSet
from vae_exp.distributions.sampling import sample
from vae_exp.errors import UserError
from vae_exp.evaluation.active_units import rate_per_unit
from vae_exp.evaluation.image_scores import encode_by_batch
from vae_exp.model.vae import VAE
from vae_exp.model.vq import CodeEncoder, code_grid
from vae_exp.runs.trained_run import TrainedRun

Array = npt.NDArray[Any]
MAX_CODES = 4_000  # images whose codes are shown
MAX_IMAGES = 120  # images that can be chosen
_MAX_PIXEL_BYTES = 2_000_000
_PRIOR_DRAWS = 200
_SCORE_DRAWS = 10  # of z for each image
_ACTIVE_VARIANCE = 0.01  # Burda, Grosse & Salakhutdinov 2016, section 5.2
_BATCH = 250
_ENCODING_SECONDS = 10
_ALIGNMENT = 4

_log = logging.getLogger(__name__)


@torch.no_grad()
def make_bundle(run: TrainedRun, version: str, has_labels: bool = True, has_paths: bool = True) -> bytes:
    """The latent space of a run: decoder, codes and scores of held-out images, draws from the prior.

    Args:
        run: On the CPU.
        version: What the page sends back to have latents decoded by the same weights.
        has_labels: Whether labels and the names of classes are part of it.
        has_paths: Whether it says which files could not be opened.
    """
    shape = list(run.config["data"]["image_shape"])
    vae, noise = run.vae, torch.Generator().manual_seed(0)
    arrays: dict[str, Array] = {}
    header = {
        "version": version,
        "checkpoint": run.checkpoint,
        "epoch": run.epoch,
        "image_shape": shape,
        "latent_dim": prod(vae.prior().event_shape),
        "classes": int(getattr(vae, "classes", 0)) if vae.needs_labels else 0,
        "decoder": _describe_layers(decoder_layers(vae, shape), arrays),
        "codebook": _describe_codebook(vae, shape, arrays),
        "prior": _describe_prior(vae, noise, arrays),
        **_describe_images(run, noise, arrays, has_labels, has_paths),
    }
    return pack_arrays(header, arrays)


def _describe_layers(
    layers: Sequence[DecoderLayer] | None, arrays: dict[str, Array]
) -> list[dict[str, Any]] | None:
    if layers is None:
        return None
    described = []
    for number, layer in enumerate(layers):
        entry: dict[str, Any] = {"op": layer.op, "shape": layer.shape, **(layer.options or {})}
        for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            if tensor is not None:
                entry[name] = f"{name}{number}"
                arrays[entry[name]] = tensor.numpy()
        described.append(entry)
    return described


def _describe_codebook(vae: VAE, shape: Sequence[int], arrays: dict[str, Array]) -> dict[str, Any] | None:
    if not isinstance(vae.encoder, CodeEncoder):
        return None
    arrays["codebook"] = vae.encoder.codebook.float().numpy()
    sizes = (code_grid(shape, depth) for depth in range(16))
    grid = next(size for size in sizes if prod(size) == vae.encoder.positions)
    return {"grid": grid, "codes": len(vae.encoder.codebook)}


def _describe_prior(vae: VAE, noise: torch.Generator, arrays: dict[str, Array]) -> str:
    """Draws, of any prior: the page needs no sampler of its own."""
    arrays["prior"] = sample(vae.prior(), noise, (_PRIOR_DRAWS,)).flatten(1).to(torch.float16).numpy()
    return type(vae.prior).__name__


def _describe_images(
    run: TrainedRun, noise: torch.Generator, arrays: dict[str, Array], has_labels: bool, has_paths: bool
) -> dict[str, Any]:
    """Codes and scores of held-out images; why there are none where their data cannot be opened."""
    try:
        split, images = _held_out_images(run)
    except (UserError, OSError) as error:
        return {"split": None, "problem": str(error) if has_paths else "the data cannot be opened."}
    count = min(len(images), MAX_IMAGES, max(1, _MAX_PIXEL_BYTES // prod(images.image_shape)))
    shown = images.take(count)
    arrays["pixels"] = (shown.batch().images * 255).round().to(torch.uint8).numpy()
    columns = [*encode_by_batch(run.vae, shown, _SCORE_DRAWS, _BATCH, noise)]
    scores = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    arrays |= {name: scores[name].astype(np.float32) for name in ("elbo", "rate", "distortion")}
    description: dict[str, Any] = {"split": split, "class_names": images.classes if has_labels else None}
    if images.labels is not None and (has_labels or run.vae.needs_labels):
        arrays["labels"] = images.labels[:MAX_CODES].numpy().clip(-1, 2**31 - 1).astype(np.int32)
    if "code" in scores:
        arrays["indices"] = scores["code"].astype(np.int32)
        return description
    arrays["image_codes"] = scores["mean"].astype(np.float32)
    return description | _describe_units(run.vae, images, noise, arrays)


def _held_out_images(run: TrainedRun) -> tuple[str, ImageSet]:
    """The validation images; where there are none, those of the test, and then those of training."""
    for split in ("val", "test"):
        try:
            return split, run.images(split)
        except UserError as error:
            _log.debug("no images of %s: %s", split, error)
    return "train", run.images("train")


def _describe_units(
    vae: VAE, images: ImageSet, noise: torch.Generator, arrays: dict[str, Array]
) -> dict[str, Any]:
    """Codes of many images, rate and activity of the units, the first two principal directions of the codes."""
    means, rates = _encode(vae, images, noise)
    arrays["codes"] = means.astype(np.float16)
    if rates is not None:
        arrays["image_rates"] = rates[: len(arrays["pixels"])].astype(np.float32)
    centre = means.mean(axis=0)
    arrays["centre"] = centre.astype(np.float32)
    _, _, directions = np.linalg.svd(means - centre, full_matrices=len(means) == 1)
    arrays["directions"] = directions[:2].astype(np.float32)
    variance = means.astype(np.float64).var(axis=0)
    return {
        "unit_rates": None if rates is None else rates.mean(axis=0).tolist(),
        "unit_variances": variance.tolist(),
        "active": (variance > _ACTIVE_VARIANCE).tolist(),
    }


def _encode(vae: VAE, images: ImageSet, noise: torch.Generator) -> tuple[Array, Array | None]:
    """Posterior means and rates of units in nats, `[images, units]` each, of at most `MAX_CODES` images.

    After `_ENCODING_SECONDS` no further batch is encoded. There are no rates where units depend on one another.
    """
    until = time.monotonic() + _ENCODING_SECONDS
    prior, means, rates = vae.prior(), [], []
    for batch in images.take(MAX_CODES).batches(_BATCH):
        posterior = vae.encode(batch.images, batch.labels)
        means.append(posterior.mean)
        rates.append(rate_per_unit(posterior, prior, noise))
        if time.monotonic() > until:
            break
    available = [rate for rate in rates if rate is not None]
    return torch.cat(means).numpy(), torch.cat(available).numpy() if available else None


def pack_arrays(header: dict[str, Any], arrays: dict[str, Array]) -> bytes:
    """The length of the JSON object as uint32, the object, and the arrays at the offsets that it names.

    All little-endian; offsets count from the end of the object, and are multiples of four.
    """
    offset, entries, parts = 0, {}, []
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        data += b"\0" * (-len(data) % _ALIGNMENT)
        entries[name] = {"type": array.dtype.name, "shape": array.shape, "offset": offset}
        parts.append(data)
        offset += len(data)
    text = json.dumps(header | {"arrays": entries}, allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([np.uint32(len(text)).astype("<u4").tobytes(), text, *parts])
