"""Images that runs have logged: read from a segment's media folder and nowhere else."""

from dataclasses import dataclass
from pathlib import Path

from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import read_regular

_MAX_BYTES = 20 * 1024 * 1024
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


@dataclass(frozen=True)
class ImageFile:
    """An image that a run logged under a key of its history."""

    key: str
    step: int
    epoch: float | None  # None if the row does not say
    caption: str
    folder: Path  # the segment's directory
    path: str  # below its `files/`, as the record has it: untrusted


class ImageUnavailableError(Exception):
    """The image does not exist, or must not be shown."""


def read_picture(picture: ImageFile) -> tuple[bytes, str]:
    """Return the bytes of an image and its media type, which its first bytes decide.

    Raises:
        ImageUnavailableError: if it is outside of `files/media`, is no raster image, too large, or gone.
    """
    try:
        folder = picture.folder.resolve() / "files" / "media"
        path = Path(folder.parent, picture.path).resolve(strict=True)
        if folder.resolve(strict=True) != folder or not path.is_relative_to(folder):
            raise ImageUnavailableError("it is outside of the run's files/media")
        data = read_regular(path, _MAX_BYTES)
    except (OSError, ValueError, RuntimeError, UserError) as error:
        raise ImageUnavailableError(str(error)) from error
    return data, _media_type(data)


def _media_type(data: bytes) -> str:
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ImageUnavailableError("it is no PNG, JPEG, GIF or WebP")
