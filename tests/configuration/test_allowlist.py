"""What a stored config names is neither imported nor opened without the caller's word."""

import copy
import importlib
import inspect
import io
import os
import pkgutil
import re
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import vae_exp
from tests.composing import composed
from tests.readers import read_result
from vae_exp.configuration.allowlist import (
    ARGUMENTS,
    KEYS,
    KINDS,
    Caller,
    TargetKind,
    in_packages,
    require_safe,
    resolver_calls,
)
from vae_exp.configuration.parsing import resolve_to_dict
from vae_exp.errors import UserError
from vae_exp.runs.resume import load_resume_state
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep import __main__ as sweep_command
from vae_exp.sweep.command_check import check_command
from vae_exp.sweep.manifest import add_command, portable_args

# Arguments whose name suggests something to open, and that take a number, a module or a tensor.
HARMLESS = {
    "vae_exp.model.flows.FlowHead.features",
    "vae_exp.model.posteriors.DiagonalGaussianHead.features",
    "vae_exp.model.posteriors.FullCovarianceGaussianHead.features",
    "vae_exp.evaluation.fid._Sized.features",
    "vae_exp.objective.schedules.LossSchedules.device",
    "vae_exp.data.batch_loader._Slot.host",
    "vae_exp.data.images.ImageSet.stream_device",
    "torchvision.models.vgg.VGG.features",
    "vae_exp.evaluation.fitted_prior.FittedPrior.weights",  # a tensor
    "torchvision.models.feature_extraction.DualGraphModule.root",
}
SUGGESTIVE = re.compile(
    r"^(.*_)?(path|file|filename|root|folder|dir|directory|url|uri|address|host|checkpoint|cache|download|journal|storage"
    r"|device|device_ids)$|^features$|^weights$"
)

# --- targets

