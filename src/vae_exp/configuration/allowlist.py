"""What a stored config may instantiate and open: a run directory of another person is data.

A `_target_` is checked by name before anything is imported: it must lie in the packages that hold classes of its
slot's kind, or in a package that the caller trusts. Then by type: the name must lead to a class of that kind.
Anything else that could name code is refused. Files, folders, devices and network access are in the tables at the
end; what the caller names on the command line is the caller's own and passes.
"""

import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from hydra.utils import get_object
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from vae_exp.configuration.resolvers import environment_mode
from vae_exp.data.array_files import READERS
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path, read_yaml

MAX_ARRAY_BYTES = 2**30  # of the arrays in an .npz file that a stored config names, compressed and unpacked
GROUPS = ("", "model", "data", "loss", "optimizer", "scheduler", "evaluator", "tracker", "sweep")
_TEXT = r"(?<!\\)(?:\\\\)*\\\$\{"  # an escaped `${`
# A reference to another node of the config, or to an environment variable with a plain default.
_HARMLESS = re.compile(r"\$\{(?:\.*\w[\w.\[\]]*|oc\.env:\w+(?:,[^${}]*)?)\}")
_HARMLESS_TEXT = re.compile(f"{_TEXT}|{_HARMLESS.pattern}")
_TRACKER = "tracker."
_SPECIAL_KEYS = {"_partial_", "_args_", "_convert_", "_recursive_", "()"}


class TargetKind(NamedTuple):
    """What belongs into a slot: how messages call it, where its classes lie, and the class that they extend."""

    name: str
    packages: tuple[str, ...]
    base: type = object


MODULE_PACKAGES = ("vae_exp.model", "torch.nn", "torchvision.models", "torchvision.ops")
KINDS = {
    "model.**": TargetKind("a torch.nn.Module", MODULE_PACKAGES, nn.Module),
    "loss": TargetKind("a loss", ("vae_exp.objective",)),
    "loss.*": TargetKind("a schedule", ("vae_exp.objective.schedules",)),
    "data.source": TargetKind("a data source", ("vae_exp.data",)),
    "data.source.*": TargetKind("a torch.utils.data.Dataset", (), Dataset),  # of any package: each must be trusted
    "optimizer": TargetKind("a torch.optim.Optimizer", ("torch.optim",), Optimizer),
    "scheduler": TargetKind("a learning rate scheduler", ("torch.optim.lr_scheduler",), LRScheduler),
    "evaluator.*": TargetKind("an evaluator", ("vae_exp.evaluation",)),
}


@dataclass(frozen=True)
class Caller:
    """Who asks for a stored config, and what they allow it to open.

    Args:
        run: The run directory.
        trusted_packages: Whose classes may be instantiated; `features` allows a program of `torch.export`.
        given: The values that the caller gives to keys of the config, such as `{"data.root": "/data"}`.
        remedy: What to say instead of giving the key; None names the key.
    """

    run: Path
    trusted_packages: Sequence[str] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    remedy: str | None = None

    @property
    def may_download(self) -> bool:
        """Whether missing data may be downloaded: only into a folder that the caller names."""
        return "data.root" in self.given

    def gives(self, key: str, value: object) -> bool:
        """Whether the value is the caller's own, at the key itself or within a group that the caller chooses."""
        if key in self.given:
            return bool(self.given[key] == value)
        return key.partition(".")[0] in self.given


def require_safe(config: Mapping[str, Any], caller: Caller, groups: Sequence[str] = GROUPS) -> None:
    """Refuse a stored config that names code, files, devices or network access beyond what the caller allows.

    Args:
        config: The stored config as plain containers, all interpolations resolved.
        caller: What is allowed.
        groups: The groups of the config that something will be built from, "" for keys outside of groups; targets
            are checked in all of them.

    Raises:
        UserError: names the key, its value and how to allow it. Until then nothing is opened, and nothing imported
            that is not trusted.
    """
    targets = list(_targets(config))
    for key, target in targets:
        _check_target_name(key, target, caller.trusted_packages)
    for key, target in targets:
        _check_target_class(key, target, caller.trusted_packages)
    for parent, node in [("", config), *_entries(config)]:
        if isinstance(node, Mapping) and parent.partition(".")[0] in groups:
            for name, check in _checks(parent, node).items():
                if node.get(name) is not None:
                    check.require(f"{parent}.{name}".removeprefix("."), node[name], caller)


