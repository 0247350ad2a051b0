"""Report the objective of a trial after every epoch, and prune it."""

import logging
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from vae_exp.metrics import with_current_metrics
from vae_exp.sweep.search.samplers import pruner
from vae_exp.sweep.search.study import load_study

_log = logging.getLogger(__name__)


class TrialReporter:
    """Reports the objective of a search to its study, epoch by epoch.

    Args:
        path: The file of the study.
        number: Of the trial.

    Raises:
        UserError: if the study cannot be read.
    """

    def __init__(self, path: Path, number: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = load_study(path)
        study.pruner = pruner(study.user_attrs["pruner"])
        [self._metric] = with_current_metrics(study.user_attrs["objectives"])
        frozen = study.get_trials(deepcopy=False)[number]
        self._running = frozen.state is TrialState.RUNNING
        self._trial = Trial(study, frozen._trial_id)
        self._reported = set(frozen.intermediate_values)

    def stop(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Report the metrics of an epoch; whether to prune the trial."""
        value = metrics.get(self._metric)
        if not self._running or value is None or not isfinite(value):
            return False
        try:
            if epoch not in self._reported:
                self._trial.report(value, epoch)
                self._reported.add(epoch)
            stop = bool(self._trial.should_prune())
        except UpdateFinishedTrialError:  # another process has reported it meanwhile
            self._running = False
            return False
        if stop:
            _log.info(
                "Pruned after epoch %d: %s is %.4f, and others were better by then.", epoch, self._metric, value
            )
        return stop
