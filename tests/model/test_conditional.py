"""The class-conditional VAE, against the plain networks it is made of."""

import logging

import pytest
import torch

from tests.builders import CPU, bernoulli_vae, fit, make_trainer
from vae_exp.configuration.shape_checks import check_labels, check_loss_terms
from vae_exp.data.images import Batch, ImageSet
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import UserError
from vae_exp.evaluation.elbo import ELBOEvaluator
from vae_exp.evaluation.figures import draw_figures
from vae_exp.evaluation.linear_probe import ProbeEvaluator
from vae_exp.evaluation.nll import NLLEvaluator
from vae_exp.model.conditional import ConditionalDecoder, ConditionalEncoder, ConditionalVAE
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE
from vae_exp.objective.elbo import ELBO
from vae_exp.objective.loss_terms import LossTerms

SHAPE = (1, 2, 3)
CLASSES = 4


def noise(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditional_vae(latent_dim: int = 2) -> ConditionalVAE:
    torch.manual_seed(0)
    return ConditionalVAE(
        ConditionalEncoder(SHAPE, latent_dim, [5], "tanh", CLASSES),
        ConditionalDecoder(SHAPE, latent_dim, [5], "tanh", CLASSES),
        StandardNormalPrior(latent_dim),
    )


def labelled(count: int = 11) -> ImageSet:
    pixels = torch.randint(256, (count, *SHAPE), generator=noise(3)).to(torch.uint8)
    return ImageSet(pixels, torch.arange(count) * 3 % CLASSES, 255)


@pytest.mark.parametrize(("classes", "told"), [(None, "null"), (0, "0")])
def test_a_model_of_no_classes_is_refused(classes: int | None, told: str):
    with pytest.raises(ValueError, match=rf"model\.classes={told} must be a whole number of at least 1"):
        ConditionalEncoder(SHAPE, 2, [5], "tanh", classes)


def test_the_class_stands_beside_the_image_and_the_latents():
    vae, x, y = conditional_vae(), torch.rand(5, *SHAPE), torch.tensor([0, 3, 1, 1, 2])
    hot = torch.eye(CLASSES)[y]
    features = vae.encoder.hidden(torch.cat([x.flatten(1), hot], dim=1))
    latents = torch.randn(6, 5, 2)
    outputs = vae.decoder.output(vae.decoder.hidden(torch.cat([latents, hot.expand(6, 5, CLASSES)], dim=-1)))
    torch.testing.assert_close(vae.encode(x, y).mean, vae.encoder.posterior(features).mean)
    torch.testing.assert_close(vae.decode(latents, y).mean, outputs.sigmoid().reshape(6, 5, *SHAPE))


def test_other_classes_give_other_images():
    vae, latents = conditional_vae(), torch.randn(1, 2)
    means = [vae.decode(latents, torch.tensor([label])).mean for label in range(CLASSES)]
    assert len({tuple(mean.flatten().tolist()) for mean in means}) == CLASSES


def test_without_classes_it_says_what_is_missing():
    vae = conditional_vae()
    with pytest.raises(ValueError, match="needs the class of every image: pass `labels`"):
        vae.encode(torch.rand(2, *SHAPE))
    with pytest.raises(ValueError, match="needs the class of every image: pass `labels`"):
        vae.decode(torch.randn(1, 2))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_samples_of_no_class_are_refused(label: int):
    with pytest.raises(ValueError, match=rf"labels=\[0, {label}\] must be integers from 0 to {CLASSES - 1}"):
        conditional_vae().sample(2, labels=torch.tensor([0, label]))


def test_samples_are_of_the_classes_in_turn():
    vae = conditional_vae()
    drawn = vae.sample(6, noise())
    assert vae.sample(6).shape == drawn.shape
    latents = torch.randn(6, 2, generator=noise())
    in_turn = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(drawn, vae.decode(latents, in_turn).mean)
    torch.testing.assert_close(vae.sample(6, noise(), in_turn.flip(0)), vae.decode(latents, in_turn.flip(0)).mean)


def test_a_set_of_images_gives_each_batch_its_classes():
    vae, images = conditional_vae().eval(), labelled()
    found = dict(ELBOEvaluator(3, 4, None).run(vae, images, noise()))
    means = vae.encode(images.batch().images, images.labels).mean
    whole = -vae.decode(means, images.labels).log_prob(images.batch().images).mean().item()
    assert found["reconstruction_from_mean"] == pytest.approx(whole, rel=1e-5)


class SeesClasses(ELBO):
    """Keeps the images and the classes of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, vae: ConditionalVAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        if vae.training:
            self.seen.append((batch.images.clone(), batch.labels.clone()))
        return super().__call__(vae, batch, generator)


@pytest.mark.parametrize("streamed", [False, True])
def test_training_gives_every_image_its_own_class(tmp_path, streamed: bool):
    images, loss = labelled(), SeesClasses()
    train = images.stream_to(CPU) if streamed else images
    fit(make_trainer(tmp_path, train=train, val=labelled(5), vae=conditional_vae(), loss=loss))
    pixels = torch.cat([each for each, _ in loss.seen])
    labels = torch.cat([each for _, each in loss.seen])
    assert len(pixels) == 22
    by_image = {
        tuple(each.flatten().tolist()): label
        for each, label in zip(images.batch().images, images.labels, strict=True)
    }
    assert len(by_image) == 11
    for each, label in zip(pixels, labels, strict=True):
        assert by_image[tuple(each.flatten().tolist())] == label


class NeedsLabels(ELBO):
    """A loss that reads labels, as a semi-supervised one does."""

    needs_labels = True

    def __call__(self, vae: VAE, batch: Batch, generator: torch.Generator) -> LossTerms:
        assert batch.labels is not None
        assert len(batch.labels) == len(batch)
        return super().__call__(vae, batch, generator)


def test_a_loss_may_read_labels_though_the_model_does_not(tmp_path):
    loss, plain = NeedsLabels(), bernoulli_vae(2)
    check_loss_terms(loss, "NeedsLabels", plain, list(SHAPE))
    check_labels(plain, labelled(), "training", loss)
    fit(make_trainer(tmp_path, train=labelled(), vae=plain, loss=loss))
    with pytest.raises(UserError, match=r"The loss needs labels, and the data have none; use another loss\."):
        check_labels(plain, labelled().without_labels(), "training", loss)


@pytest.mark.slow
def test_a_conditional_model_learns_what_its_classes_tell(tmp_path):
    """Images that are a function of the class alone: the rate goes to nothing, and the class explains them."""
    patterns = torch.rand(CLASSES, *SHAPE, generator=noise(5)).round()
    labels = torch.arange(40) % CLASSES
    images = ImageSet(patterns[labels], labels, 1)
    vae = conditional_vae()
    trainer = make_trainer(tmp_path, train=images, vae=vae, epochs=150, batch_size=20)
    with GracefulShutdown():
        fit(trainer)
    assert trainer.state.metrics["train/distortion"] < 0.3
    assert trainer.state.metrics["train/rate"] < 0.1


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_every_picture_and_estimate_can_be_made(latent_dim: int):
    vae, images = conditional_vae(latent_dim).eval(), labelled()
    pictures = list(draw_figures(vae, images, noise(), 4, 3))
    assert len(pictures) == 5
    found = dict(NLLEvaluator(7, None, 20, None).run(vae, images, noise()))
    assert found["nll_images"] == 11


def test_a_probe_of_codes_that_know_the_class_is_not_made(caplog):
    with caplog.at_level(logging.WARNING):
        assert not list(ProbeEvaluator(3, None, 5, None).run(conditional_vae(), labelled(), noise()))
    assert "a class-conditional model receives the class" in caplog.text
