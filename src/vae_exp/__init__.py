"""Hydra-driven experiments with variational autoencoders in PyTorch.

In Python:

    run = vae_exp.train(["data=digits", "model.latent_dim=8"])  # or vae_exp.load_run("outputs/…")
    images = run.vae.sample(16)
    codes = vae_exp.VAETransformer(run).transform(run.data.test.batch().images)
    runs = vae_exp.read_runs("multirun/mine")  # numpy columns: runs.config, runs.summary, runs.history
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vae_exp.dashboard.runs.run_tables import read_runs
    from vae_exp.runs.trained_run import TrainedRun, load_run
    from vae_exp.runs.trained_run import TrainedRun as StoredRun
    from vae_exp.runs.transformer import VAETransformer

__version__ = "0.1.0"
__all__ = ["StoredRun", "TrainedRun", "VAETransformer", "__version__", "load_run", "read_runs", "train"]
_MODULES = {
    "TrainedRun": "vae_exp.runs.trained_run",
    "VAETransformer": "vae_exp.runs.transformer",
    "load_run": "vae_exp.runs.trained_run",
    "read_runs": "vae_exp.dashboard.runs.run_tables",
}


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    """Import torch only for those who ask for it: `--help` answers without."""
    if name == "StoredRun":  # the first name of TrainedRun
        name = "TrainedRun"
    if name == "train":  # the module of the command, which can be called
        return import_module("vae_exp.train")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'vae_exp' has no attribute {name!r}")
