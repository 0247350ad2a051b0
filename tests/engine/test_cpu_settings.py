"""The memory of tensors that are freed is used again instead of being cleared by the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page counts as one fault
import torch
from vae_exp.engine.cpu_settings import speed_up_cpu
if sys.argv[1] == "fast":
    speed_up_cpu()
images = torch.rand(2_000_000)

def step():
    layers = [images + 1 for _ in range(4)]
    return sum(float(layer[0]) for layer in layers)

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", SCRIPT, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has these settings")
@pytest.mark.slow
def test_steps_take_the_memory_of_the_steps_before_them():
    few = 10_000  # a tensor that finds no place among those of the steps before has 2,000
    assert page_faults("fast") < few < page_faults("plain")  # 20 steps write 156,000 pages


@pytest.mark.slow
def test_numpy_does_not_warn_of_denormals_that_count_as_zero():
    script = (
        "from vae_exp.engine.cpu_settings import speed_up_cpu; speed_up_cpu(); import numpy as np; np.finfo('f4')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
