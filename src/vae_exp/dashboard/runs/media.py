"""Images that runs have logged: read from a segment's media folder and nowhere else."""

import os
import stat
from pathlib import Path

from vae_exp.dashboard.runs.run import ImageFile

_MAX_BYTES = 20 * 1024 * 1024
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


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
        data = _read(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageUnavailableError(str(error)) from error
    return data, _media_type(data)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageUnavailableError("it is not a file")
        if status.st_size > _MAX_BYTES:
            raise ImageUnavailableError(f"it is larger than {_MAX_BYTES} bytes")
        return file.read(_MAX_BYTES)


def _media_type(data: bytes) -> str:
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ImageUnavailableError("it is no PNG, JPEG, GIF or WebP")
