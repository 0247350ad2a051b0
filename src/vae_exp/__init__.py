"""Hydra-driven experiments with variational autoencoders in PyTorch.

In Python, a trained run is two lines away:

    run = vae_exp.load_run("outputs/…")
    images = run.vae.sample(16, torch.Generator().manual_seed(0))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_exp.runs.trained_run import TrainedRun, load_run
    from vae_exp.runs.trained_run import TrainedRun as StoredRun

__version__ = "0.1.0"
__all__ = ["StoredRun", "TrainedRun", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Import torch only for those who ask for it: `--help` answers without."""
    if name == "StoredRun":  # the first name of TrainedRun
        name = "TrainedRun"
    if name in ("load_run", "TrainedRun"):
        return getattr(import_module("vae_exp.runs.trained_run"), name)
    raise AttributeError(f"module 'vae_exp' has no attribute {name!r}")
