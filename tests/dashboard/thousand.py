"""A thousand synthetic runs of two hundred epochs, for tests of speed and memory."""

from pathlib import Path

import numpy as np

from tests.dashboard.records import make_run

METRICS = [
    f"{split}/{name}" for split in ("train", "val") for name in ("loss", "elbo", "rate", "distortion", "nll")
]


def make_runs(root: Path, runs: int, epochs: int) -> None:
    """Runs with a config of a hundred keys and ten metrics."""
    source = np.random.default_rng(0)
    constant = {f"group{number}": {f"key{index}": index for index in range(10)} for number in range(10)}
    for number in range(runs):
        falling = 100 * np.exp(-np.arange(epochs) / 50)[:, None] + source.normal(size=(epochs, len(METRICS)))
        rows = [dict(zip(METRICS, row.round(6).tolist(), strict=True)) for row in falling]
        config = {
            **constant,
            "model": {"latent_dim": 2 ** (number % 6), "width": 100 * (number % 7)},
            "seed": number % 5,
        }
        make_run(
            root, f"run{number:04d}", config, rows, started=1_700_000_000 + number, display_name=f"run {number}"
        )
