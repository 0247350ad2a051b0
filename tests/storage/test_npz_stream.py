import io
import tracemalloc

import numpy as np

from vae_exp.storage.npz_stream import write_npz


def test_numpy_reads_what_was_written_in_batches():
    images = np.random.default_rng(0).random((7, 1, 2, 3), dtype=np.float32)
    file = io.BytesIO()
    write_npz(
        file,
        {
            "labels": ([7], "int64", [np.arange(7)]),
            "images": (images.shape, "float32", (images[start : start + 3] for start in range(0, 7, 3))),
        },
    )
    with np.load(io.BytesIO(file.getvalue()), allow_pickle=False) as arrays:
        assert (arrays["labels"] == np.arange(7)).all()
        assert (arrays["images"] == images).all()
        assert arrays["images"].dtype == np.float32


def test_memory_does_not_grow_with_the_array(tmp_path):
    batch = np.zeros((100, 1000), dtype=np.float32)
    tracemalloc.start()
    with (tmp_path / "large.npz").open("wb") as file:
        write_npz(file, {"images": ((20_000, 1000), "float32", (batch for _ in range(200)))})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "large.npz").stat().st_size > 80_000_000
    assert peak < 4_000_000
