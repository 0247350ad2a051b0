"""Standard normal points that fill space evenly, for means that have no closed form."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


@lru_cache(maxsize=16)
def sobol_normal(count: int, units: int) -> Tensor:
    """Points of a scrambled Sobol sequence, put through the inverse normal CDF; the same ones every time.

    Args:
        count: How many; a power of two fills space best.
        units: Of how many dimensions.

    Returns:
        Float32 tensor of shape `[count, units]`, on the CPU.
    """
    uniform = SobolEngine(units, scramble=True, seed=0).draw(count, dtype=torch.float64)
    points: Tensor = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).float()
    return points