HOSTILE = {
    "os.system": ("model.encoder", "os.system"),
    "builtins.eval": ("model.decoder", "builtins.eval"),
    "torch.hub.load": ("model.encoder", "torch.hub.load"),
    "torch.load": ("model.prior", "torch.load"),
    "a function of torch.nn": ("model.encoder", "torch.nn.init.zeros_"),
    "a class of another kind": ("model.encoder", "torch.optim.Adam"),
    "a loader of models": ("model.encoder", "torchvision.models.get_model"),
    "a way round through a module": ("model.encoder", "torch.nn.functional.torch.load"),
    "a class of ours where none belongs": ("model.encoder", "vae_exp.data.digits.DigitsSource"),
    "a command of ours": ("loss", "vae_exp.train.main"),
    "subprocess in the data": ("data.source", "subprocess.Popen"),
    "an optimiser from elsewhere": ("optimizer", "shutil.rmtree"),
    "a scheduler from elsewhere": ("scheduler", "os.remove"),
    "an evaluator from elsewhere": ("evaluator.elbo", "os.system"),
    "a relative name": ("model.encoder", "..os.system"),
    "an empty name": ("model.encoder", ""),
    "not a name": ("model.encoder", "__import__('os').system"),
    "a name that is a number": ("model.encoder", 3),
    "a target deep in a part": ("model.encoder.inner", "os.system"),
    "a target where none belongs": ("extra", "os.system"),
    "a target in a list": ("tracker.tags.0", "os.system"),
    "a target beside the source": ("data.extra", "os.system"),
}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The config of a run, with a mapping and a list more."""
    plain = resolve_to_dict(composed("train", "data=digits", "evaluator=[elbo]", "tracker.root=wandb"))
    return changed(plain | {"extra": {}}, "tracker.tags", [{}])


def changed(config: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """A copy of a config with another value at a dotted key."""
    config = copy.deepcopy(config)
    node: Any = config
    *parents, last = key.split(".")
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
    node[last] = value
    return config


def change(run: Path, key: str, value: object) -> None:
    """Change the stored config of a run at a dotted key."""
    path = run / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), key, value)))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_target_is_refused(case: str, config: dict[str, Any]):
    key, target = HOSTILE[case]
    with pytest.raises(UserError, match=rf"{key}._target_|where none belongs"):
        require_safe(changed(config, f"{key}._target_", target), Caller(Path("run")))


def test_keys_with_dots_take_no_part_of_a_check(config: dict[str, Any]):
    for hidden in ({"model.encoder": {"_target_": "os.system"}}, {"model": {"a._target_": "os.system"}}):
        with pytest.raises(UserError, match=r"os\.system"):
            require_safe(config | hidden, Caller(Path("run")))
    source = {"_target_": "vae_exp.data.npz.NPZSource", "path": "/dev/zero"}
    with pytest.raises(UserError, match="/dev/zero"):
        require_safe({"data": {"source": source}, "data.source": {}}, Caller(Path("run")))


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_convert_", "_recursive_", "()"])
def test_hydras_other_switches_are_refused(key: str, config: dict[str, Any]):
    with pytest.raises(UserError, match=re.escape(key)):
        require_safe(changed(config, f"model.encoder.{key}", True), Caller(Path("run")))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path whose import leaves a mark, with an encoder of the right kind."""
    mark = tmp_path / "imported"
    (tmp_path / "their_package.py").write_text(
        f"open({str(mark)!r}, 'a').close()\n"
        "from vae_exp.model.encoders import MLPEncoder\n"
        "class Encoder(MLPEncoder):\n    pass\n"
        "def not_a_class(**anything):\n    return MLPEncoder(**anything)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    return mark


def test_a_class_of_an_untrusted_package_is_refused_before_it_is_imported(config: dict[str, Any], package: Path):
    theirs = changed(config, "model.encoder._target_", "their_package.Encoder")
    with pytest.raises(UserError, match=r"trusted_packages=\[their_package\]"):
        require_safe(theirs, Caller(Path("run")))
    with pytest.raises(UserError, match="refused"):
        require_safe(theirs, Caller(Path("run"), ["their"]))
    with pytest.raises(UserError, match=r"os\.system"):
        require_safe(
            changed(theirs, "model.decoder._target_", "os.system"), Caller(Path("run"), ["their_package"])
        )
    assert not package.exists()
    not_a_class = changed(config, "model.encoder._target_", "their_package.not_a_class")
    with pytest.raises(UserError, match=r"not a torch\.nn\.Module"):
        require_safe(not_a_class, Caller(Path("run"), ["their_package"]))


def test_the_commands_and_the_library_ask_whose_classes_to_trust(copied_run: Path, package: Path, command):
    change(copied_run, "model.encoder._target_", "their_package.Encoder")
    for name in ("evaluate", "generate"):
        refused = command(name, f"run={copied_run}")
        assert refused.code == 1
        assert "trusted_packages=[their_package]" in refused.err
    assert not package.exists()
    assert not {"evaluation", "generated"} & {path.name for path in copied_run.iterdir()}
    for word in ("trusted_packages", "trust"):
        assert type(vae_exp.load_run(copied_run, **{word: ["their_package"]}).vae.encoder).__name__ == "Encoder"
        accepted = command("evaluate", f"run={copied_run}", f"{word}=[their_package]", "evaluator=[elbo]")
        assert accepted.code == 0, accepted.err


@pytest.mark.parametrize(
    "value",
    [
        "${now:}",
        "x${ now: }",
        "${model.${now:}}",
        "${oc.env:A,${now:}}",
        "\\${oc.create:{}}",
    ],
)
def test_a_call_of_a_resolver_is_seen(value: str):
    assert list(resolver_calls({"a": [{"b": value}]})) == [f"a.0.b={value}"]
    assert list(resolver_calls({"a": [{"b": "${oc.env:HOME,x}/${model.a}"}]})) == []
    assert list(resolver_calls({"tracker": {"notes": rf"\${{a}}{value}".replace(r"\$", "$")}}))


def test_escaped_text_is_no_call_in_the_tracker():
    texts = [r"\${now:%Y}", r"a\\\${b} \${", r"\${oc.create:{}}${seed}"]
    assert list(resolver_calls({"tracker": {"tags": texts, "notes": texts[0]}})) == []
    for text in (r"\\${now:%Y}", r"\${a}${now:}", r"${oc.env:A,\${now:}}"):
        assert list(resolver_calls({"tracker": {"notes": text}})) == [f"tracker.notes={text}"]


def test_what_an_interpolation_leaves_is_refused(config: dict[str, Any]):
    with pytest.raises(UserError, match="an interpolation in disguise"):
        require_safe(changed(config, "model.encoder.inner", "${oc.env:HOME}"), Caller(Path("run")))


# --- every admitted class

opened: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_hook)


