"""What a stored config names is opened only with the caller's word: a marked payload for every class and file."""

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

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import vae_exp
from tests.readers import read_result
from vae_exp.configuration import stored_files, target_allowlist
from vae_exp.errors import UserError
from vae_exp.sweep import __main__ as sweep_command
from vae_exp.sweep.command_check import check_command
from vae_exp.sweep.manifest import add_command, portable_args

KINDS = (
    target_allowlist.MODULE,
    target_allowlist.LOSS,
    target_allowlist.SOURCE,
    target_allowlist.OPTIMIZER,
    target_allowlist.SCHEDULER,
    target_allowlist.EVALUATOR,
)
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
    "torchvision.models.feature_extraction.DualGraphModule.root",
}
SUGGESTIVE = re.compile(
    r"^(.*_)?(path|file|filename|root|folder|dir|directory|url|uri|address|host|checkpoint|cache|download|journal|storage"
    r"|device|device_ids)$|^features$|^weights$"
)

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


def pickled(path: Path, mark: Path) -> None:
    torch.save(Mark(mark), path)


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


# --- every admitted class


def admitted() -> dict[type, target_allowlist.TargetKind]:
    """Every class that a stored config may name, as `target_allowlist` itself decides."""
    found: dict[type, target_allowlist.TargetKind] = {}
    for kind in KINDS:
        for package in kind.packages:
            root = importlib.import_module(package)
            below = pkgutil.walk_packages(getattr(root, "__path__", []), f"{package}.", onerror=lambda _: None)
            for name in [package, *(each.name for each in below)]:
                try:
                    members = list(vars(importlib.import_module(name)).values())
                except ImportError:
                    continue
                for each in members:
                    if isinstance(each, type) and target_allowlist._in_packages(
                        f"{each.__module__}.{each.__qualname__}", kind.packages
                    ):
                        found |= {each: kind} if kind.base is None or issubclass(each, kind.base) else {}
    return found


@pytest.fixture(scope="module")
def classes() -> dict[type, target_allowlist.TargetKind]:
    return admitted()


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(cls, eval_str=True).parameters)
    except (TypeError, ValueError, NameError):
        return {}


def in_the_table(cls: type, name: str) -> bool:
    return any(name in stored_files.ARGUMENTS.get(f"{b.__module__}.{b.__qualname__}", {}) for b in cls.__mro__)


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


def test_only_classes_of_the_table_open_what_an_argument_names(classes, tmp_path: Path):
    """The marked payload goes to every argument of every admitted class in turn."""
    mark, payload = tmp_path / "mark", tmp_path / "payload.npz"
    pickled_arrays(payload, mark)
    opening = set()
    for cls in classes:
        own = parameters(cls)
        plausible = {
            name: {int: 2, float: 0.5}.get(each.annotation)
            for name, each in own.items()
            if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        }
        for name in own:
            opened.clear()
            try:
                built = cls(**{**plausible, name: str(payload)})
                if classes[cls] is target_allowlist.SOURCE:
                    built.train()
            except Exception:  # most refuse a path
                pass
            if str(payload) in opened:
                opening.add((cls.__qualname__, name))
                assert in_the_table(cls, name)
    assert opening == {("NPZSource", "path"), ("FIDEvaluator", "features")}
    assert not mark.exists()


def test_security_md_lists_the_table():
    text = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    for cls, arguments in stored_files.ARGUMENTS.items():
        for name in arguments:
            assert f"`{cls.rpartition('.')[2]}.{name}`" in text
    for group, keys in stored_files.KEYS.items():
        assert all(f"`{group}.{key}`" in text for key in keys)


# --- every command


def change(run: Path, **values: object) -> None:
    path = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key, value in values.items():
        config[key] = (
            {**config[key], **value} if isinstance(value, dict) and isinstance(config[key], dict) else value
        )
    path.write_text(yaml.safe_dump(config))


def arrays(path: object, **more: object) -> dict[str, object]:
    source = {"_target_": "vae_exp.data.npz.NPZSource", "path": str(path)}
    return {"data": {"path": str(path), "source": source, "image_shape": [1, 8, 8], "validation_size": 0}} | more


def fid(features: object) -> dict[str, object]:
    target = "vae_exp.evaluation.fid.FIDEvaluator"
    return {
        "evaluator": {
            "fid": {
                "_target_": target,
                "features": str(features),
                "num_images": 2,
                "epochs": 1,
                "every_n_epochs": None,
            }
        }
    }


