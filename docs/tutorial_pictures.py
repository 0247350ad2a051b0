"""Train what the tutorial trains, and copy its pictures into docs/tutorial: `python docs/tutorial_pictures.py`.

The commands are those of docs/tutorial/first_vae.md and docs/tutorial/first_sweep.md; the runs go to a temporary
folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TUTORIAL = Path(__file__).parent / "tutorial"
COMMANDS = [
    ["train", "data=digits", "hydra.run.dir=outputs/first"],
    ["train", "--multirun", "hydra/launcher=pool", "sweep.name=first", "data=digits",
     "model.latent_dim=2,4,8", "seed=0,1"],
    ["sweep", "plot", "multirun/first"],
]  # fmt: skip
PICTURES = {
    "outputs/first/figures/reconstructions.png": "reconstructions.png",
    "outputs/first/figures/manifold.png": "manifold.png",
    "multirun/first/plots/val-elbo-against-model.latent_dim.png": "elbo_against_latent_dim.png",
}


def main() -> None:
    """The command line."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"WANDB_MODE": "disabled"}
        for module, *arguments in COMMANDS:
            command = [sys.executable, "-m", f"vae_exp.{module}", *arguments]
            subprocess.run(command, cwd=folder, env=environment, check=True)  # noqa: S603
        for source, name in PICTURES.items():
            shutil.copy(Path(folder) / source, TUTORIAL / name)


if __name__ == "__main__":
    main()
