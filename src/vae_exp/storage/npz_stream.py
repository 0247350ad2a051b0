"""An `.npz` file whose arrays are written batch by batch, so that none of them is in memory as a whole."""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import numpy as np

Rows = tuple[Sequence[int], str, Iterable[Any]]  # shape, dtype, and batches of rows, as numpy arrays


def write_npz(file: IO[bytes], arrays: Mapping[str, Rows]) -> None:
    """Write arrays one after another, readable by `numpy.load` without pickle.

    Args:
        file: Open for writing.
        arrays: By name; the batches have as many rows together as the shape says.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, dtype, batches) in arrays.items():
            kind = np.dtype(dtype)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {
                    "descr": np.lib.format.dtype_to_descr(kind),
                    "fortran_order": False,
                    "shape": tuple(shape),
                }
                np.lib.format.write_array_header_1_0(member, header)
                for batch in batches:
                    member.write(np.ascontiguousarray(batch, dtype=kind).tobytes())
