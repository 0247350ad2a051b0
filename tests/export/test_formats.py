"""Every kind of model as a program: exported and equal to the model, or refused with a reason."""

import re

import onnxruntime
import pytest
import torch
from torch import nn
from torch.distributions import Cauchy, Independent, Normal

from tests.composing import composed
from vae_exp.configuration.instantiate import build_vae
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.errors import UserError
from vae_exp.export.formats import choose_formats, record_program, write_model
from vae_exp.export.parts import split_model
from vae_exp.export.reloading import largest_differences
from vae_exp.model.decoders import MLPDecoder
from vae_exp.model.priors import StandardNormalPrior
from vae_exp.model.vae import VAE

SHAPE = (1, 8, 8)
MODELS = {
    "mlp": ["model.hidden_dims=[8]"],
    "conv": ["model.hidden_dims=[4,8]"],
    "resnet": ["model.hidden_dims=[8,16]"],
    "conditional": ["model.hidden_dims=[8]"],
    "hierarchical": ["model.hidden_dims=[8]", "model.top_hidden_dims=[8]", "model.latent_dims=[4,2]"],
    "vq": ["model.hidden_dims=[8]"],
    "fsq": ["model.hidden_dims=[8]"],
}


def model(name: str, *overrides: str) -> VAE:
    config = resolve_to_dict(composed("train", "data=digits", f"model={name}", *MODELS[name], *overrides))
    torch.manual_seed(0)
    return build_vae(config["model"], SHAPE).eval().requires_grad_(False)


def inputs_for(vae: VAE, count: int):
    """Images, labels and latents by a generator of the test's own."""
    noise = torch.Generator().manual_seed(100 + count)
    labels = (torch.randint(10, (count,), generator=noise),) if vae.needs_labels else ()
    latents = torch.randn(count, *vae.prior().event_shape, generator=noise)
    return torch.rand(count, *SHAPE, generator=noise), labels, latents


def expected_outputs(vae: VAE, count: int):
    """What encoder and decoder are to give, from the model's own methods."""
    images, labels, latents = inputs_for(vae, count)
    posterior = vae.encode(images, *labels)
    codes = getattr(posterior, "indices", None)
    second = posterior.variance.log() if codes is None else codes
    encoder, decoder = (images, *labels), (latents, *labels)
    return {
        "encoder": (encoder, (posterior.mean, second)),
        "decoder": (decoder, (vae.decode(*decoder).mean,)),
    }


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", MODELS)
def test_a_program_gives_what_the_model_gives_for_any_number_of_images(name):
    vae = model(name)
    parts = split_model(vae, SHAPE)
    assert [part.name for part in parts] == ["encoder", "decoder"]
    for part in parts:
        program = record_program(part).module()
        for count in (1, 3):
            arguments, results = expected_outputs(vae, count)[part.name]
            outputs = program(*arguments)
            torch.testing.assert_close(outputs if isinstance(outputs, tuple) else (outputs,), results)
            assert [spec.shape for spec in part.outputs] == [tuple(result.shape[1:]) for result in results]


@pytest.mark.parametrize("name", ["conditional", "conv", "resnet", "hierarchical", "vq", "fsq"])
@pytest.mark.slow
def test_onnx_runs_without_torch_s_help(name, tmp_path):
    vae = model(name)
    parts = split_model(vae, SHAPE)
    write_model(vae, parts, ["pt2", "onnx"], tmp_path)
    for part in parts:
        session = onnxruntime.InferenceSession(tmp_path / f"{part.name}.onnx", providers=["CPUExecutionProvider"])
        assert [port.name for port in session.get_inputs()] == [spec.name for spec in part.inputs]
        assert [port.name for port in session.get_outputs()] == [spec.name for spec in part.outputs]
        assert all(port.shape[0] == "batch" for port in session.get_inputs())
        for count in (1, 3):
            arguments, results = expected_outputs(vae, count)[part.name]
            feed = {spec.name: x.numpy() for spec, x in zip(part.inputs, arguments, strict=True)}
            for output, result in zip(session.run(None, feed), results, strict=True):
                torch.testing.assert_close(torch.from_numpy(output), result, atol=1e-5, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "override", ["model.posterior=full_covariance", "model.posterior=flow", "model/prior=vamp"]
)
def test_other_posteriors_and_priors_are_exported(override):
    vae = model("mlp", override)
    for part in split_model(vae, SHAPE):
        arguments, results = expected_outputs(vae, 3)[part.name]
        outputs = record_program(part).module()(*arguments)
        torch.testing.assert_close(outputs if isinstance(outputs, tuple) else (outputs,), results)


