"""Fingerprints of images: plain values that tell whether data are still the same."""

from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

from torch import Tensor

from vae_exp.data.images import ImageSet

_SAMPLED = 64
_NAMED = 5  # classes in a message


def fingerprint(images: ImageSet, *, sample: bool = True) -> dict[str, Any]:
    """What identifies a set of images: their number, shape, range and classes, and checksums.

    Args:
        images: The set.
        sample: Whether the checksum of the pixels is of at most 64 images, evenly spaced; otherwise of all.
    """
    pixels = 0
    for part in _sampled_pixels(images) if sample else images.pixel_chunks():
        pixels = _checksum(part, pixels)
    return {
        "count": len(images),
        "image_shape": images.image_shape,
        "value_range": None if images.value_range is None else list(images.value_range),
        "classes": None if images.classes is None else list(images.classes),
        "pixels": pixels,
        "labels": None if images.labels is None else _checksum(images.labels),
        "factors": None if images.factors is None else _checksum(images.factors),
    }


def differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words."""
    changed = [name for name in current if name in stored and stored[name] != current[name]]
    return [_difference(name, stored[name], current[name]) for name in changed]


def _sampled_pixels(images: ImageSet) -> Iterator[Tensor]:
    count = min(len(images), _SAMPLED)
    positions = [number * len(images) // count for number in range(count)]
    return (images.pixels[position : position + 1] for position in positions)


def _difference(name: str, stored: Any, current: Any) -> str:
    if name in ("pixels", "labels", "factors"):
        return f"no {name}" if current is None else f"other {name}"
    if name == "classes" and stored and current:
        missing, new = (
            [name for name in names if name not in others]
            for names, others in ((stored, current), (current, stored))
        )
        texts = [f"classes {_join_names(missing)} missing"] if missing else []
        texts += [f"classes {_join_names(new)} new"] if new else []
        return ", ".join(texts) or "classes in another order"
    return f"{name} {current} instead of {stored}"


def _join_names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _checksum(values: Tensor, start: int = 0) -> int:
    return crc32(values.contiguous().cpu().numpy().data, start)
