from math import inf, nan
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.recordable import READS
from tests.engine.runs import CPU, small_vae
from vae_exp.engine.non_finite import NonFiniteChecker
from vae_exp.engine.record import EpochLossBuffer


class CountsReads(TorchDispatchMode):
    """Counts the operations that read a value on the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name in READS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("value", "finite"), [(1e38, True), (-3.0, True), (nan, False), (inf, False), (-inf, False)]
)
def test_all_weights_are_looked_at_in_one_wait_for_the_device(value: float, finite: bool):
    vae = small_vae()
    weights = list(vae.parameters())
    finder = NonFiniteChecker(vae, EpochLossBuffer(1, CPU))
    for weight in weights:
        with torch.no_grad():
            before = weight.clone()
            weight.view(-1)[-1] = value
        with CountsReads() as reads:
            assert finder.weights_are_finite() is finite
        assert reads.count == 1
        with torch.no_grad():
            weight.copy_(before)