@pytest.fixture(autouse=True)
def _watch(monkeypatch: pytest.MonkeyPatch) -> None:
    opened.clear()
    monkeypatch.setattr(sys.modules[__name__], "_watching", True)


class Mark:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


class Flatten(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def program(path: Path, mark: Path) -> None:
    """A program of `torch.export` whose sample inputs are the mark."""
    made = io.BytesIO()
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(Flatten(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=[{0: batch}]), made)
    inputs = io.BytesIO()
    torch.save((Mark(mark),), inputs)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, inputs.getvalue() if "sample_inputs" in name else source.read(name))


def pickled_arrays(path: Path, mark: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, images=np.array([Mark(mark)], dtype=object))


def inflated(path: Path, mark: Path) -> None:
    """Three gigabytes of pixels, as the directory of the archive has it."""
    with path.open("wb") as file:
        np.savez_compressed(file, images=np.zeros((2, 8, 8), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 3 * 2**30)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def classes() -> dict[type, TargetKind]:
    """Every class that a stored config may name."""
    classes: dict[type, TargetKind] = {}
    for kind in KINDS.values():
        for package in kind.packages:
            root = importlib.import_module(package)
            below = pkgutil.walk_packages(getattr(root, "__path__", []), f"{package}.", onerror=lambda _: None)
            for name in [package, *(module.name for module in below)]:
                try:
                    members = list(vars(importlib.import_module(name)).values())
                except ImportError:
                    continue
                classes |= {cls: kind for cls in members if isinstance(cls, type) and is_admitted(cls, kind)}
    return classes


def is_admitted(cls: type, kind: TargetKind) -> bool:
    return in_packages(f"{cls.__module__}.{cls.__qualname__}", kind.packages) and issubclass(cls, kind.base)


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(cls, eval_str=True).parameters)
    except (TypeError, ValueError, NameError):
        return {}


def in_the_table(cls: type, name: str) -> bool:
    return any(name in ARGUMENTS.get(f"{b.__module__}.{b.__qualname__}", {}) for b in cls.__mro__)


def test_every_argument_that_may_name_something_to_open_is_in_the_table(classes):
    assert len(classes) > 300
    loose = {
        f"{cls.__module__}.{cls.__qualname__}.{name}"
        for cls in classes
        for name in parameters(cls)
        if SUGGESTIVE.search(name) and not in_the_table(cls, name)
    }
    assert loose <= HARMLESS
    assert {name for name in HARMLESS - loose if name.startswith("vae_exp.")} == set()


