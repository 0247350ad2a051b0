"""What many tests share: real data where there are some, the commands, a trained run."""

import os

# Before torch: each core runs a test process, and threads that spin would take its time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.dashboard.browsers import NAMES, SILENT, Watched, watch

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_MNIST = CHECKOUT.parent / "shared" / "data" / "MNIST"
# A busy machine draws slowly; fixtures of these tests do not change between examples.
slow_or_shared = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=slow_or_shared)
settings.load_profile("tests")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cases of a test after those that it marks as quick: `make test` leaves them out."""
    cases: Counter[str] = Counter()
    for item in items:
        quick = item.get_closest_marker("quick")
        if quick and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > quick.args[0]:
                item.add_marker(pytest.mark.slow)


VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
HAS_CUDA, COUNT_DEVICES = torch.cuda.is_available, torch.cuda.device_count


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hide the CUDA devices from everything but tests marked `cuda`: fixtures, subprocesses, other tests."""
    if any(item.get_closest_marker("cuda") for item in session.items):
        HAS_CUDA()  # CUDA reads the variable once per process, and these tests need the devices in this one
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.cuda.is_available, torch.cuda.device_count = (lambda: False), (lambda: 0)


@pytest.fixture(autouse=True)
def _devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test marked `cuda` sees the devices, and leaves no cached memory of theirs; without one it is skipped."""
    if not request.node.get_closest_marker("cuda"):
        yield
        return
    if not HAS_CUDA():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", HAS_CUDA)
    monkeypatch.setattr(torch.cuda, "device_count", COUNT_DEVICES)
    if VISIBLE is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
    yield
    torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the credentials, data or threads of the developer, or the denormals of another test."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "HYDRA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("VAE_EXP_DATA", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archives of MNIST, writable."""
    users = Path(os.environ.get("VAE_EXP_DATA", CHECKOUT / "data")).expanduser() / "MNIST"
    for found in (SHARED_MNIST, users):
        if (found / "raw" / "train-images-idx3-ubyte.gz").exists():
            root = tmp_path_factory.mktemp("mnist")
            (root / "MNIST" / "raw").mkdir(parents=True)
            for file in (found / "raw").iterdir():
                shutil.copyfile(file, root / "MNIST" / "raw" / file.name)
            return root
    pytest.skip(f"MNIST is neither in {SHARED_MNIST} nor in {users}")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a command of ours inside this process, in an empty folder: `command("train", "data=digits")`."""

    def run(name: str, *arguments: str) -> Finished:
        from importlib import import_module

        capfd.readouterr()
        handlers = list(logging.getLogger().handlers)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"vae_exp.{name}", *arguments])
        code: object = 0
        try:
            module = import_module(f"vae_exp.{name}")
            if hasattr(module, "__path__"):  # a package
                module = import_module(f"vae_exp.{name}.__main__")
            module.main()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        _restore_logging(handlers)
        captured = capfd.readouterr()
        return Finished(int(code or 0), captured.out, captured.err)

    return run


def _restore_logging(handlers: list[logging.Handler]) -> None:
    """Take away what Hydra has added to the root logger of this process."""
    root = logging.getLogger()
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()


def start(name: str, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command of ours as a process of its own, which shares no W&B service with this one."""
    own = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, "-m", f"vae_exp.{name}", *arguments],
        cwd=cwd,
        env={**own, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., Finished]:
    """Run a command of ours as a process, to its end: `process("train", "data=digits")`."""

    def run(name: str, *arguments: str, env: dict[str, str] | None = None, timeout: float = 120) -> Finished:
        started = start(name, *arguments, cwd=tmp_path, env=env)
        out, err = started.communicate(timeout=timeout)
        return Finished(started.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser; without one on the path the test is skipped."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(SILENT))
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A fresh page."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    yield watch(context.new_page())
    context.close()


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and of the wheel that is built from it; `make dist` names its own."""
    if "DIST" in os.environ:
        return Path(os.environ["DIST"])
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a short run on the digits; copy it before changing it."""
    cwd = tmp_path_factory.mktemp("digits_run")
    arguments = ("data=digits", "trainer.epochs=3", "tracker=none", "evaluator=[elbo]", "hydra.run.dir=run")
    started = start("train", *arguments, cwd=cwd)
    out, err = started.communicate(timeout=120)
    assert started.returncode == 0, out + err
    return cwd / "run"


@pytest.fixture
def copied_run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of that run, elsewhere."""
    return Path(shutil.copytree(digits_run, tmp_path / "moved" / "run"))
