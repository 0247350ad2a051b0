"""An encoder whose jobs end badly, for sweeps that must bear it; copied beside a test's runs."""

import os
import signal
import sys
from pathlib import Path

import torch

from vae_exp.model.encoders import MLPEncoder

BAD = {1: "raise", 3: "kill", 5: "exit", 6: "diverge"}


class Encoder(MLPEncoder):
    """Takes a number; some numbers end their job after ten batches, unless MENDED is set or is a file here."""

    def __init__(self, number, **sizes):
        super().__init__(**sizes)
        self.fault = None if "MENDED" in os.environ or Path("MENDED").exists() else BAD.get(number)
        self.calls = 0

    def forward(self, images):
        self.calls += self.training
        if self.fault and self.calls > 10:
            return self.fail(images)
        return super().forward(images)

    def fail(self, images):
        if self.fault == "raise":
            raise ArithmeticError("as it was asked to")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "exit":
            sys.exit(7)
        return super().forward(images * torch.nan)