@pytest.mark.slow
def test_only_classes_of_the_table_open_what_an_argument_names(classes, tmp_path: Path):
    """The marked payload goes to every argument of every admitted class in turn."""
    mark, payload = tmp_path / "mark", tmp_path / "payload.npz"
    pickled_arrays(payload, mark)
    opening = set()
    for cls in classes:
        own = parameters(cls)
        plausible = {
            name: {int: 2, float: 0.5}.get(parameter.annotation)
            for name, parameter in own.items()
            if parameter.default is parameter.empty and "VAR_" not in parameter.kind.name
        }
        for name in own:
            opened.clear()
            try:
                built = cls(**{**plausible, name: str(payload)})
                if classes[cls] is KINDS["data.source"]:
                    built.train()
            except Exception:  # most refuse a path
                pass
            if str(payload) in opened:
                opening.add((cls.__qualname__, name))
                assert in_the_table(cls, name)
    assert opening == {
        ("NPZSource", "path"),
        ("FIDEvaluator", "features"),
        ("ReconstructionEvaluator", "features"),
    }
    assert not mark.exists()


def test_security_md_lists_the_table():
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    for cls, arguments in ARGUMENTS.items():
        for name in arguments:
            assert f"`{cls.rpartition('.')[2]}.{name}`" in text
    for group, keys in KEYS.items():
        assert all(f"`{group}.{key}`".replace("`.", "`") in text for key in keys)


# --- every command


def arrays(path: object) -> dict[str, object]:
    """The group `data` of a config for an `.npz` file."""
    source = {"_target_": "vae_exp.data.npz.NPZSource", "path": str(path)}
    images = {"image_shape": [1, 8, 8], "validation_size": 0, "split_seed": 0}
    return {"path": str(path), "source": source, "binarization": "none", "binarization_seed": 0, **images}


def fid(features: object) -> dict[str, object]:
    """An evaluator that reads a file of features."""
    target = "vae_exp.evaluation.fid.FIDEvaluator"
    return {"_target_": target, "features": str(features), "num_images": 2, "epochs": 1, "every_n_epochs": None}


@pytest.fixture
def retry(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Retry a stranger's sweep of one command inside this process: what it said."""

    def run(words: list[str], *trusted: str) -> str:
        messages: list[str] = []

        def train(argv: list[str], folder: Path) -> int:
            finished = command("train", *argv[3:])
            messages.append(finished.err)
            return finished.code

        sweep = tmp_path / "multirun" / "theirs"
        words = ["--multirun", "data=digits", "trainer.epochs=1", "tracker=none", "evaluator=[]", *words]
        add_command(sweep, words, tmp_path, [])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sweep_command, "_run", train)
        monkeypatch.setattr(sys, "argv", ["vae_exp.sweep", "retry", str(sweep), *trusted])
        with pytest.raises(SystemExit) as end:
            sweep_command.main()
        return str(end.value.code) + "".join(messages)

    return run


@pytest.mark.slow
def test_resume_runs_no_code_of_a_features_file(copied_run: Path, command, tmp_path: Path):
    mark, payload = tmp_path / "mark", copied_run / "features.pt2"
    program(payload, mark)
    change(copied_run, "evaluator", {"fid": fid(payload)})
    opened.clear()
    finished = command("train", f"resume={copied_run}", "trainer.epochs=4")
    assert finished.code == 1
    assert f"evaluator.fid.features={payload}" in finished.err
    assert "trusted_packages=[features]" in finished.err
    evaluated = command("evaluate", f"run={copied_run}", "evaluator=[elbo]")
    assert evaluated.code == 0, evaluated.err
    assert not mark.exists()
    assert str(payload) not in opened


