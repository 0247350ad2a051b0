"""`.ci/run` with stand-ins for the programs that it calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

APT = "case $* in *install*chromium) printf '#!/bin/sh\\n' > {here}/chromium; chmod +x {here}/chromium;; esac"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is the whole path; each program notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "chmod", "env"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    add(folder, "make")
    return folder


def add(folder: Path, name: str, then: str = "") -> None:
    text = f"#!{shutil.which('bash')}\necho {name} $* >> {folder}/calls\n{then.format(here=folder)}\n"
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def run(folder: Path) -> tuple[str, list[str]]:
    """What it prints, and what it called; it must succeed."""
    done = subprocess.run(
        [CHECKOUT / ".ci" / "run"],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    calls = (folder / "calls").read_text().splitlines()
    assert [call for call in calls if call.startswith("make")] == ["make check", "make test"]
    return done.stdout, [call for call in calls if not call.startswith("make")]


@pytest.mark.parametrize("user", [0, 1000])
def test_a_browser_is_installed_by_root_and_by_whoever_may_sudo(programs: Path, user: int):
    add(programs, "id", f"echo {user}")
    add(programs, "apt-get", APT)
    if user:
        add(programs, "sudo", "shift; exec $*")
    told, calls = run(programs)
    assert told == "Installing Chromium for the tests of the dashboard.\n"
    assert [call.split()[-1] for call in calls if call.startswith("apt-get")] == ["update", "chromium"]
    assert any(call.startswith("sudo -n env") for call in calls) == bool(user)


def test_a_browser_that_is_there_is_left_alone(programs: Path):
    add(programs, "google-chrome")
    add(programs, "apt-get")
    assert run(programs) == ("", [])


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        ({}, "there is no apt-get here"),
        ({"id": "echo 1000", "apt-get": ""}, "sudo: command not found"),
        ({"id": "echo 1000", "apt-get": "", "sudo": "echo a password is required >&2; exit 1"}, "a password is"),
        ({"id": "echo 0", "apt-get": "echo 'E: Unable to locate package chromium' >&2; exit 100"}, "E: Unable to"),
    ],
    ids=["no apt", "no sudo", "password", "no package"],
)
def test_why_there_is_no_browser_is_told_and_the_checks_run(programs: Path, present: dict[str, str], reason: str):
    for name, then in present.items():
        add(programs, name, then)
    told, _ = run(programs)
    assert "Chromium could not be installed; the browser tests will be skipped: " in told
    assert reason in told.splitlines()[-1]
