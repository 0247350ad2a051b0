"""The latent space of a run: layers against torch, what is packed, and which runs are opened."""

import base64
import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
import torch
import yaml
from starlette.testclient import TestClient

from tests.composing import composed
from tests.conftest import start
from vae_exp.configuration.instantiate import build_vae
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.dashboard.explorer import layers as layers_module
from vae_exp.dashboard.explorer.bundle import _describe_units, pack_arrays
from vae_exp.dashboard.explorer.catalog import ExplorerCatalog
from vae_exp.dashboard.explorer.layers import TOLERANCE, decoder_layers, run_layers, size_of
from vae_exp.dashboard.explorer.options import ExploreOptions
from vae_exp.dashboard.explorer.run_process import RunChangedError, RunProcess
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web.app import make_app
from vae_exp.dashboard.web.export import export
from vae_exp.data.images import ImageSet
from vae_exp.errors import UserError
from vae_exp.model.networks import ACTIVATIONS

SHAPE = [1, 12, 10]
CHAINS = [
    *[[f"model.activation={name}"] for name in [*ACTIVATIONS, "gated"]],
    ["model.hidden_dims=[]"],
    ["model=conv", "model.hidden_dims=[4,8]"],
    ["model=conv", "model.activation=gated"],
    ["model=conditional", "model.classes=3"],
    ["model=vq", "loss=vq"],
    ["model=fsq"],
    ["model/likelihood=gaussian_per_pixel"],
    ["model/likelihood=continuous_bernoulli"],
    ["model/likelihood=gaussian", "model.likelihood.sigmoid_mean=false"],
]
OTHERS = [["model=resnet"], ["model=hierarchical"], ["model/likelihood=discretized_logistic"]]


def build(overrides: list[str], scale: float = 3.0):
    """A model whose weights are as large as those of a trained one."""
    torch.manual_seed(0)
    plain = resolve_to_dict(composed("train", *overrides, f"data.image_shape={SHAPE}"))
    vae = build_vae(plain["model"], SHAPE).eval().requires_grad_(False)
    for parameter in vae.decoder.parameters():
        parameter.mul_(scale)
    return vae


@pytest.mark.quick(8)
@pytest.mark.parametrize("overrides", CHAINS, ids=" ".join)
def test_layers_compute_what_the_decoder_computes(overrides):
    vae = build(overrides)
    chain = decoder_layers(vae, SHAPE)
    assert chain is not None
    latents = torch.randn(5, *vae.prior().event_shape, generator=torch.Generator().manual_seed(7))
    labels = torch.tensor([0, 1, 2, 1, 0]) if vae.needs_labels else None
    inputs = latents if labels is None else torch.cat([latents, torch.eye(3)[labels]], dim=1)
    expected = vae.decode(latents, labels).mean.clamp(0, 1)
    torch.testing.assert_close(run_layers(chain, inputs).clamp(0, 1), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.quick(1)
@pytest.mark.parametrize("overrides", OTHERS, ids=" ".join)
def test_other_decoders_stay_with_torch(overrides):
    assert decoder_layers(build(overrides), SHAPE) is None


def test_a_decoder_that_is_no_chain_of_its_layers_stays_with_torch(monkeypatch):
    vae = build([])
    forward = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda latents: forward(latents.flip(-1)))
    assert decoder_layers(vae, SHAPE) is None


def test_weights_are_halved_where_they_are_too_large_and_left_to_torch_beyond(monkeypatch):
    vae = build([], scale=1.0)
    whole = decoder_layers(vae, SHAPE)
    monkeypatch.setattr(layers_module, "MAX_BYTES", size_of(whole) - 1)
    halved = decoder_layers(vae, SHAPE)
    assert halved[0].weight.dtype == torch.float16
    assert size_of(halved) == size_of(whole) // 2
    monkeypatch.setattr(layers_module, "MAX_BYTES", size_of(halved) - 1)
    assert decoder_layers(vae, SHAPE) is None


