"""What a checkpoint says of the run that continues from it."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vae_exp.runs.resume import ResumeState


def resume_state(state: dict[str, Any] | None) -> ResumeState:
    return ResumeState(OmegaConf.create(), state, Path("last.pt"), may_download=False, on_other_pixels=False)


@pytest.mark.parametrize("batches", [0, 3])
def test_the_last_row_is_that_of_the_last_whole_epoch(batches: int):
    state = {"step": 20 + batches, "batches": batches, "epoch": 2, "lines": 2, "metrics": {"val/loss": 1.5}}
    assert resume_state(state).last_row == {"step": 20, "epoch": 2, "val/loss": 1.5}


def test_before_the_first_epoch_there_is_no_row():
    within = {"step": 3, "batches": 3, "epoch": 0, "lines": 0, "metrics": {}}
    assert [resume_state(state).last_row for state in (None, within)] == [None, None]
