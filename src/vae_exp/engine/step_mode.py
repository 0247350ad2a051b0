"""How steps are run: eagerly, as a recorded CUDA graph, or compiled."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from vae_exp.distributions.sampling import drawn, standard_normal
from vae_exp.engine.cuda_graph import CUDAGraphStep
from vae_exp.engine.distributed import DistributedContext
from vae_exp.engine.train_step import TrainStep
from vae_exp.errors import UserError

_log = logging.getLogger(__name__)


class StepFn(Protocol):
    """Runs one step after another."""

    def __call__(self, size: int) -> Tensor:
        """One step on the next `size` images; the sums of its terms, `[3]`."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """Entered around everything that steps touch."""
        ...


class EagerStep:
    """Operation by operation."""

    def __init__(self, step: TrainStep) -> None:
        self._step = step

    def __call__(self, size: int) -> Tensor:
        """One step."""
        return self._step(size)

    def running(self) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()


def choose_mode(asked: str, device: torch.device, team: DistributedContext) -> str:
    """The mode that steps are run in: `auto` records a CUDA graph where it can.

    Raises:
        UserError: if `graph` was asked for and cannot be.
    """
    if asked == "auto":
        return "graph" if device.type == "cuda" and team.size == 1 else "eager"
    if asked == "graph" and device.type != "cuda":
        raise UserError(f"trainer.step=graph needs a CUDA device, not {device}; use auto, eager or compile.")
    if asked == "graph" and team.size > 1:
        raise UserError("trainer.step=graph works in one process; use auto, eager or compile with trainer=ddp.")
    return asked


def compiled(module: nn.Module) -> nn.Module:
    """The module compiled by torch; the first steps take the seconds to a minute that this needs."""
    from torch._dynamo.decorators import skip  # takes a second to import

    for each in (standard_normal, drawn):  # the compiler cannot trace draws from a generator of one's own
        skip(each)
    _log.info("trainer.step=compile: the first step of each batch size compiles, which takes a while.")
    return torch.compile(module)  # type: ignore[return-value]


def compiler_failed(error: BaseException) -> UserError | None:
    """The error in the user's words, if it is the compiler's; None otherwise."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"trainer.step=compile: torch cannot compile this model here: {reason}; use trainer.step=eager."
    )


def stepper(
    mode: str, step: TrainStep, device: torch.device, team: DistributedContext, whole: int | None = None
) -> StepFn:
    """What runs the step in that mode; compiled steps are recorded too, where there is CUDA.

    Args:
        mode: `eager`, `graph` or `compile`.
        step: What is run.
        device: Where.
        team: The processes that share a batch.
        whole: The size of whole batches; the last batch of an epoch, which may be short, is not worth recording.
    """
    if mode == "graph" or (mode == "compile" and device.type == "cuda" and team.size == 1):
        return CUDAGraphStep(step, device, whole)
    return EagerStep(step)