@pytest.fixture
def retry(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Retry a stranger's sweep of one command inside this process: what it said."""

    def run(words: list[str], *trusted: str, folder: Path | None = None) -> str:
        told: list[str] = []

        def train(given: list[str], folder: Path) -> int:
            finished = command("train", *given[3:])
            told.append(finished.err)
            return finished.code

        sweep = tmp_path / "multirun" / "theirs"
        add_command(
            sweep,
            ["--multirun", "data=digits", "trainer.epochs=1", "tracker=none", *words],
            folder or tmp_path,
            [],
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sweep_command, "_run", train)
        monkeypatch.setattr(sys, "argv", ["vae_exp.sweep", "retry", str(sweep), *trusted])
        with pytest.raises(SystemExit) as end:
            sweep_command.main()
        return str(end.value.code) + "".join(told)

    return run


@pytest.mark.parametrize("write", [program, pickled], ids=["torch.export", "pickle"])
def test_resume_runs_no_code_of_a_features_file(write, copied_run: Path, command, tmp_path: Path):
    mark, payload = tmp_path / "mark", copied_run / "features.pt2"
    write(payload, mark)
    change(copied_run, **fid(payload))
    opened.clear()
    finished = command("train", f"resume={copied_run}", "trainer.epochs=4")
    assert finished.code == 1
    assert f"evaluator.fid.features={payload}" in finished.err
    assert "trusted_packages=[features]" in finished.err
    vae_exp.load_run(copied_run).data.test  # noqa: B018 - opens it
    for name in ("evaluate", "generate"):
        done = command(name, f"run={copied_run}", *(["evaluator=[elbo]"] if name == "evaluate" else []))
        assert done.code == 0, done.err
    assert not mark.exists()
    assert str(payload) not in opened


def test_resume_reads_a_features_file_that_the_caller_trusts(copied_run: Path, command):
    torch.export.save(
        torch.export.export(Flatten(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=[{0: torch.export.Dim("batch")}]),
        copied_run / "features.pt2",
    )
    change(copied_run, **fid(copied_run / "features.pt2"))
    finished = command("train", f"resume={copied_run}", "trainer.epochs=4", "trusted_packages=[features]")
    assert finished.code == 0, finished.err
    assert "val/fid" in read_result(copied_run)["metrics"]


FILES = {
    "standard input": "/dev/stdin",
    "memory": "/proc/self/mem",
    "a device": "/dev/zero",
    "outside": "{outside}",
    "a link to a device": "{run}/link",
    "a pipe": "{run}/pipe",
    "three gigabytes": "{run}/inflated.npz",
}


@pytest.mark.parametrize("kind", FILES)
def test_data_of_a_stored_config_is_a_bounded_file_of_the_caller_or_the_run(
    kind, copied_run: Path, command, tmp_path_factory
):
    outside = tmp_path_factory.mktemp("outside") / "theirs.npz"
    np.savez(
        outside, images=np.zeros((50, 8, 8), dtype=np.uint8), test_images=np.zeros((50, 8, 8), dtype=np.uint8)
    )
    (copied_run / "link").symlink_to("/dev/zero")
    os.mkfifo(copied_run / "pipe")
    inflated(copied_run / "inflated.npz", copied_run / "mark")
    path = FILES[kind].format(run=copied_run, outside=outside)
    change(copied_run, **arrays(path))
    run = vae_exp.load_run(copied_run)
    opened.clear()
    with pytest.raises(UserError, match=rf"data\.path={path}.*refused: if the file is yours, say data\.path="):
        run.data  # noqa: B018
    for name, word in (("evaluate", "run"), ("generate", "run"), ("train", "resume")):
        finished = command(name, f"{word}={copied_run}")
        assert finished.code == 1
        assert f"data.path={path}" in finished.err
    assert path not in opened or kind == "three gigabytes"  # whose directory alone is read


def test_data_inside_the_run_directory_and_data_that_the_caller_names_are_read(copied_run: Path, tmp_path_factory):
    for folder in (copied_run, tmp_path_factory.mktemp("outside")):
        path = folder / "theirs.npz"
        np.savez(path, images=np.zeros((50, 8, 8), dtype=np.uint8))
        change(copied_run, **arrays(path))
        given = None if folder == copied_run else {"path": str(path)}
        assert len(vae_exp.load_run(copied_run, data=given).data.train) == 50


def test_pickled_arrays_are_never_loaded(copied_run: Path, tmp_path: Path):
    pickled_arrays(copied_run / "theirs.npz", tmp_path / "mark")
    change(copied_run, **arrays(copied_run / "theirs.npz"))
    with pytest.raises(UserError, match="pickled objects, which are never loaded"):
        vae_exp.load_run(copied_run).data.train  # noqa: B018
    assert not (tmp_path / "mark").exists()


SOURCES = {
    "MNIST": {"_target_": "vae_exp.data.torchvision_datasets.MNISTSource", "dataset": "MNIST"},
    "CIFAR10": {"_target_": "vae_exp.data.torchvision_datasets.ColourSource", "dataset": "CIFAR10"},
    "CelebA": {"_target_": "vae_exp.data.celeba.CelebASource", "size": 8},
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_data_root_is_the_callers_and_nothing_is_downloaded_into_it(
    name, copied_run: Path, tmp_path: Path, monkeypatch
):
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setenv("VAE_EXP_DATA", str(tmp_path / "data"))
    change(copied_run, data={"source": {**SOURCES[name], "root": str(copied_run)}, "image_shape": None})
    with pytest.raises(UserError, match=r"data\.source\.root=.*outside the data root.*say data\.root="):
        vae_exp.load_run(copied_run).data  # noqa: B018
    change(copied_run, data={"source": {**SOURCES[name], "root": str(tmp_path / "data")}, "image_shape": None})
    told = "put img_align" if name == "CelebA" else "a stored config downloads nothing unless you set data.root"
    with pytest.raises(UserError, match=told):
        vae_exp.load_run(copied_run).data.train  # noqa: B018
    if name != "CelebA":
        with pytest.raises(UserError, match="AssertionError: the network was asked"):
            vae_exp.load_run(copied_run, data={"root": str(tmp_path / "data")}).data.train  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tracker": {"mode": "online"}}, "tracker.mode=online"),
        ({"tracker": {"root": "/nowhere"}}, "tracker.root=/nowhere"),
        (
            {"sweep": {"trial": {"journal": "/nowhere/j", "number": 0, "prune": True}}},
            "sweep.trial.storage=/nowhere/j",
        ),
        ({"model": {"encoder": {"_target_": "torch.nn.Linear", "device": "cuda"}}}, "model.encoder.device=cuda"),
    ],
    ids=["network", "folder", "journal", "device"],
)
def test_resume_opens_nothing_else_that_a_stored_config_names(changes, told, copied_run: Path, command):
    change(copied_run, **changes)
    finished = command("train", f"resume={copied_run}")
    assert finished.code == 1
    assert f"the stored config has {told}" in finished.err
    assert "refused" in finished.err


# --- sweep retry


def test_retry_runs_no_code_of_a_features_file(retry, tmp_path: Path):
    program(tmp_path / "features.pt2", tmp_path / "mark")
    told = retry(["evaluator=[fid]", f"evaluator.fid.features={tmp_path}/features.pt2"])
    assert "evaluator.fid.features=" in told
    assert "trusted_packages=[features]" in told
    told = retry(["data=arrays", "data.path=/dev/zero"])
    assert "data.path=/dev/zero" in told
    assert "say trusted_packages=[command]" in told
    assert not (tmp_path / "mark").exists()


def test_retry_imports_no_class_that_is_not_trusted(retry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "theirs_to_retry.py").write_text(
        f"open({str(tmp_path / 'mark')!r}, 'w').close()\n"
        "from vae_exp.model.encoders import MLPEncoder\nclass Encoder(MLPEncoder):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["model.encoder._target_=theirs_to_retry.Encoder"]
    assert "trusted_packages=[theirs_to_retry]" in retry(words)
    assert not (tmp_path / "mark").exists()
    assert retry(words, "trusted_packages=[theirs_to_retry]").startswith("0")
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["job/train.log", "job", "summary.csv"])
def test_retry_writes_through_no_link_that_leads_out_of_the_sweep(name, retry, tmp_path: Path):
    outside = tmp_path / "outside"
    link = tmp_path / "multirun" / "theirs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    assert f"{link} leads out of" in retry(["seed=0"])
    assert not outside.exists()


def test_retry_waits_for_no_pipe(retry, tmp_path: Path):
    (tmp_path / "multirun" / "theirs").mkdir(parents=True)
    os.mkfifo(tmp_path / "multirun" / "theirs" / "train.log")
    assert "train.log is neither a file nor a folder" in retry(["seed=0"])


OTHER_CODE = [
    "--config-dir=theirs",
    "--config-path=/theirs",
    "-cn=theirs",
    "--experimental-rerun=theirs.pickle",
    "hydra.searchpath=[/theirs]",
    "hydra.launcher._target_=theirs.Launcher",
    "hydra.launcher.setup=[touch mark]",
    "hydra.launcher.ray.init.address=theirs:6379",
    "hydra.callbacks.mine._target_=theirs.Callback",
    "+hydra.callbacks={mine:{_target_:theirs.Callback}}",
    "hydra.job_logging.handlers.file.class=theirs.Handler",
    "hydra.job.env_set.LD_PRELOAD=theirs.so",
    "hydra.sweeper._target_=theirs.Sweeper",
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
def test_retry_gives_no_word_that_leads_to_other_code(word, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = portable_args(["--multirun", word])
    if re.match(r"\+*(sweep\.checked|trusted_packages)=", word):
        assert words == ["--multirun"]
        return
    with pytest.raises(
        UserError, match=r"refused: if you trust what .*sweep\.json says, say trusted_packages=\[command\]"
    ):
        check_command(words, tmp_path, tmp_path / "s")


def test_retry_starts_in_no_folder_of_a_strangers_choice(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"was started in .*retry it there, or, .* say trusted_packages=\[command\]"
    ):
        check_command(["--multirun", "seed=0,1"], tmp_path, tmp_path / "s")


def test_the_usual_words_of_a_sweep_are_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "experiment=search", "model.hidden_dims=[500],[400,200]", "loss/schedule@loss.beta=linear"]
    words += ["hydra/launcher=pool", "hydra.launcher.gpus=[0,1]", "hydra.launcher.slots=2", "data.path=a/b.npz"]
    words += [
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.sampler.name=random",
        "seed=range(3)",
    ]
    words += [
        "hydra.sweeper.objectives=[val/elbo]",
        "evaluator=[elbo,figures]",
        "~scheduler.gamma",
        "hydra.mode=MULTIRUN",
    ]
    check_command(words, tmp_path, tmp_path / "s")
