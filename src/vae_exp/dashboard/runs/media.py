"""Images that runs have logged, from inside their own folder of media and nowhere else."""

import os
import stat
from pathlib import Path

from vae_exp.dashboard.runs.run import PictureFile

_MOST_BYTES = 20 * 1024 * 1024
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


class ImageUnavailableError(Exception):
    """There is no such image, or it must not be shown."""


def read_picture(picture: PictureFile) -> tuple[bytes, str]:
    """The bytes of an image and its media type, which its first bytes decide.

    Raises:
        NoPictureError: if it lies outside of `files/media`, is no raster image, too large, or gone.
    """
    try:
        folder = picture.folder.resolve() / "files" / "media"
        path = Path(folder.parent, picture.path).resolve(strict=True)
        if folder.resolve(strict=True) != folder or not path.is_relative_to(folder):
            raise ImageUnavailableError("it lies outside of the run's files/media")
        data = _read(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageUnavailableError(str(error)) from error
    return data, _media_type(data)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ImageUnavailableError("it is not a file")
        if found.st_size > _MOST_BYTES:
            raise ImageUnavailableError(f"it is larger than {_MOST_BYTES} bytes")
        return file.read(_MOST_BYTES)


def _media_type(data: bytes) -> str:
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ImageUnavailableError("it is no PNG, JPEG, GIF or WebP")