def untrusted_packages(config: Mapping[str, Any]) -> list[str]:
    """The packages of the user's own classes in a config, which opening the run later will ask about."""
    packages: dict[str, None] = {}
    for key, value in _entries(config):
        if _last(key) == "_target_" and isinstance(value, str):
            package, slot = value.split(".")[0], key.rpartition(".")[0]
            is_dataset = slot.startswith("data.source.")
            if package != "vae_exp" and (is_dataset or package not in ("torch", "torchvision")):
                packages[package] = None
    return list(packages)


def check_plain_yaml(path: Path) -> None:
    """Refuse a stored YAML file that is more than a tree of plain values, before anything of it is resolved.

    Refused are aliases (a few lines of them unfold without bound) and callables of a logging configuration.

    Raises:
        UserError: names the file and the place.
    """
    if not path.exists():
        return
    for key, _ in _entries(read_yaml(path)):
        if _last(key) == "()":
            raise UserError(f"{path} names a callable at {key}; refused.")


def check_no_resolvers(path: Path) -> None:
    """Refuse a stored config whose interpolations call a resolver: any that the process has registered would run.

    `${oc.env:NAME}` alone is allowed, it reads an environment variable.

    Raises:
        UserError: names the key and its value.
    """
    for call in resolver_calls(read_yaml(path)):
        raise UserError(f"{path} has {call}, which calls a resolver; refused.")


def resolver_calls(config: Any) -> Iterator[str]:
    """`key=value` of every interpolation in a tree of plain containers that calls a resolver but `oc.env`.

    An escaped `${` is text in `tracker`, of which nothing is built; elsewhere it could be resolved later.
    """
    for key, value in _entries(config):
        pattern = _HARMLESS_TEXT if key.startswith(_TRACKER) else _HARMLESS
        if any(isinstance(text, str) and "${" in pattern.sub("", text) for text in (key, value)):
            yield f"{key}={value}"


def is_literal(value: Any) -> bool:
    """Whether no text of a stored value, unresolved, is an interpolation."""
    return not any(isinstance(text, str) and "${" in re.sub(_TEXT, "", text) for _, text in _entries([value]))


