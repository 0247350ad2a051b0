"""Arrays of images from `.npy`, HDF5 and Parquet files."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vae_exp.data.image_decoding import PixelFormat, decode, read_headers
from vae_exp.errors import UserError

Array = npt.NDArray[np.generic]


def read_npy_folder(folder: Path, keys: Sequence[str]) -> dict[str, Array]:
    """The arrays of a folder of `.npy` files, as an unpacked `.npz` is one, mapped into memory.

    Args:
        folder: With a file `<key>.npy` for each array.
        keys: The arrays to read, where they are there.
    """
    files = {key: folder / f"{key}.npy" for key in keys}
    return {key: np.load(file, mmap_mode="r", allow_pickle=False) for key, file in files.items() if file.is_file()}


def read_hdf5(path: Path, keys: Sequence[str]) -> dict[str, Array]:
    """The data sets of an HDF5 file; those that lie in other files are refused.

    Args:
        path: The file.
        keys: The data sets to read, where they are there; `group/name` in a group.
    """
    h5py = _import("h5py")
    arrays = {}
    with h5py.File(path, "r") as file:
        for key in keys:
            parts = [key.rsplit("/", count)[0] for count in range(key.count("/"), -1, -1)]
            if any(isinstance(file.get(part, getlink=True), h5py.ExternalLink) for part in parts):
                raise UserError(
                    f"'{key}' in data.path={path} is a link to another file; copy the data into this one."
                )
            dataset = file.get(key)
            if dataset is None:
                continue
            if not isinstance(dataset, h5py.Dataset):
                raise UserError(f"'{key}' in data.path={path} is a group; name a data set.")
            if dataset.external or dataset.is_virtual:
                raise UserError(f"'{key}' in data.path={path} lies in other files; copy the data into this one.")
            arrays[key] = dataset[()]
    return arrays


def read_parquet(path: Path, keys: Sequence[str]) -> dict[str, Array]:
    """The columns of a Parquet file; a column of encoded images is decoded.

    An encoded image is the content of a PNG, JPEG, WebP or TIFF file: a binary value, or a struct with a field
    `bytes`, as Hugging Face's data sets have it. Images are `[N, C, H, W]`.

    Args:
        path: The file.
        keys: The columns to read, where they are there.
    """
    parquet: Any = _import("pyarrow.parquet")
    file = parquet.ParquetFile(path)
    present = [key for key in keys if key in file.schema_arrow.names]
    table = file.read(columns=present)
    return {key: _column(table.column(key), f"'{key}' in data.path={path}") for key in present}


READERS: dict[str, Callable[[Path, Sequence[str]], dict[str, Array]]] = {
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".parquet": read_parquet,
}


def _column(column: Any, name: str) -> Array:
    import pyarrow as pa

    if not len(column):
        raise UserError(f"{name} has no rows.")
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        if not (
            pa.types.is_integer(column.type)
            or pa.types.is_floating(column.type)
            or pa.types.is_boolean(column.type)
        ):
            raise UserError(
                f"{name} is a column of {column.type}; expected numbers, such as uint8, or encoded images: "
                f"binary values, or structs with a field bytes."
            )
        array: Array = column.to_numpy()
        return array
    contents: list[bytes] = column.to_pylist()
    headers = read_headers([content or b"" for content in contents])
    for row, header in enumerate(headers):
        if header.problem:
            raise UserError(f"{name} has no image in row {row}: {header.problem}; remove the row.")
    sizes = sorted({(header.height, header.width) for header in headers})
    if len(sizes) > 1:
        raise UserError(
            f"{name} holds images of {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}; write them as files, "
            f"and use data=folder data.size=64."
        )
    pixel_format = PixelFormat(1 if all(header.is_grey for header in headers) else 3, *sizes[0], crop=True)
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda content: decode(content, pixel_format), contents)))


def _import(module: str) -> Any:
    from importlib import import_module

    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"data.path: such a file needs {package}: pip install {package}.") from error