@pytest.mark.slow
def test_resume_reads_a_features_file_that_the_caller_trusts(copied_run: Path, command):
    torch.export.save(
        torch.export.export(Flatten(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=[{0: torch.export.Dim("batch")}]),
        copied_run / "features.pt2",
    )
    change(copied_run, "evaluator", {"fid": fid(copied_run / "features.pt2")})
    finished = command("train", f"resume={copied_run}", "trainer.epochs=4", "trusted_packages=[features]")
    assert finished.code == 0, finished.err
    assert "best/val/fid" in read_result(copied_run)["metrics"]


FILES = {
    "standard input": "/dev/stdin",
    "memory": "/proc/self/mem",
    "a device": "/dev/zero",
    "outside": "{outside}/theirs.npz",
    "a link to a device": "{run}/link",
    "a pipe": "{run}/pipe",
    "three gigabytes": "{run}/inflated.npz",
}


@pytest.mark.slow
def test_data_of_a_stored_config_is_a_bounded_file_of_the_caller_or_the_run(
    copied_run: Path, command, tmp_path_factory: pytest.TempPathFactory
):
    outside = tmp_path_factory.mktemp("outside")
    for folder in (copied_run, outside):
        np.savez(folder / "theirs.npz", images=np.zeros((50, 8, 8), dtype=np.uint8))
    (copied_run / "link").symlink_to("/dev/zero")
    os.mkfifo(copied_run / "pipe")
    inflated(copied_run / "inflated.npz", copied_run / "mark")
    for kind, pattern in FILES.items():
        path = pattern.format(run=copied_run, outside=outside)
        change(copied_run, "data", arrays(path))
        run = vae_exp.load_run(copied_run)
        opened.clear()
        with pytest.raises(UserError, match=rf"data\.path={path}.*refused: if the file is yours, say data\.path="):
            run.data  # noqa: B018
        assert path not in opened or kind == "three gigabytes"  # whose directory alone is read
    for name, word in (("evaluate", "run"), ("generate", "run"), ("train", "resume")):
        finished = command(name, f"{word}={copied_run}")
        assert finished.code == 1
        assert f"data.path={path}" in finished.err
    for folder, given in ((copied_run, None), (outside, {"path": str(outside / "theirs.npz")})):
        change(copied_run, "data", arrays(folder / "theirs.npz"))
        assert len(vae_exp.load_run(copied_run, data=given).data.train) == 50


def test_pickled_arrays_are_never_loaded(copied_run: Path, tmp_path: Path):
    pickled_arrays(copied_run / "theirs.npz", tmp_path / "mark")
    change(copied_run, "data", arrays(copied_run / "theirs.npz"))
    with pytest.raises(UserError, match="pickled objects, which are never loaded"):
        vae_exp.load_run(copied_run).data.train  # noqa: B018
    assert not (tmp_path / "mark").exists()


SOURCES = {
    "MNIST": {"_target_": "vae_exp.data.torchvision_datasets.MNISTSource", "dataset": "MNIST"},
    "CIFAR10": {"_target_": "vae_exp.data.torchvision_datasets.ColourSource", "dataset": "CIFAR10"},
    "CelebA": {"_target_": "vae_exp.data.celeba.CelebASource", "size": 8},
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", SOURCES)
def test_a_data_root_is_the_callers_and_nothing_is_downloaded_into_it(
    name: str, copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    root = str(tmp_path / "data")
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("VAE_EXP_DATA", root)
    change(copied_run, "data.source", {**SOURCES[name], "root": str(copied_run)})
    change(copied_run, "data.image_shape", None)
    with pytest.raises(UserError, match=r"data\.source\.root=.*outside the data root.*say data\.root="):
        vae_exp.load_run(copied_run).data  # noqa: B018
    change(copied_run, "data.source.root", root)
    message = "put img_align" if name == "CelebA" else "a stored config downloads nothing unless you set data.root"
    with pytest.raises(UserError, match=message):
        vae_exp.load_run(copied_run).data.train  # noqa: B018
    if name != "CelebA":
        with pytest.raises(UserError, match="AssertionError: the network was asked"):
            vae_exp.load_run(copied_run, data={"root": root}).data.train  # noqa: B018


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("initialize_from", "/nowhere"),
        ("tracker.mode", "online"),
        ("tracker.root", "/nowhere"),
        ("sweep.trial.storage", "/nowhere"),
        ("model.encoder", {"_target_": "torch.nn.Linear", "device": "cuda"}),
    ],
)
def test_nothing_else_that_a_stored_config_names_is_opened(
    key: str, value: object, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    refusal = rf"the stored config has {key}.*(online|nowhere|cuda), which .*; refused: "
    with pytest.raises(UserError, match=refusal):
        require_safe(changed(config, key, value), Caller(Path("run")))


def test_the_callers_environment_allows_an_online_run(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    require_safe(changed(config, "tracker.mode", "online"), Caller(Path("run")))


def test_the_weights_that_a_stored_run_starts_from_lie_within_reach(copied_run: Path, tmp_path: Path):
    change(copied_run, "initialize_from", "/nowhere/best.pt")
    requested = composed("train", f"resume={copied_run}")
    assert load_resume_state(RunDirectory(copied_run), requested, []).state is not None
    for name in ("last", "best"):
        (copied_run / "checkpoints" / f"{name}.pt").unlink()
    with pytest.raises(
        UserError, match=r"initialize_from=/nowhere.*outside.*start a new run with initialize_from=/"
    ):
        load_resume_state(RunDirectory(copied_run), requested, [])
    change(copied_run, "initialize_from", str(copied_run / "first.pt"))
    assert load_resume_state(RunDirectory(copied_run), requested, []).state is None


# --- sweep retry


@pytest.mark.slow
def test_retry_runs_no_code_of_a_features_file(retry, tmp_path: Path):
    program(tmp_path / "features.pt2", tmp_path / "mark")
    message = retry(["evaluator=[fid]", f"evaluator.fid.features={tmp_path}/features.pt2"])
    assert "evaluator.fid.features=" in message
    assert "trusted_packages=[features]" in message
    message = retry(["data=arrays", "data.path=/dev/zero"])
    assert "data.path=/dev/zero" in message
    assert "say trusted_packages=[command]" in message
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_retry_imports_no_class_that_is_not_trusted(retry, package: Path):
    words = ["model.encoder._target_=their_package.Encoder"]
    assert "trusted_packages=[their_package]" in retry(words)
    assert not package.exists()
    assert retry(words, "trust=[their_package]").startswith("0")
    assert package.exists()


@pytest.mark.parametrize("name", ["job/train.log", "job", "summary.csv"])
def test_retry_writes_through_no_link_that_leads_out_of_the_sweep_and_waits_for_no_pipe(
    name: str, retry, tmp_path: Path
):
    outside = tmp_path / "outside"
    path = tmp_path / "multirun" / "theirs" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    assert f"{path} leads out of" in retry(["seed=0"])
    assert not outside.exists()
    path.unlink()
    os.mkfifo(path)
    assert f"{path.name} is neither a file nor a folder" in retry(["seed=0"])


OTHER_CODE = [
    "--config-dir=theirs",
    "--config-path=/theirs",
    "--config-dir /theirs",
    "-cn=theirs",
    "--experimental-rerun=theirs.pickle",
    "hydra.searchpath=[/theirs]",
    "hydra.launcher._target_=theirs.Launcher",
    "hydra.launcher.setup=[touch mark]",
    "hydra.launcher.ray.init.address=theirs:6379",
    "hydra.launcher.ray.init.address=theirs",
    "hydra.launcher.partition=${theirs:}",
    "hydra.launcher.gpus=[GPU-1,{_target_:theirs}]",
    "+hydra.launcher.python=theirs",
    "+initialize_from@model=../../theirs",
    "hydra.callbacks.mine._target_=theirs.Callback",
    "+hydra.callbacks={mine:{_target_:theirs.Callback}}",
    "hydra.job_logging.handlers.file.class=theirs.Handler",
    "hydra.job.env_set.LD_PRELOAD=theirs.so",
    "hydra.sweeper._target_=theirs.Sweeper",
    "+hydra.sweeper.sampler._target_=theirs.load",
    "+hydra.sweeper.conditions.x._args_=[theirs.bin]",
    "hydra.sweeper.params={hydra.callbacks:1}",
    "+hydra.sweeper.params.sweep.checked=false",
    "hydra.sweep.subdir=../../theirs",
    "hydra/launcher=../../theirs",
    "experiment=../../theirs",
    "evaluator=[../../theirs]",
    "+model/encoder@hydra.launcher=conv",
    "+model/encoder@_global_=conv",
    "++sweep.checked=false",
    "~sweep.checked",
    "+sweep={checked:false}",
    "++trusted_packages=[theirs]",
]


@pytest.mark.parametrize("word", OTHER_CODE)
def test_retry_gives_no_word_that_leads_to_other_code(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = portable_args(["--multirun", *word.split(" /", 1)])
    if re.match(r"\+*(sweep\.checked|trusted_packages)=", word):
        assert words == ["--multirun"]
        return
    refusal = r"refused: if you trust what .*sweep\.json says, say trusted_packages=\[command\]"
    with pytest.raises(UserError, match=refusal):
        check_command(words, tmp_path, tmp_path / "s")


def test_retry_starts_in_no_folder_of_a_strangers_choice(tmp_path: Path):
    refusal = r"was started in .*retry it there, or, .* say trusted_packages=\[command\]"
    with pytest.raises(UserError, match=refusal):
        check_command(["--multirun", "seed=0,1"], tmp_path, tmp_path / "s")


def test_the_usual_words_of_a_sweep_are_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = """-m experiment=search model.hidden_dims=[500],[400,200] loss/schedule@loss.beta=linear
        hydra/launcher=pool hydra.launcher.gpus=[0,1] hydra.launcher.slots=2 data.path=a/b.npz hydra/sweeper=optuna
        hydra.sweeper.n_trials=5 hydra.sweeper.sampler.name=random seed=range(3)
        hydra.sweeper.objectives=[val/elbo] evaluator=[elbo,figures] ~scheduler.gamma hydra.mode=MULTIRUN
        hydra/launcher=slurm_gpu hydra.launcher.partition=gpu-long hydra.launcher.account=lab_1
        hydra.launcher.qos='high' hydra.launcher.constraint=a100 hydra.launcher.mps=auto
        hydra.launcher.members=auto hydra.launcher.gpus=[GPU-0c3a-11,'MIG-7']
        hydra.launcher.ray.init.address=auto initialize_from=outputs/x"""
    check_command(words.split(), tmp_path, tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "is_allowed"),
    [("here.npy", True), ("photos", True), ("here.h5", False), ("here.parquet", False), ("../outside.npy", False)],
)
def test_a_file_of_arrays_is_opened_only_where_that_is_harmless(name: str, is_allowed: bool, tmp_path: Path):
    run = tmp_path / "run"
    (run / "photos").mkdir(parents=True)
    path = (run / name).resolve()
    if path.suffix:
        path.touch()
    config = {"data": arrays(path)}
    for given, passes in (({}, is_allowed), ({"data.path": str(path)}, True)):
        if passes:
            require_safe(config, Caller(run, given=given), ["data"])
        else:
            with pytest.raises(UserError, match=r"refused: if the file is yours, say data\.path="):
                require_safe(config, Caller(run, given=given), ["data"])


def test_a_file_of_labels_lies_beside_the_images_or_within_reach(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    for name, given, is_allowed in (
        ("auto", {}, True),
        ("none", {}, True),
        (str(tmp_path / "run" / "labels.csv"), {}, True),
        (str(tmp_path / "photos" / "labels.csv"), {}, False),
        (str(tmp_path / "photos" / "labels.csv"), {"data.path": str(tmp_path / "photos")}, True),
        ("/dev/zero", {}, False),
    ):
        source = {"_target_": "vae_exp.data.folder.FolderSource", "labels": name}
        caller = Caller(tmp_path / "run", given=given)
        if is_allowed:
            require_safe({"data": {"source": source}}, caller, ["data"])
        else:
            with pytest.raises(
                UserError, match=r"data\.source\.labels=.* is no regular file in the run directory"
            ):
                require_safe({"data": {"source": source}}, caller, ["data"])
