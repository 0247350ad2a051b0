import pytest
import torch

from vae_exp.benchmark.baselines import PictureDataset, PlainNet, picture_batches, plain_loss
from vae_exp.benchmark.candidates import PLAIN, TENSOR_LOOP, candidate_specs
from vae_exp.configuration.instantiate import build_loss, build_vae
from vae_exp.data.images import Batch, ImageSet


def copy_weights(net, vae):
    """Our net's weights, from the package's: two heads there are one here."""
    heads = vae.encoder.posterior.mean_and_log_variance
    mine = [*net.encoder[::2], net.mean, net.log_variance, *net.decoder[::2], net.image]
    halves = [(half, bias) for half, bias in zip(heads.weight.chunk(2), heads.bias.chunk(2), strict=True)]
    others = [vae.encoder.hidden[::2], vae.decoder.hidden[::2], [vae.decoder.output]]
    encoder, decoder, output = ([(layer.weight, layer.bias) for layer in part] for part in others)
    with torch.no_grad():
        for layer, (weight, bias) in zip(mine, [*encoder, *halves, *decoder, *output], strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def test_the_plain_loss_is_the_negative_elbo_summed_over_the_batch(case, monkeypatch, generator):
    vae = build_vae(case.config["model"], case.images.image_shape)
    loss = build_loss(case.config["loss"], vae, case.images.image_shape)
    net = PlainNet(64, [40, 20], 2, [20, 40], "relu")
    copy_weights(net, vae)
    images = case.images.batch(slice(0, 50)).images
    state = generator.get_state()
    expected = loss(vae, Batch(images), generator).loss.sum()
    expected.backward()
    generator.set_state(state)
    monkeypatch.setattr(torch, "randn_like", lambda mean: torch.randn(mean.shape, generator=generator))
    x = images.flatten(1)
    actual = plain_loss(x, *net(x))
    actual.backward()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(net.image.weight.grad, vae.decoder.output.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.encoder[0].weight.grad, vae.encoder.hidden[0].weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_as_the_images_that_went_in_with_their_labels(channels):
    pixels = torch.randint(0, 256, (7, channels, 5, 4), dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(7), 255)
    pictures, labels = zip(*PictureDataset(images), strict=False)
    assert labels == tuple(range(7))
    torch.testing.assert_close(torch.stack(pictures), images.batch().images)


def test_other_grey_values_are_stretched_to_bytes(case):
    dataset = PictureDataset(case.images)
    for position in (0, 99):
        expected = case.images.batch(slice(position, position + 1)).images[0]
        torch.testing.assert_close(dataset[position][0], expected, rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("name", [PLAIN, TENSOR_LOOP, "engine/eager/fp32"])
def test_every_candidate_learns(case, name):
    candidate = candidate_specs(case, ["eager"], ["fp32"])[name].build()
    net = candidate.vae if name.startswith("engine") else candidate._net
    weights = [weight.clone() for weight in net.parameters()]
    assert candidate.run_steps(60) == 60 * 50  # 24 batches an epoch: two ends of epochs among them
    assert (
        sum(weight.numel() for weight in weights) == 64 * 40 + 40 + 40 * 20 + 20 + 84 + 60 + 20 * 40 + 40 + 41 * 64
    )
    assert all((before != after).any() for before, after in zip(weights, net.parameters(), strict=True))
    x = case.images.batch().images
    with torch.no_grad():
        reconstruction = net.reconstruct(x).flatten(1) if name.startswith("engine") else net(x.flatten(1))[0]
    error = (reconstruction - x.flatten(1)).square().mean()
    assert error < 0.9 * (x - 0.5).square().mean()


def test_an_epoch_of_the_plain_loop_shows_every_image_once(case):
    dataset = [(torch.full((1, 1, 1), float(index)), 0) for index in range(len(case.images))]
    batches = picture_batches(dataset, 50, case.device)
    indices = torch.cat([next(batches).flatten() for _ in range(24)]).int().tolist()
    assert sorted(indices) == list(range(1200))
    assert indices != sorted(indices)