def test_packed_arrays_are_read_at_their_offsets():
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = pack_arrays({"name": "ä"}, arrays)
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    assert header["name"] == "ä"
    for name, array in arrays.items():
        entry = header["arrays"][name]
        start = 4 + length + entry["offset"]
        assert start % 4 == 0
        read = np.frombuffer(data[start : start + array.nbytes], entry["type"]).reshape(entry["shape"])
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_the_plane_of_codes_has_two_directions_however_few_images_there_are(count):
    arrays: dict[str, np.ndarray] = {"pixels": np.zeros((count, 1))}
    images = ImageSet(torch.rand(count, *SHAPE))
    with torch.no_grad():
        _describe_units(build(["model.latent_dim=5"]), images, torch.Generator().manual_seed(0), arrays)
    directions = arrays["directions"]
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-5)


@pytest.fixture
def catalog(digits_run: Path):
    catalog = ExplorerCatalog(RunStore([digits_run]), ExploreOptions([digits_run]))
    yield catalog
    catalog.stop()


@pytest.fixture
def client(catalog: ExplorerCatalog) -> TestClient:
    app = make_app(catalog._store, catalog, frozenset({"127.0.0.1"}))
    return TestClient(app, base_url="http://127.0.0.1:8765")


def header_of(bundle: bytes) -> dict:
    return json.loads(bundle[4 : 4 + int.from_bytes(bundle[:4], "little")])


def encoded(*latents: float) -> str:
    return base64.urlsafe_b64encode(np.array(latents, "<f4").tobytes()).decode()


@pytest.mark.slow
def test_a_named_run_is_packed_and_decoded_by_another_process(client, digits_run):
    from vae_exp import load_run

    run = load_run(digits_run)
    [listed] = client.get("/api/latent").json()["runs"]
    data = client.get(f"/api/latent/{listed['key']}").content
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    entry = header["arrays"]["image_codes"]
    start = 4 + length + entry["offset"]
    codes = np.frombuffer(data, "<f4", int(np.prod(entry["shape"])), start).reshape(entry["shape"])
    images = run.images("val").batch(slice(0, len(codes))).images
    np.testing.assert_allclose(codes, run.vae.encode(images).mean.numpy(), atol=1e-5)
    z = torch.linspace(-1, 1, header["latent_dim"])
    address = f"/api/latent/{listed['key']}/image"
    params = {"z": encoded(*z.tolist()), "label": "0", "version": header["version"]}
    answer = client.get(address, params=params)
    expected = run.vae.decode(z[None]).mean[0].mul(255)
    values = np.frombuffer(answer.content, np.uint8).reshape(header["image_shape"])
    np.testing.assert_allclose(values, expected.numpy(), atol=0.51)
    for z in ("", "é", "AAAA", encoded(*[0.0] * 5000), encoded(float("nan"), 0.0)):
        refused = client.get(address, params=params | {"z": z})
        assert refused.status_code == 400
        assert "z" in refused.text or "latents" in refused.text
    assert client.get(address, params=params | {"version": "earlier"}).status_code == 409
    assert client.get(f"/api/latent/{listed['key']}x").status_code == 404


def test_runs_outside_the_roots_and_without_a_checkpoint_are_not_listed(digits_run, tmp_path):
    from tests.dashboard.records import make_run

    make_run(tmp_path, "outside", {"run_directory": str(digits_run)}, [{"val/elbo": -1.0}])
    make_run(tmp_path, "empty", {"run_directory": str(tmp_path / "empty")}, [{"val/elbo": -1.0}])
    store = RunStore([tmp_path])
    store.read_all()
    assert set(store.runs) == {"outside", "empty"}
    assert ExplorerCatalog(store, ExploreOptions()).runs() == []


def test_a_directory_that_is_no_path_hides_no_other_run(copied_run, tmp_path):
    from tests.dashboard.records import make_run

    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    paths = {"good": copied_run, "null": tmp_path / "\0", "long": tmp_path / ("x" * 300)}
    paths["loop"] = tmp_path / "loop"
    for key, path in paths.items():
        make_run(tmp_path, key, {"run_directory": str(path)}, [{"val/elbo": -1.0}])
    store = RunStore([tmp_path])
    store.read_all()
    catalog = ExplorerCatalog(store, ExploreOptions())
    assert set(store.runs) == set(paths)
    assert [run.key for run in catalog.runs()] == ["good"]
    assert [catalog.get(key) for key in ("null", "long", "loop")] == [None] * 3


