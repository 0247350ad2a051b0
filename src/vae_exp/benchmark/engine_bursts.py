"""The engine itself, run for some steps at a time."""

from vae_exp.engine.trainer import Trainer


class BurstTrainer(Trainer):
    """A trainer as a candidate."""

    def burst(self, steps: int) -> int:
        """Train on the next batches, epoch after epoch; how many images that were."""
        return self.run_steps(steps)
