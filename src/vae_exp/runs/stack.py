"""Runs that train as one: each is a run like any other, and their trainers make their steps together."""

import logging
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from vae_exp.engine.device import is_oom, resolve_device
from vae_exp.engine.seeding import get_process_rng_state, set_process_rng_state
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.train_step import NonFiniteLossError
from vae_exp.engine.trainer import Trainer
from vae_exp.engine.trainer_stack import TrainerStack
from vae_exp.errors import DivergedError, MemoryExhaustedError
from vae_exp.model.vae import VAE
from vae_exp.runs.training import PausedTraining


class StackMember:
    """A run of a stack; between its turns the logging, the output and the random state are those of others.

    Args:
        optimizer: A word for the options of its optimizer and their schedule.
        output: Takes what the run prints.
        shutdown: Notes Ctrl-C and SIGTERM.

    Attributes:
        error: What ended the run; None where it has come to its end.
    """

    def __init__(self, optimizer: str, output: TextIO, shutdown: GracefulShutdown) -> None:
        self.optimizer = optimizer
        self.error: BaseException | None = None
        self._output, self._shutdown = output, shutdown
        self._handlers: list[logging.Handler] = []
        self._rng: dict[str, Any] | None = None
        self._run: PausedTraining | None = None
        self._epochs: Generator[None, None, None] | None = None
        self._trainer: Trainer | None = None

    @property
    def is_active(self) -> bool:
        """Whether it waits for the steps of an epoch."""
        return self._epochs is not None

    @property
    def trainer(self) -> Trainer:
        """That of a run that has been set up."""
        assert self._trainer is not None
        return self._trainer

    @property
    def position(self) -> tuple[int, int]:
        """How many whole epochs it has trained, and how many batches of the next."""
        return self.trainer.state.epoch, self.trainer.state.batch_in_epoch

    def took_part(self, epoch: int) -> bool:
        """Whether it trains or has trained after so many epochs."""
        if self._trainer is None:
            return False
        return self.is_active or epoch < self.trainer.state.epoch + isinstance(self.error, DivergedError)

    def begin(self, run: PausedTraining, stack_size: int) -> None:
        """Set a run up, within a turn, to where the first steps are due."""
        self._run = run
        try:
            setup = next(run)
        except StopIteration:  # it was finished before
            return
        except BaseException as error:
            self.error = MemoryExhaustedError(str(error)) if is_oom(error) else error
            return
        self._trainer = setup.trainer
        setup.trainer.stack_size = stack_size
        self._epochs = setup.trainer.paused_fit(self._shutdown, setup.progress(), setup.pruner)
        self._continue(next)

    def end_epoch(self) -> None:
        """End an epoch whose steps have been made, up to the steps of the next one or to the run's end."""
        with self.turn():
            self._continue(next)

    def fail(self, error: BaseException) -> None:
        """End the run by what went wrong in its steps."""
        with self.turn():
            self._continue(lambda epochs: epochs.throw(error))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A block in which the process is this run's."""
        root, handlers, streams = logging.getLogger(), logging.getLogger().handlers, (sys.stdout, sys.stderr)
        device = resolve_device("cpu") if self._trainer is None else self.trainer.device
        root.handlers, sys.stdout, sys.stderr = self._handlers, self._output, self._output
        if self._rng is not None:
            set_process_rng_state(self._rng, device)
        try:
            yield
        finally:
            device = device if self._trainer is None else self._trainer.device
            self._rng = get_process_rng_state(device)
            self._handlers, root.handlers = root.handlers, handlers
            sys.stdout, sys.stderr = streams

    def _continue(self, step: Callable[[Generator[None, None, None]], None]) -> None:
        assert self._epochs is not None
        try:
            step(self._epochs)
        except StopIteration:
            self._finish(None)
        except BaseException as error:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        """Run what comes after training, or record why there was no end of it."""
        assert self._run is not None
        self._epochs = None
        try:
            next(self._run) if error is None else self._run.throw(error)
        except StopIteration:
            pass
        except BaseException as raised:
            self.error = raised


@dataclass(frozen=True)
class EndedRun:
    """A run of a stack that had ended before.

    Args:
        optimizer: A word for the options of its optimizer and their schedule.
        epochs: How many it has trained.
    """

    optimizer: str
    epochs: int
    is_active = False

    def took_part(self, epoch: int) -> bool:
        """Whether it has trained after so many epochs."""
        return epoch < self.epochs


def train_together(
    runs: Sequence[StackMember | EndedRun], make_template: Callable[[Trainer], VAE], shutdown: GracefulShutdown
) -> None:
    """Train the runs of a stack to their ends; those that are behind, as after a kill, catch up first.

    Args:
        runs: All of the stack, those that have ended too: an epoch in which the same runs take part has the same
            numbers to the bit.
        make_template: A model of the largest sizes of the stack.
        shutdown: Notes Ctrl-C and SIGTERM.
    """
    stack: TrainerStack | None = None
    if _nothing_is_continued(runs):
        runs = [run for run in runs if isinstance(run, StackMember)]
    while active := [run for run in runs if isinstance(run, StackMember) and run.is_active]:
        position = min(member.position for member in active)
        due = [member for member in active if member.position == position]
        taking_part = [run for run in runs if run.took_part(position[0])]
        trainers = [run.trainer if isinstance(run, StackMember) and run in due else None for run in taking_part]
        try:
            stack = stack or TrainerStack(make_template(due[0].trainer))
            diverged = stack.train_epoch(trainers, [run.optimizer for run in taking_part], shutdown)
        except BaseException as error:
            for member in active:
                member.fail(error)
            continue
        for member in due:
            if member.trainer in diverged:
                member.fail(NonFiniteLossError())
            else:
                member.end_epoch()


def _nothing_is_continued(runs: Sequence[StackMember | EndedRun]) -> bool:
    """Whether most runs have ended and the others are new, as seeds that are added: no bits are to be kept."""
    active = [run for run in runs if isinstance(run, StackMember) and run.is_active]
    return 2 * len(active) < len(runs) and all(member.position == (0, 0) for member in active)
