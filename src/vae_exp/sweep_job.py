"""One job of a sweep: skipped, taken up where it was, or begun."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from vae_exp.configuration.schema import resolve_to_dict
from vae_exp.configuration.stored_files import Caller, require_safe
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.runs.resume import load_job_resume_state
from vae_exp.runs.training import begin, go_on
from vae_exp.storage.run_directory import RunDirectory, owned
from vae_exp.sweep.attempt import Attempt, fruitless_wandb_run, next_attempt, note_words

_log = logging.getLogger(__name__)


def run_job(
    config: DictConfig, words: Sequence[str], directory: RunDirectory, sweep: str, guard: GracefulShutdown
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
                resolve_to_dict(config), Caller(directory.path, list(config.trust), remedy="say trust=[command]")
            )
        if attempt is Attempt.RESUME:
            resumption = load_job_resume_state(config, directory, may_download)
            if resumption is not None:
                note_words(directory, words)
                return go_on(resumption, directory, sweep, guard)
            _log.warning("%s has no checkpoint that is whole; it begins anew.", directory.path.name)
        wandb_run_id = None
        if directory.contains_run():
            wandb_run_id = fruitless_wandb_run(directory)
            directory.archive_attempt()
        return begin(config, directory, sweep, guard, wandb_run_id, may_download)
