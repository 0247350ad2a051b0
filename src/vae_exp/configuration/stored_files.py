"""What a stored config may open: files, folders, devices and the network, all named in one table.

A run directory or a `sweep.json` may come from a stranger. The values of the keys below are checked before
anything is built from such a config; what the caller names on the command line is the caller's own and passes.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

from vae_exp.configuration.target_allowlist import check_targets, target_class
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import absolute_path

MAX_ARRAY_BYTES = 2**30  # of the arrays in an .npz file that a stored config names, compressed and unpacked
GROUPS = ("model", "data", "loss", "optimizer", "scheduler", "evaluator", "tracker", "sweep")


@dataclass(frozen=True)
class Caller:
    """Who asks for a stored config, and what they allow it to open.

    Args:
        run: The run directory.
        trust: Packages whose classes may be instantiated; `features` allows a program of `torch.export`.
        given: The values that the caller gives to keys of the config, such as `{"data.root": "/data"}`.
        remedy: What to say instead of giving the key; None names the key.
    """

    run: Path
    trust: Sequence[str] = ()
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


Check = Callable[[str, Any, Caller], None]


def require_safe(config: Mapping[str, Any], caller: Caller, groups: Sequence[str] = GROUPS) -> None:
    """Refuse a stored config that names code, files, devices or network access beyond what the caller allows.

    Args:
        config: The stored config as plain containers, all interpolations resolved.
        caller: What is allowed.
        groups: The groups of the config that something will be built from; targets are checked in all of them.

    Raises:
        UserError: names the key, its value and how to allow it. Until then nothing is opened, and nothing imported
            that is not trusted.
    """
    check_targets(config, caller.trust)
    for group in groups:
        for key, node in _mappings(config.get(group), group):
            for name, check in _checks(key, node).items():
                if node.get(name) is not None:
                    check(f"{key}.{name}", node[name], caller)


def _mappings(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        yield key, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _mappings(value, f"{key}.{name}")


def _checks(key: str, node: Mapping[str, Any]) -> dict[str, Check]:
    """The checks of a mapping's keys: by its place in the config, or by the class that it instantiates."""
    checks = dict(KEYS.get(key, {}))
    if isinstance(node.get("_target_"), str):
        for base in reversed(target_class(node["_target_"]).__mro__):
            checks |= ARGUMENTS.get(f"{base.__module__}.{base.__qualname__}", {})
    return checks


def _check_archive(key: str, value: Any, caller: Caller) -> None:
    """A regular `.npz` file of bounded size in the run directory, the data root or the working directory."""
    if caller.gives("data.path", value):
        return
    path = _resolved(key, value)
    remedy = f"if the file is yours, say data.path={value}"
    if not _is_within(path, (caller.run, data_root(), Path.cwd())):
        raise _refusal(caller, key, value, "is outside the run directory, the data root and this folder", remedy)
    if not path.exists():
        return  # the source says so
    if not S_ISREG(path.stat().st_mode):
        raise _refusal(caller, key, value, "is not a regular file", remedy)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        size = 0  # the source says what is wrong with it
    size = max(size, path.stat().st_size)
    if size > MAX_ARRAY_BYTES:
        raise _refusal(caller, key, value, f"holds {size:,} bytes, more than {MAX_ARRAY_BYTES:,}", remedy)


def _check_data_root(key: str, value: Any, caller: Caller) -> None:
    if caller.gives("data.root", value):
        return
    if not _is_within(_resolved(key, value), (data_root(),)):
        why = f"is outside the data root {data_root()} (VAE_EXP_DATA)"
        raise _refusal(caller, key, value, why, f"if the folder is yours, say data.root={value}")


def _check_program(key: str, value: Any, caller: Caller) -> None:
    if "features" not in caller.trust:
        why = "names a program of torch.export, which can run code when it is read"
        raise _refusal(
            caller, key, value, why, "if you trust the file, say trusted_packages=[features]", replace=False
        )


def _check_compute_device(key: str, value: Any, caller: Caller) -> None:
    if value != "cpu":
        raise _refusal(caller, key, value, "places a part of the model on a device", "leave it out")


def _check_tracker_mode(key: str, value: Any, caller: Caller) -> None:
    if value == "online" and not caller.gives("tracker.mode", value):
        why = "sends the run to Weights & Biases over the network"
        raise _refusal(
            caller, key, value, why, "say tracker.mode=online, or tracker.mode=offline to upload it later"
        )


def _check_tracker_root(key: str, value: Any, caller: Caller) -> None:
    if not caller.gives(key, value) and not _is_within(_resolved(key, value), (caller.run, Path.cwd())):
        why = "is outside the run directory and this folder"
        raise _refusal(caller, key, value, why, f"if the folder is yours, say tracker.root={value}")


def _check_storage(key: str, value: Any, caller: Caller) -> None:
    path = _resolved(key, value)
    if path.parent != caller.run.resolve().parent or (path.exists() and not S_ISREG(path.stat().st_mode)):
        why = "is not a regular file beside the run directory"
        raise _refusal(caller, key, value, why, "run the sweep's own command again")


# Every argument of an admitted class that names something to open.
ARGUMENTS: dict[str, dict[str, Check]] = {
    "vae_exp.data.npz.NPZSource": {"path": _check_archive},
    "vae_exp.data.celeba.CelebASource": {"root": _check_data_root},
    "vae_exp.data.torchvision_datasets.ColourSource": {"root": _check_data_root},
    "vae_exp.data.torchvision_datasets.MNISTSource": {"root": _check_data_root},
    "vae_exp.evaluation.fid.FIDEvaluator": {"features": _check_program},
    "torch.nn.modules.module.Module": dict.fromkeys(
        ("device", "device_ids", "output_device"), _check_compute_device
    ),
}
# Every other key of a config that names something to open.
KEYS: dict[str, dict[str, Check]] = {
    "data": {"path": _check_archive},
    "tracker": {"mode": _check_tracker_mode, "root": _check_tracker_root},
    "sweep.trial": {"storage": _check_storage},
}


def data_root() -> Path:
    """The caller's data root: `VAE_EXP_DATA`, or the folder `data`."""
    return absolute_path("VAE_EXP_DATA", os.environ.get("VAE_EXP_DATA") or "data")


def _resolved(key: str, value: Any) -> Path:
    try:
        return absolute_path(key, value).resolve()
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # a loop of links, a NUL, a number
        raise UserError(f"the stored config has {key}={value!r}, which is not a path: {error}.") from error


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder.resolve()) for folder in folders)


def _refusal(caller: Caller, key: str, value: Any, why: str, remedy: str, replace: bool = True) -> UserError:
    if replace and caller.remedy is not None:
        remedy = caller.remedy
    return UserError(f"the stored config has {key}={value}, which {why}; refused: {remedy}.")
