"""Sweep directories as their jobs leave them, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml


def make_job(sweep: Path, overrides: Sequence[str], status: str | None = "completed", **metrics: float) -> Path:
    """A job's directory; without a status it has no result."""
    name = "_".join(override.replace("=", "-").replace("/", "-") for override in overrides)
    directory = sweep / name
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    named = {key.replace("__", "/"): value for key, value in metrics.items()}
    if status is not None:
        result: dict[str, Any] = {
            "status": status,
            "error": None if status in ("completed", "pruned") else "it went wrong",
            "monitor": "val/loss",
            "epochs": 3,
            "seconds": {"training": 1.0, "total": 2.0},
            "metrics": named,
        }
        (directory / "result.json").write_text(json.dumps(result))
    return directory


def make_sweep(sweep: Path) -> Path:
    """Latent sizes × widths × two seeds, all completed; the ELBO grows with both."""
    generator = torch.Generator().manual_seed(0)
    for latent in (2, 16, 8):
        for width in ("[400]", "[50]"):
            for seed in (0, 1):
                noise = torch.rand((), generator=generator).item()
                rate = 2.0 * latent**0.5 + noise
                distortion = 100 - 3 * rate - 0.02 * int(width.strip("[]"))
                make_job(
                    sweep,
                    [f"model.latent_dim={latent}", f"model.hidden_dims={width}", f"seed={seed}", "data=digits"],
                    val__elbo=-(rate + distortion), val__rate=rate, val__distortion=distortion,
                    val__loss=rate + distortion,
                )  # fmt: skip
    return sweep
