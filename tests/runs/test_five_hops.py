"""From the command to the gradient: the frames of this project that stand between `main` and `backward`."""

import re
import sys
from pathlib import Path

import torch
from torch import Tensor

import vae_exp

CHECKOUT = Path(__file__).parents[2]
SOURCE = Path(vae_exp.__file__).parent
frames: list[tuple[str, str]] = []


def _record(gradient: Tensor) -> None:
    """Note the stack of the first gradient; on the CPU it is computed in the thread that calls `backward`."""
    frame = None if frames else sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            frames.insert(0, (path.relative_to(SOURCE).as_posix(), frame.f_code.co_name))
        frame = frame.f_back


class RecordingOptimizer(torch.optim.Adam):
    """An optimizer whose first parameter records where its gradient comes from."""

    def __init__(self, params, **options):
        params = list(params)
        if len(params) > 1:  # the fused kernel is tried on a single parameter
            params[0].register_hook(_record)
        super().__init__(params, **options)


def test_five_frames_lead_from_main_to_the_gradient(command, monkeypatch):
    frames.clear()
    monkeypatch.setattr(torch.optim, "Adam", RecordingOptimizer)
    finished = command("train", "data=digits", "trainer.epochs=1", "evaluator=[]", "tracker=none")
    assert finished.code == 0, finished.err
    documented = re.findall(
        r"^\d\. `(\S+)`: `([\w.]+)`", (CHECKOUT / "docs/explanation/architecture.md").read_text(), re.MULTILINE
    )
    assert frames == [(path, name.rpartition(".")[2]) for path, name in documented]
    assert len(frames) == 5
