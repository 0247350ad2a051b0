"""What a run is built from."""

from pathlib import Path

from tests.composing import composed
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.objective.disentangling import BetaTCVAE
from vae_exp.runs.training_setup import SweepJob, set_up
from vae_exp.storage.run_directory import RunDirectory


def test_a_loss_that_needs_the_number_of_images_has_that_of_those_trained_on(tmp_path: Path):
    config = composed(
        "train", "data=digits", "loss=beta_tcvae", "trainer.max_train_images=300", "trainer.device=cpu"
    )
    trainer = set_up(config, RunDirectory(tmp_path), None, None, SweepJob(), {}, GracefulShutdown()).trainer
    assert isinstance(trainer.loss, BetaTCVAE)
    assert trainer.loss.dataset_size == 300
