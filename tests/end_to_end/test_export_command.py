"""The command `export`: its files, what other programs compute with them, and what it refuses."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import vae_exp
from tests.conftest import CHECKOUT, start
from tests.documentation_blocks import python_code

FILES = {"encoder.pt2", "decoder.pt2", "encoder.onnx", "decoder.onnx", "weights.safetensors", "model.json"}


@pytest.fixture(scope="module")
def exported(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run of digits, exported; copy it before changing it."""
    run = Path(shutil.copytree(digits_run, tmp_path_factory.mktemp("exported") / "run"))
    started = start("export", "run", "weights=safetensors", cwd=run.parent)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, out + err
    assert err == ""
    assert len(re.findall(r"differs from the model by \d", out)) == 5
    return run


@pytest.mark.slow
def test_the_description_says_what_the_files_are(exported):
    folder = exported / "export"
    assert {path.name for path in folder.iterdir()} == FILES
    described = json.loads((folder / "model.json").read_text())
    assert set(described["files"]) == FILES - {"model.json"}
    for name, entry in described["files"].items():
        assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert entry["largest_difference"] <= 1e-5
        assert str(CHECKOUT).encode() not in (folder / name).read_bytes()
    assert (described["image_shape"], described["latent_dim"]) == ([1, 8, 8], 2)
    assert described["likelihood"] == {"_target_": "vae_exp.model.likelihoods.BernoulliLikelihood"}
    [images] = described["decoder"]["outputs"]
    assert images == {"name": "images", "shape": ["batch", 1, 8, 8], "dtype": "float32", "range": [0, 1]}
    assert [port["name"] for port in described["encoder"]["outputs"]] == ["latent_mean", "latent_log_variance"]
    source = described["source"]
    checkpoint = exported / "checkpoints" / f"{source['checkpoint']}.pt"
    assert source["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert described["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.slow
def test_weights_are_those_of_the_run(exported):
    weights = load_file(exported / "export" / "weights.safetensors")
    expected = vae_exp.load_run(exported).vae.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_onnxruntime_gives_the_images_of_generate(exported, command):
    generated = command("generate", f"run={exported}", "columns=5", "manifold_size=4")
    assert generated.code == 0, generated.err
    encoder, decoder = (
        onnxruntime.InferenceSession(exported / "export" / f"{name}.onnx") for name in ("encoder", "decoder")
    )
    with np.load(exported / "generated" / "test-best" / "reconstructions.npz") as arrays:
        mean, _ = encoder.run(None, {"images": arrays["originals"]})
        [images] = decoder.run(None, {"latents": mean})
        np.testing.assert_allclose(images, arrays["reconstructions"], atol=1e-4)
    with np.load(exported / "generated" / "test-best" / "manifold.npz") as arrays:
        axis = arrays["axis"]
        latents = np.array([[first, second] for second in axis[::-1] for first in axis])
        [images] = decoder.run(None, {"latents": latents})
        np.testing.assert_allclose(images.reshape(arrays["manifold"].shape), arrays["manifold"], atol=1e-4)


@pytest.mark.slow
def test_the_lines_of_its_page_use_the_decoder_without_vae_exp(exported, tmp_path):
    lines, _ = python_code("docs/how_to/use_the_decoder_elsewhere.md")
    assert len(lines.strip().splitlines()) == 10
    shutil.copytree(exported, tmp_path / "outputs" / "DIR")
    script = f"import sys\nsys.modules['vae_exp'] = None\n{lines}\nnumpy.save('images.npy', images)\n"
    script += "numpy.save('latents.npy', latents)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    latents = torch.from_numpy(np.load(tmp_path / "latents.npy"))
    expected = vae_exp.load_run(exported).vae.decode(latents).mean
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "images.npy")), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_an_export_is_replaced_only_when_asked(exported, command, tmp_path):
    run = shutil.copytree(exported, tmp_path / "run")
    before = (run / "export" / "model.json").read_bytes()
    refused = command("export", "run", "part=decoder", "onnx=false")
    assert refused.code == 1
    assert "export exists; overwrite=true replaces it" in refused.err
    assert (run / "export" / "model.json").read_bytes() == before
    replaced = command("export", "run", "part=decoder", "onnx=false", "overwrite=true")
    assert replaced.code == 0, replaced.err
    assert {path.name for path in (run / "export").iterdir()} == {"decoder.pt2", "model.json"}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nowhere"], "nowhere is not a directory"),
        (["run=RUN", "part=prior"], "part=prior must be one of encoder, decoder"),
        (["run=RUN", "weights=npz"], "weights=npz must be one of safetensors"),
        (["run=RUN", "output=."], "exists; overwrite=true"),
        (["run=RUN", "output=.", "overwrite=true"], "is no export, and stays"),
    ],
)
def test_bad_keys_are_refused_before_anything_is_written(overrides, message, command, digits_run, tmp_path):
    refused = command("export", *(override.replace("RUN", str(digits_run)) for override in overrides))
    assert refused.code == 1
    assert message in refused.err
    assert not list(tmp_path.iterdir())
    assert not (digits_run / "export").exists()