def test_a_run_without_a_log_has_its_key_while_those_of_others_are_read(digits_run, copied_run, tmp_path):
    from tests.dashboard.records import make_run

    make_run(tmp_path, "logged", {"run_directory": str(digits_run)}, [{"val/elbo": -1.0}])
    store = RunStore([tmp_path])
    catalog = ExplorerCatalog(store, ExploreOptions([digits_run, copied_run]))
    before = {run.path: run.key for run in catalog.runs()}
    store.read_all()
    after = {run.path: run.key for run in catalog.runs()}
    assert (before[digits_run], after[digits_run]) == ("directory:1", "logged")
    assert before[copied_run] == after[copied_run] == "directory:2"
    opened = catalog.get("directory:1")  # by a page that was listed before
    assert opened
    assert opened.path == digits_run


def test_the_server_decodes_for_named_runs_alone(digits_run, tmp_path):
    from tests.dashboard.records import make_run
    from vae_exp.errors import UserError

    make_run(digits_run.parent, "below", {"run_directory": str(digits_run)}, [{"val/elbo": -1.0}])
    store = RunStore([digits_run.parent])
    store.read_all()
    catalog = ExplorerCatalog(store, ExploreOptions())
    [run] = [run for run in catalog.runs() if run.key == "below"]
    with pytest.raises(UserError, match=r"vae_exp\.explore run="):
        catalog.decode(run, "", encoded(0.0, 0.0), 0)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open runs in a thread of this process: what is shown of them is the same, and nothing has to start."""
    monkeypatch.setattr(RunProcess, "_start", lambda process: ThreadPoolExecutor(1))


@pytest.mark.usefixtures("same_process")
def test_an_export_names_no_folder_of_data_that_are_gone(copied_run, tmp_path):
    config = copied_run / ".hydra" / "config.yaml"
    gone = tmp_path / "secret" / "gone.npz"
    content = yaml.safe_load(config.read_text())
    content["data"]["source"] = {"_target_": "vae_exp.data.npz.NPZSource", "path": str(gone)}
    config.write_text(yaml.safe_dump(content))
    process = RunProcess(ExploreOptions([copied_run], data_path=str(gone)))
    assert b"secret" in process.bundle(copied_run)
    process.stop()
    export([copied_run], tmp_path / "page.html", ExploreOptions([copied_run]), private=False, max_megabytes=50)
    [bundle] = re.findall(r'"bundle":"([^"]+)"', (tmp_path / "page.html").read_text())
    data = base64.b64decode(bundle)
    assert b"cannot be opened" in data
    assert b"secret" not in data


@pytest.mark.usefixtures("same_process")
def test_a_checkpoint_that_a_run_does_not_have_is_named_with_those_it_has(copied_run):
    (copied_run / "checkpoints" / "best.pt").unlink()
    process = RunProcess(ExploreOptions(checkpoint="best"))
    with pytest.raises(UserError, match=r"checkpoint=best: run=.* has only last"):
        process.bundle(copied_run)
    process.stop()


@pytest.mark.usefixtures("same_process")
def test_images_outside_are_named_by_the_command_that_shows_them(copied_run, tmp_path):
    images = tmp_path / "elsewhere" / "images.npy"
    images.parent.mkdir()
    np.save(images, np.zeros((5, 8, 8), dtype=np.float32))
    config = copied_run / ".hydra" / "config.yaml"
    content = yaml.safe_load(config.read_text())
    source = {"_target_": "vae_exp.data.npz.NPZSource", "path": "${data.path}"}
    content["data"] |= {"source": source, "path": str(images), "validation_size": 0}
    config.write_text(yaml.safe_dump(content))
    process = RunProcess(ExploreOptions())
    assert f"-m vae_exp.explore run={copied_run} data.path={images}`.".encode() in process.bundle(copied_run)
    process.stop()
    process = RunProcess(ExploreOptions(data_path=str(images)))
    assert b'"split": "train"' in process.bundle(copied_run)
    process.stop()


@pytest.mark.quick(1)
@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("explore", "run={run} output=page.html size_limit=0.1", "its limit is 0.1: name fewer runs, or raise"),
        ("explore", "run={run} output=file/page.html", "output=.*/file cannot be written to"),
        ("dashboard", "--explore {run} --export page.html --size-limit 0.1", r"\(--last-pictures\), or raise"),
        ("dashboard", "--explore {run} --export file/page.html", "--export=file/page.html cannot be written"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_with_keys_of_the_command(
    copied_run, command, tmp_path, name, arguments, message
):
    (tmp_path / "file").touch()
    finished = command(name, *arguments.format(run=copied_run).split())
    assert finished.code == 1
    assert re.search(message, " ".join(finished.err.split()))
    assert not (tmp_path / "page.html").exists()


def test_requests_that_wait_for_the_process_leave_the_page_its_threads(catalog, client, monkeypatch):
    is_done = threading.Event()
    monkeypatch.setattr(catalog._process, "bundle", lambda path: b"" if is_done.wait(60) else None)
    with client, ThreadPoolExecutor(60) as threads:
        [listed] = client.get("/api/latent").json()["runs"]
        waiting = [threads.submit(client.get, f"/api/latent/{listed['key']}") for _ in range(50)]
        time.sleep(0.5)
        try:
            assert threads.submit(client.get, "/api/runs").result(timeout=20).status_code == 200
        finally:
            is_done.set()
        assert {request.result(timeout=20).status_code for request in waiting} == {200}


@pytest.mark.usefixtures("same_process")
def test_latents_of_a_bundle_are_not_decoded_by_a_later_checkpoint(copied_run):
    process = RunProcess(ExploreOptions())
    header = header_of(process.bundle(copied_run))
    version, latents = header["version"], [0.0] * header["latent_dim"]
    assert len(process.decode(copied_run, version, latents, 0)) == 64
    for checkpoint in (copied_run / "checkpoints").iterdir():
        os.utime(checkpoint, (1, 1))
    with pytest.raises(RunChangedError, match="a newer checkpoint"):
        process.decode(copied_run, version, latents, 0)
    version = header_of(process.bundle(copied_run))["version"]
    assert len(process.decode(copied_run, version, latents, 0)) == 64
    process.stop()


@pytest.mark.usefixtures("same_process")
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_run_that_has_diverged_is_refused_with_a_reason(copied_run):
    path = copied_run / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    for tensor in state["vae"].values():
        tensor.mul_(1e20)
    torch.save(state, path)
    process = RunProcess(ExploreOptions())
    with pytest.raises(UserError, match="its weights may have diverged"):
        process.bundle(copied_run)
    process.stop()


@pytest.mark.slow
def test_an_error_of_a_model_is_the_reason_and_the_process_stays():
    process = RunProcess(ExploreOptions())
    with pytest.raises(UserError, match="the run cannot be shown: KeyError: 'width'"):
        process._call(exec, "raise KeyError('width')")
    assert process._call(len, "abc") == 3
    process.stop()


@pytest.mark.slow
def test_the_process_ends_in_the_middle_of_a_request(tmp_path):
    process, started = RunProcess(ExploreOptions()), tmp_path / "started"
    script = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(60)"
    with ThreadPoolExecutor() as threads:
        request = threads.submit(process._call, exec, script)
        while not started.exists():
            time.sleep(0.1)
        process.stop()
        with pytest.raises(UserError, match="has ended"):
            request.result(timeout=20)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.slow
def test_the_process_ends_with_its_server(digits_run, signal_number):
    started = start("explore", f"run={digits_run}", "open=false", "port=0", cwd=digits_run.parent)
    address = started.stdout.readline().split()[1].split("#")[0]
    with urlopen(f"{address}api/latent") as answer:
        [listed] = json.load(answer)["runs"]
    with urlopen(f"{address}api/latent/{listed['key']}") as answer:
        assert len(answer.read()) > 10_000
    children = psutil.Process(started.pid).children(recursive=True)
    assert children
    started.send_signal(signal_number)
    _, errors = started.communicate(timeout=20)
    assert errors == "" or signal_number == signal.SIGKILL
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert len(gone) == len(children)
