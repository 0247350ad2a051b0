"""The environment variables that set the number of CPU threads; without torch, which reads them at its import."""

import os

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
POOL_VARIABLE = "VAE_EXP_POOL_THREADS"  # says that a pool has set the others


def thread_variable() -> str:
    """What sets the number of threads before the config does: a variable, or the pool; empty if nothing."""
    if os.environ.get(POOL_VARIABLE):
        return "hydra.launcher.threads"
    numbers = {name: os.environ.get(name, "").partition(",")[0].strip() for name in VARIABLES}
    return next((name for name, number in numbers.items() if number.isdecimal() and int(number) > 0), "")