def test_a_program_has_the_weights_of_its_part_alone():
    vae = model("mlp", "model/prior=vamp")
    encoder, decoder = (set(record_program(part).state_dict) for part in split_model(vae, SHAPE))
    assert {name.split(".")[1] for name in encoder} == {"encoder"}
    assert {name.split(".")[1] for name in decoder} == {"decoder"}
    assert set(vae._modules) == {"encoder", "decoder", "prior"}


class Encoder(nn.Module):
    """A user's encoder that ends in a function of features and images."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(64, 2)
        self.function = function

    def forward(self, images):
        return self.function(self.linear(images.flatten(1)), images)


def user_vae(function) -> VAE:
    torch.manual_seed(0)
    vae = VAE(Encoder(function), MLPDecoder(SHAPE, 2, [8], "relu"), StandardNormalPrior(2))
    return vae.eval().requires_grad_(False)


def branching(features, images):
    if images.mean() > 0.5:
        features = 2 * features
    return Independent(Normal(features, features.exp()), 1)


def fixed_batch(features, images):
    return Independent(Normal(features, torch.ones(len(images), 2)), 1)


def leaving_torch(features, images):
    return Independent(Normal(features * float(images.numpy().mean()), 1.0), 1)


def without_mean(features, images):
    return Independent(Cauchy(features, features.exp()), 1)


def checking_values(features, images):
    return Independent(Normal(features, features.exp()), 1)


def drawing(features, images):
    return Independent(Normal(features + torch.randn_like(features), features.exp()), 1)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branching, r"branches on the values of a tensor.* \(.*test_formats.py, line \d+\)"),
        (fixed_batch, r"fixes the number of images"),
        (leaving_torch, r"numpy"),
        (without_mean, r"its outputs are not finite"),
    ],
)
def test_what_is_no_single_graph_is_refused_with_the_reason(function, reason, capfd):
    [encoder] = split_model(user_vae(function), SHAPE, "encoder")
    with pytest.raises(UserError, match=rf"the encoder cannot be exported: .*{reason}.*part=decoder exports"):
        record_program(encoder)
    assert capfd.readouterr() == ("", "")  # torch prints the graph


def test_a_distribution_that_checks_its_arguments_is_exported():
    vae = user_vae(checking_values)
    [encoder] = split_model(vae, SHAPE, "encoder")
    images, _, _ = inputs_for(vae, 3)
    mean, _ = record_program(encoder).module()(images)
    torch.testing.assert_close(mean, vae.encode(images).mean)


@pytest.mark.slow
def test_a_program_that_differs_from_the_model_is_refused(tmp_path):
    vae = user_vae(drawing)
    parts = split_model(vae, SHAPE)
    write_model(vae, parts, ["pt2"], tmp_path)
    with pytest.raises(UserError, match=r"encoder.pt2 would differ from the model by .*draw random numbers"):
        largest_differences(vae, parts, tmp_path)


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_is_refused(tmp_path):
    vae = model("mlp")
    (tmp_path / "encoder.pt2").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"do not work in a process without vae_exp: "):
        largest_differences(vae, split_model(vae, SHAPE), tmp_path)


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'x'"), TypeError("made for numpy 1")])
def test_packages_that_cannot_be_imported_are_named(error, monkeypatch, capsys):
    def fail(name: str) -> None:
        raise error

    assert choose_formats("auto", "safetensors") == ["pt2", "onnx", "safetensors"]
    assert not capsys.readouterr().out
    monkeypatch.setattr("vae_exp.export.formats.import_module", fail)
    assert choose_formats(False, None) == ["pt2"]
    assert choose_formats("auto", None) == ["pt2"]
    reason = f"cannot import onnx ({type(error).__name__}: {error}), onnxscript ("
    assert capsys.readouterr().out.startswith(f"Without ONNX: {reason}")
    with pytest.raises(UserError, match=re.escape(f"onnx=True {reason}")) as refused:
        choose_formats(True, None)
    assert "vae-exp[onnx]" in str(refused.value)
    with pytest.raises(UserError, match=r"weights=safetensors cannot import safetensors .*vae-exp\[safetensors\]"):
        choose_formats("auto", "safetensors")
