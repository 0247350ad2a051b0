import torch

from tests.builders import trainer_options
from vae_exp.benchmark.candidates import entrants
from vae_exp.configuration.instantiate import build_loss, build_optimizer, build_vae
from vae_exp.engine.progress import NullProgress
from vae_exp.engine.seeding import seed_everything
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.trainer import Trainer
from vae_exp.storage.run_directory import RunDirectory


def test_bursts_are_the_steps_of_the_trainer_to_the_bit(case, tmp_path):
    [entrant] = [each for each in entrants(case, ["eager"], ["fp32"]) if each.name == "engine/eager/fp32"]
    bursts = entrant.build()
    for steps in (5, 30, 13):  # two epochs of 24
        bursts.burst(steps)
    seed_everything(0)
    vae = build_vae(case.config["model"], case.images.image_shape)
    trainer = Trainer(
        vae=vae,
        loss=build_loss(case.config["loss"], vae, case.images.image_shape),
        optimizer=build_optimizer(case.config["optimizer"], vae.parameters()),
        scheduler=None,
        train=case.images,
        val=case.images.take(0),
        evaluators={},
        trackers=[],
        directory=RunDirectory(tmp_path),
        options=trainer_options(epochs=2, batch_size=case.batch_size, execution="eager"),
        checkpoint_metadata={},
    )
    trainer.fit(GracefulShutdown(), NullProgress())
    for mine, theirs in zip(bursts._vae.parameters(), vae.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert (bursts.state.global_step, bursts.state.epoch, bursts.state.batch_in_epoch) == (48, 1, 24)
