"""One job of a sweep: skipped, taken up where it was, or begun."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from vae_exp.engine.interruption import InterruptGuard
from vae_exp.resumption import resumption_of_job
from vae_exp.run_directory import RunDirectory, owned
from vae_exp.settings import plain_config
from vae_exp.stored_files import Caller, require_safe
from vae_exp.sweep.attempt import Attempt, fruitless_wandb_run, next_attempt, note_words
from vae_exp.training_run import begin, go_on

_log = logging.getLogger(__name__)


def run_job(
    config: DictConfig, words: Sequence[str], directory: RunDirectory, sweep: str, guard: InterruptGuard
) -> dict[str, Any] | None:
    """Do what is left to be done of a job.

    Args:
        config: The composed config, without Hydra's section.
        words: The overrides that the job was asked for with.
        directory: The job's, whose name carries the hash of its config.
        sweep: The name of the sweep.
        guard: Notes Ctrl-C and SIGTERM.

    Returns:
        What `result.json` holds; None if it was finished before.

    Raises:
        InUseError: if another process is at it.
        UserError: if it cannot start; its reason stands in `result.json`.
        DivergedError: if the loss is no longer finite.
        Interrupted: on Ctrl-C or SIGTERM, after checkpoint, tracker and result have been written.
    """
    with owned(directory):
        attempt = next_attempt(directory, config)
        if attempt is Attempt.SKIP:
            _log.info("%s is finished already; nothing is done.", directory.path.name)
            note_words(directory, words)
            return None
        may_download = not config.sweep.checked
        if config.sweep.checked:
            require_safe(
                plain_config(config), Caller(directory.path, list(config.trust), remedy="say trust=[command]")
            )
        if attempt is Attempt.RESUME:
            resumption = resumption_of_job(config, directory, may_download)
            if resumption is not None:
                note_words(directory, words)
                return go_on(resumption, directory, sweep, guard)
            _log.warning("%s has no checkpoint that is whole; it begins anew.", directory.path.name)
        wandb_run_id = None
        if directory.holds_a_run():
            wandb_run_id = fruitless_wandb_run(directory)
            directory.set_aside()
        return begin(config, directory, sweep, guard, wandb_run_id, may_download)
