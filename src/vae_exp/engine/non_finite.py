"""What has become infinite or no number at all, and how that is told."""

from collections.abc import Mapping
from math import inf, isfinite, nan

from torch.nn.utils import get_total_norm

from vae_exp.engine.position import TrainState
from vae_exp.engine.record import TERMS, EpochLossBuffer
from vae_exp.engine.train_step import NonFiniteLossError
from vae_exp.errors import DivergedError
from vae_exp.model.vae import VAE


class NonFiniteChecker:
    """Looks for what is not finite, and names it.

    Args:
        vae: The model that is trained.
        record: What the steps of the epoch scored.
    """

    def __init__(self, vae: VAE, record: EpochLossBuffer) -> None:
        self._named = [(name, each) for name, each in vae.named_parameters() if each.requires_grad]
        self._record = record
        self._on_host = record.rows.device.type == "cpu"

    def weights_are_finite(self) -> bool:
        """Whether everything that is trained is."""
        norm = get_total_norm([each for _, each in self._named], inf)
        return bool(norm.isfinite())  # the host waits for the device once

    def require_finite(self, metrics: Mapping[str, float], position: TrainState) -> None:
        """Look at what an epoch is reported with, and at the weights it ends with.

        Raises:
            DivergedError: if something is not finite.
        """
        found = {name: value for name, value in metrics.items() if not isfinite(value)}
        if found:
            first = self._record.first_non_finite()
            name, value = next(iter(found.items()))
            step = position.step if first is None else _number(position, first.step)
            raise self._error(name.rpartition("/")[2], value, position, step, name.partition("/")[0])
        if not self.weights_are_finite():
            raise self._error("a weight", nan, position, position.step)

    def require_finite_record(self, position: TrainState) -> None:
        """Look for the first step of the epoch that scored something else; waits for the device.

        Raises:
            DivergedError: if there is one.
        """
        first = self._record.first_non_finite()
        if first is not None:
            raise self._error(first.term, first.value, position, _number(position, first.step))

    def in_step(self, found: NonFiniteLossError, position: TrainState) -> DivergedError:
        """The error for a term that a step has refused."""
        return self._error(found.term, found.value, position, position.step + 1)

    def _error(
        self, term: str, value: float, position: TrainState, step: int, split: str = "train"
    ) -> DivergedError:
        what = term if term == "a weight" else f"{split}/{term}"
        if split == "train" and term in TERMS and self._on_host and not self.weights_are_finite():
            what, value, step = f"the gradient of {self._name_of_bad_gradient()}", nan, step - 1
        kept = "Checkpoints of earlier epochs stand; a" if position.epoch else "There is no checkpoint yet; a"
        return DivergedError(
            f"{what} is {value} in epoch {position.epoch + 1} (step {step}): training diverged. "
            f"{kept} smaller optimizer.lr or trainer.gradient_clip may help."
        )

    def _name_of_bad_gradient(self) -> str:
        bad = [
            name for name, each in self._named if each.grad is not None and not bool(each.grad.isfinite().all())
        ]
        return bad[0] if bad else next(name for name, each in self._named if not bool(each.isfinite().all()))


def _number(position: TrainState, in_epoch: int) -> int:
    """The number of a step in the run, from 1; `in_epoch` is counted from 0."""
    return position.step - position.batches + in_epoch + 1
