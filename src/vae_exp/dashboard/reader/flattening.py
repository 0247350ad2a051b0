"""Nested keys → keys with dots, and the pictures among them."""

from collections.abc import Iterable, Mapping
from typing import Any

from vae_exp.dashboard.reader.events import Picture, Value

_IMAGE_TYPES = ("image-file", "images/separated")
_TYPE = "._type"
_DEEPEST = 100


def flattened(items: Iterable[tuple[str, Any]]) -> dict[str, Value]:
    """Keys and values, with the keys of objects joined by dots; an empty object stands for itself."""
    flat: dict[str, Value] = {}
    for name, item in items:
        if not isinstance(item, dict):
            flat[name] = item
            continue
        pending = [(name, item)]
        while pending:
            key, value = pending.pop()
            if isinstance(value, dict) and value:
                pending.extend((f"{key}.{each}", inner) for each, inner in reversed(value.items()))
            else:
                flat[key] = value
    return flat


def split_pictures(flat: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, tuple[Picture, ...]]]:
    """What was logged at a step, apart in plain values and image files; other media are left out.

    Args:
        flat: By key with dots; `key._type` says what an object is.
    """
    objects = {key.removesuffix(_TYPE): str(value) for key, value in flat.items() if key.endswith(_TYPE)}
    if not objects:
        return dict(flat), {}
    members: dict[str, dict[str, Value]] = {key: {} for key in objects}
    values: dict[str, Value] = {}
    for key, value in flat.items():
        owner = next((each for each in _ancestors(key) if each in members), None)
        if owner is None:
            values[key] = value
        else:
            members[owner][key[len(owner) + 1 :]] = value
    pictures = {key: _pictures(members[key]) for key, kind in objects.items() if kind in _IMAGE_TYPES}
    return values, {key: each for key, each in pictures.items() if each}


def _ancestors(key: str) -> Iterable[str]:
    place = key.find(".")
    for _ in range(_DEEPEST):
        if place < 0:
            return
        yield key[:place]
        place = key.find(".", place + 1)


def _pictures(members: Mapping[str, Value]) -> tuple[Picture, ...]:
    several, captions = members.get("filenames"), members.get("captions")
    if isinstance(several, list):
        known = captions if isinstance(captions, list) else []
        texts = [str(each) for each in known] + [""] * len(several)
        return tuple(Picture(str(path), text) for path, text in zip(several, texts, strict=False))
    path = members.get("path")
    return (Picture(path, str(members.get("caption", ""))),) if isinstance(path, str) else ()
