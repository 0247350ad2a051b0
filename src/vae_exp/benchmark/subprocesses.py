"""Fresh processes for what cannot be measured beside other things."""

import subprocess
import sys
from collections.abc import Sequence

from vae_exp.errors import UserError

_TOLD_LINES = 5


def run_module(module: str, arguments: Sequence[str], standard_input: str = "") -> str:
    """Run a module in a fresh interpreter, in the working directory of this one.

    Returns:
        Its standard output.

    Raises:
        UserError: with its last words, if it fails.
    """
    finished = subprocess.run(  # noqa: S603 - this interpreter, a module of ours
        [sys.executable, "-m", module, *arguments],
        input=standard_input,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        words = "\n".join((finished.stderr.strip() or finished.stdout.strip()).splitlines()[-_TOLD_LINES:])
        raise UserError(f"python -m {module} failed with exit code {finished.returncode}:\n{words}")
    return finished.stdout
