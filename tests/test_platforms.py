"""What Windows lacks is imported and called only where a message refuses it or something stands in for it."""

import ast
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import CHECKOUT
from vae_exp.data.pixel_file import open_pixels
from vae_exp.errors import UserError

SOURCES = CHECKOUT / "src"
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")  # of the standard library, not on Windows
CALLED = {
    "vae_exp/benchmark/hardware.py": {"os.getloadavg"},  # behind hasattr
    "vae_exp/benchmark/peak_memory.py": {"resource"},  # psutil stands in
    "vae_exp/data/image_cache.py": {"os.posix_fallocate"},  # behind hasattr
    "vae_exp/data/pixel_file.py": {"os.preadv"},  # a lock and seek stand in
    "vae_exp/sync.py": {"fcntl", "os.killpg", "signal.SIGKILL"},  # refused where folders are locked
    # Refused where the launcher is built:
    "vae_exp/sweep/pool/mps.py": {"os.getuid"},
    "vae_exp/sweep/pool/pool.py": {
        "os.killpg", "signal.SIGKILL", "signal.SIG_BLOCK", "signal.SIG_SETMASK", "signal.pthread_sigmask",
    },
    "vae_exp/sweep/pool/worker.py": {
        "os.killpg", "os.setsid", "signal.SIGKILL", "signal.SIG_UNBLOCK", "signal.pthread_sigmask",
    },
}  # fmt: skip
IMPORT_ALL = """
import importlib, multiprocessing.context, pkgutil, sys
import hydra_plugins, vae_exp

ours = [module.name for module in pkgutil.walk_packages(vae_exp.__path__, "vae_exp.")]
plugins = pkgutil.iter_modules(hydra_plugins.__path__, "hydra_plugins.")
ours += [module.name for module in plugins if module.name.startswith("hydra_plugins.vae_exp")]
for name in ours:  # and with them the other packages, as they are here
    importlib.import_module(name)
for name in [name for name in sys.modules if name.startswith(("vae_exp", "hydra_plugins.vae_exp"))]:
    del sys.modules[name]
for name in sys.argv[1].split():
    module, _, attribute = name.partition(".")
    if attribute:
        vars(sys.modules[module]).pop(attribute, None)
    else:
        sys.modules[module] = None
for name in [name for name in vars(multiprocessing.context) if name.startswith("Fork")]:
    delattr(multiprocessing.context, name)
sys.platform = "win32"
for name in ours:
    importlib.import_module(name)
print(len(ours))
"""


def lacking(module: str) -> set[str]:
    """The names of a module that typeshed has for other systems alone."""
    mypy = importlib.util.find_spec("mypy")
    assert mypy is not None
    assert mypy.origin is not None
    stubs = Path(mypy.origin).parent / "typeshed" / "stdlib"
    stub = next(path for path in (stubs / f"{module}.pyi", stubs / module / "__init__.pyi") if path.exists())
    defined = list(_definitions(ast.parse(stub.read_text(encoding="utf-8")).body, on_windows=True))
    everywhere = {name for name, on_windows in defined if on_windows}
    return {f"{module}.{name}" for name, _ in defined if name not in everywhere}


def _definitions(body: list[ast.stmt], *, on_windows: bool) -> Iterator[tuple[str, bool]]:
    """The names that a stub defines, each with whether it does so on Windows."""
    for statement in body:
        if isinstance(statement, ast.If):
            test = ast.unparse(statement.test)
            is_posix = any(x in test for x in ("platform != 'win32'", "platform == 'linux'", "== 'darwin'"))
            yield from _definitions(statement.body, on_windows=on_windows and not is_posix)
            is_windows = test == "sys.platform == 'win32'"
            yield from _definitions(statement.orelse, on_windows=on_windows and not is_windows)
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name, on_windows
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from ((target.id, on_windows) for target in targets if isinstance(target, ast.Name))


LACKING = {*MODULES, *lacking("os"), *lacking("signal"), *lacking("socket")}


def uses(path: Path) -> set[str]:
    """The names of `LACKING` that a module says."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update({node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names & LACKING


def test_the_names_that_windows_lacks_are_known():
    assert {"os.fork", "os.killpg", "os.O_NONBLOCK", "os.preadv", "signal.SIGKILL", "socket.AF_UNIX"} < LACKING
    assert not {"os.replace", "os.kill", "os.link", "os.O_RDONLY", "signal.SIGTERM", "signal.SIGINT"} & LACKING


def test_what_windows_lacks_is_called_in_these_modules_alone():
    files = sorted(SOURCES.rglob("*.py"))
    assert len(files) > 200
    used = {path.relative_to(SOURCES).as_posix(): uses(path) for path in files}
    assert {path: names for path, names in used.items() if names} == CALLED


@pytest.mark.slow
def test_every_module_is_imported_where_all_that_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, " ".join(LACKING)],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


def test_a_pool_is_refused_on_windows(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("vae_exp.sweep.pool.launcher.sys", SimpleNamespace(platform="win32"))
    arguments = ("data=digits", "seed=0,1", "trainer.epochs=1", "hydra.sweep.dir=sweep")
    ended = command("train", "--multirun", "hydra/launcher=stacked", *arguments)
    assert ended.code == 1
    assert ended.err.count("Error") == 1
    assert "hydra/launcher=basic, which runs one job after the other" in ended.err
    assert not list(tmp_path.glob("sweep/*/metrics.jsonl"))


def test_an_upload_is_refused_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from vae_exp.sync import _locked

    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="`wandb sync FOLDER`"), _locked([tmp_path]):
        pass


def test_rows_of_a_file_are_read_without_preadv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    images = np.random.default_rng(0).integers(256, size=(9, 2, 3, 4), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "preadv", raising=False)
    order = torch.tensor([8, 0, 3, 3])
    stored = open_pixels(tmp_path / "images.npy")
    assert torch.equal(stored.index_select(0, order), torch.from_numpy(images)[order])
    assert torch.equal(stored[2:6], torch.from_numpy(images[2:6]))