def _entries(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a tree of mappings and lists with dots, and its value."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield f"{prefix}{name}", value
        yield from _entries(value, f"{prefix}{name}.")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _targets(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in _entries(config):
        if _last(key) == "_target_":
            yield key, value
        elif _last(key) in _SPECIAL_KEYS:
            raise UserError(f"the stored config has {key}={value}; refused: only _target_ is used.")
        elif isinstance(value, str) and "${" in value and not key.startswith(_TRACKER):
            raise UserError(f"the stored config has {key}={value}, an interpolation in disguise; refused.")


def _kind(key: str) -> TargetKind:
    slot = key.rpartition(".")[0]
    for pattern, kind in KINDS.items():
        expression = re.escape(pattern).replace(r"\.\*\*", r"(\..*)?").replace(r"\*", "[^.]+")
        if re.fullmatch(expression, slot, re.DOTALL):
            return kind
    raise UserError(f"the stored config has a _target_ at {slot or 'its root'}, where none belongs; refused.")


def _check_target_name(key: str, target: Any, trusted_packages: Sequence[str]) -> None:
    kind = _kind(key)
    if target is None:
        return
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"the stored config has {key}={target}, which is not a dotted name; refused.")
    if in_packages(target, (*kind.packages, *trusted_packages)):
        return
    package = target.split(".")[0]
    scanned = {"torch", "torchvision"} if kind.packages else set()
    remedy = (
        "no such name belongs there"
        if package in {"vae_exp", *scanned, *sys.stdlib_module_names}
        else f"if you trust the package, say trusted_packages=[{package}]"
    )
    raise UserError(
        f"the stored config has {key}={target}, which is not {kind.name} "
        f"from {' or '.join(kind.packages) or 'a trusted package'}; refused: {remedy}."
    )


def _check_target_class(key: str, target: Any, trusted_packages: Sequence[str]) -> None:
    if target is None:
        return
    kind, cls = _kind(key), _target_class(target)
    is_allowed = isinstance(cls, type) and in_packages(_full_name(cls), (*kind.packages, *trusted_packages))
    if not is_allowed or not issubclass(cls, kind.base):
        raise UserError(f"the stored config has {key}={target}, which is not {kind.name}; refused.")


def _target_class(target: str) -> Any:
    """The object of a dotted name that has been checked, located as it will be instantiated."""
    try:
        return get_object(target)
    except Exception as error:  # importing a module may raise anything
        raise UserError(f"{target} cannot be imported: {error}") from error


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def in_packages(name: str, packages: Sequence[str]) -> bool:
    """Whether a dotted name lies in one of the packages."""
    return any(name.startswith(f"{package}.") for package in packages)


# What is opened


class Check(NamedTuple):
    """The check of a value that names something to open.

    Args:
        reason: What is wrong with a value, given its key and the caller; empty where nothing is.
        given: The key by which the caller may give the value; empty where none does.
        remedy: How to allow it.
        is_replaceable: Whether the caller's remedy stands in its place.
    """

    reason: Callable[[str, Any, Caller], str]
    given: str
    remedy: str
    is_replaceable: bool = True

    def require(self, key: str, value: Any, caller: Caller) -> None:
        """Refuse the value, unless the caller gives it or nothing is wrong with it."""
        if self.given and caller.gives(self.given, value):
            return
        reason = self.reason(key, value, caller)
        if reason:
            remedy = (self.is_replaceable and caller.remedy) or self.remedy.format(value=value)
            raise UserError(f"the stored config has {key}={value}, which {reason}; refused: {remedy}.")


def _images_fault(key: str, value: Any, caller: Caller) -> str:
    """A folder, or a file of bounded size, in the run directory, the data root or the working directory."""
    path = _resolve(key, value)
    if not _is_within(path, caller.run, data_root(), Path.cwd()):
        return "is outside the run directory, the data root and this folder"
    if not path.exists() or path.is_dir():
        return ""  # the source says so
    if not S_ISREG(path.stat().st_mode):
        return "is not a regular file"
    if path.suffix == ".npy":
        return ""  # not read into memory
    if path.suffix in READERS:
        return "is read by a library that may unpack it without bound"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        size = 0  # the source says what is wrong with it
    size = max(size, path.stat().st_size)
    return f"holds {size:,} bytes, more than {MAX_ARRAY_BYTES:,}" if size > MAX_ARRAY_BYTES else ""


def _labels_fault(key: str, value: Any, caller: Caller) -> str:
    """`auto`, `none`, or a regular file in a folder that images may be in, or among the images of the caller."""
    if value in ("auto", "none"):
        return ""
    path, images = _resolve(key, value), caller.given.get("data.path")
    folders = [caller.run, data_root(), Path.cwd(), *([] if images is None else [Path(str(images))])]
    is_allowed = _is_within(path, *folders) and (not path.exists() or S_ISREG(path.stat().st_mode))
    return "" if is_allowed else "is no regular file in the run directory, the data root, this folder or data.path"


def _data_root_fault(key: str, value: Any, caller: Caller) -> str:
    root = data_root()
    return "" if _is_within(_resolve(key, value), root) else f"is outside the data root {root} (VAE_EXP_DATA)"


def _program_fault(key: str, value: Any, caller: Caller) -> str:
    is_trusted = "features" in caller.trusted_packages
    return "" if is_trusted else "names a program of torch.export, which can run code when it is read"


def _device_fault(key: str, value: Any, caller: Caller) -> str:
    return "" if value == "cpu" else "places a part of the model on a device"


def _tracker_mode_fault(key: str, value: Any, caller: Caller) -> str:
    is_allowed = value != "online" or environment_mode() == "online"
    return "" if is_allowed else "sends the run to Weights & Biases over the network"


def _tracker_root_fault(key: str, value: Any, caller: Caller) -> str:
    folders = [absolute_path("WANDB_DIR", folder) for folder in [os.environ.get("WANDB_DIR")] if folder]
    return "" if _is_within(_resolve(key, value), *folders) else _outside_fault(key, value, caller)


def _outside_fault(key: str, value: Any, caller: Caller) -> str:
    is_within = _is_within(_resolve(key, value), caller.run, Path.cwd())
    return "" if is_within else "is outside the run directory and this folder"


def _storage_fault(key: str, value: Any, caller: Caller) -> str:
    path = _resolve(key, value)
    is_beside = path.parent == caller.run.resolve().parent and (not path.exists() or S_ISREG(path.stat().st_mode))
    return "" if is_beside else "is not a regular file beside the run directory"


_IMAGES = Check(
    _images_fault, "data.path", "if the file is yours, say data.path={value}; in Python, data={{'path': …}}"
)
_LABELS = Check(_labels_fault, "", "copy the file there")
_DATA_ROOT = Check(
    _data_root_fault, "data.root", "if the folder is yours, say data.root={value}; in Python, data={{'root': …}}"
)
_DEVICE = Check(_device_fault, "", "leave it out")
_PROGRAM = Check(
    _program_fault, "", "if you trust the file, say trusted_packages=[features]", is_replaceable=False
)
_MODE = Check(
    _tracker_mode_fault, "tracker.mode", "say tracker.mode=online, or tracker.mode=offline to upload it later"
)
_TRACKER_ROOT = Check(_tracker_root_fault, "tracker.root", "if the folder is yours, say tracker.root={value}")
_START = Check(_outside_fault, "", "if the weights are yours, start a new run with initialize_from={value}")
_STORAGE = Check(_storage_fault, "", "run the sweep's own command again")
# Every argument of an admitted class that names something to open.
ARGUMENTS = {
    "vae_exp.data.npz.NPZSource": {"path": _IMAGES},
    "vae_exp.data.folder.FolderSource": {"path": _IMAGES, "root": _DATA_ROOT, "labels": _LABELS},
    "vae_exp.data.dataset.DatasetSource": {"root": _DATA_ROOT},
    "vae_exp.data.celeba.CelebASource": {"root": _DATA_ROOT},
    "vae_exp.data.torchvision_datasets.ColourSource": {"root": _DATA_ROOT},
    "vae_exp.data.torchvision_datasets.MNISTSource": {"root": _DATA_ROOT},
    "vae_exp.evaluation.fid.FIDEvaluator": {"features": _PROGRAM},
    "vae_exp.evaluation.reconstruction.ReconstructionEvaluator": {"features": _PROGRAM},
    "torch.nn.modules.module.Module": dict.fromkeys(("device", "device_ids", "output_device"), _DEVICE),
}
# Every other key of a config that names something to open.
KEYS = {
    "": {"initialize_from": _START},
    "data": {"path": _IMAGES},
    "tracker": {"mode": _MODE, "root": _TRACKER_ROOT},
    "sweep.trial": {"storage": _STORAGE},
}


def _checks(key: str, node: Mapping[str, Any]) -> dict[str, Check]:
    """The checks of a mapping's keys: by its place in the config, or by the class that it instantiates."""
    checks = dict(KEYS.get(key, {}))
    if isinstance(node.get("_target_"), str):
        for base in reversed(_target_class(node["_target_"]).__mro__):
            checks |= ARGUMENTS.get(_full_name(base), {})
    return checks


def data_root() -> Path:
    """The caller's data root: `VAE_EXP_DATA`, or the folder `data`."""
    return absolute_path("VAE_EXP_DATA", os.environ.get("VAE_EXP_DATA") or "data")


def _resolve(key: str, value: Any) -> Path:
    try:
        return absolute_path(key, value).resolve()
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # a loop of links, a NUL, a number
        raise UserError(f"the stored config has {key}={value!r}, which is not a path: {error}.") from error


def _is_within(path: Path, *folders: Path) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)
