"""The folder of the config files."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from vae_exp.errors import UserError


@cache
def config_dir() -> Path:
    """The folder `conf`: inside the installed package, or beside `src` in a checkout.

    Raises:
        UserError: if it is in neither place.
    """
    installed = Path(str(files("vae_exp"))) / "conf"
    checkout = Path(__file__).resolve().parents[3] / "conf"
    for folder in (installed, checkout):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"the folder conf is neither at {installed} nor at {checkout}; install vae-exp again.")
