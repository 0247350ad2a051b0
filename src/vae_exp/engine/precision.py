"""The precision of matrix products in training; bounds and evaluation stay in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae_exp.errors import UserError
from vae_exp.model.vae import VAE

_TF32_CAPABILITY = (8, 0)


def require_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device does not know.

    Raises:
        UserError: names what it does know.
    """
    if precision == "tf32" and not _knows_tf32(device):
        raise UserError(
            f"trainer.precision=tf32 needs a CUDA device of compute capability 8.0 or higher, not {device}; "
            f"use fp32 or bf16."
        )


@contextmanager
def computing_in(vae: VAE, precision: str) -> Iterator[None]:
    """For the length of a block, compute in that precision.

    `fp32` is IEEE single precision throughout; `tf32` lets CUDA round the factors of all products of a step to 10
    bits of mantissa (from Ampere on), those of a loss too, such as the covariance of DIP-VAE; `bf16` runs encoder
    and decoder under autocast, their weights in float32.
    """
    before = vae.compute_dtype, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    _allow_tf32(precision == "tf32", precision == "tf32")
    vae.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        yield
    finally:
        vae.compute_dtype = before[0]
        _allow_tf32(*before[1:])


def _allow_tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


def _knows_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY
