"""MPS with a small program in the place of NVIDIA's, which starts and ends a real process."""

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from hydra.conf import HydraConf
from omegaconf import OmegaConf

from tests.sweep.pool.test_pool import pickled
from vae_exp.errors import UserError
from vae_exp.storage.atomic_io import write_json
from vae_exp.storage.run_directory import RunDirectory
from vae_exp.sweep.pool import mps
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import Job, JobGroup, JobOutcome
from vae_exp.sweep.pool.mps import share_gpus
from vae_exp.sweep.pool.pool import Pool
from vae_exp.sweep.pool.slots import Slot

pytestmark = pytest.mark.timeout(120)

PROGRAM = """#!/bin/sh
pipes=$CUDA_MPS_PIPE_DIRECTORY
pid=$pipes/nvidia-cuda-mps-control.pid
if [ "$1" = -d ]; then
    [ -e {folder}/refuses ] && echo "Insufficient permissions" && exit 1
    sleep 1000 &
    echo $! > $pid
    echo "$! ${{CUDA_VISIBLE_DEVICES-unset}} $pipes" >> {folder}/started
    exit 0
fi
[ -e $pid ] && kill -0 $(cat $pid) || {{ echo "Cannot find MPS control daemon process"; exit 1; }}
while read command; do
    case $command in
        "start_server -uid $(id -u)") [ -e {folder}/faulty ] || cat $pid > $pipes/server ;;
        get_server_list) [ ! -e $pipes/server ] || cat $pipes/server ;;
        quit) kill $(cat $pid) && rm $pid; echo quit >> {folder}/quits ;;
    esac
done
"""


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(folder=tmp_path))
    program.chmod(0o755)
    (tmp_path / "default").mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "default"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")


def daemons(folder: Path) -> list[tuple[int, str, str]]:
    """Process, GPUs and directory of every daemon that was started."""
    path = folder / "started"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(pid), gpus, pipes) for pid, gpus, pipes in lines]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def ends(pid: int) -> bool:
    """Whether a process that was told to end does so."""
    until = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(pid)


def slots(*gpus: str | None) -> list[Slot]:
    return [Slot(number, gpu, 1) for number, gpu in enumerate(gpus)]


def test_each_gpu_has_a_daemon_that_runs_for_the_block(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"), share_gpus(slots("GPU-a", "MIG-b", "GPU-c", "GPU-a", "MIG-b"), "auto") as shared:
        assert [(gpus, is_running(pid)) for pid, gpus, _ in daemons(tmp_path)] == [
            ("GPU-a", True),
            ("MIG-b", True),
        ]
        of_gpu = {gpus: pipes for _, gpus, pipes in daemons(tmp_path)}
        used = [slot.environment.get("CUDA_MPS_PIPE_DIRECTORY") for slot in shared]
        assert used == [of_gpu["GPU-a"], of_gpu["MIG-b"], None, of_gpu["GPU-a"], of_gpu["MIG-b"]]
        assert [slot.gpu for slot in shared] == ["GPU-a", "MIG-b", "GPU-c", "GPU-a", "MIG-b"]
        assert all(
            Path(slot.environment["CUDA_MPS_LOG_DIRECTORY"]).is_dir() for slot in shared if slot.environment
        )
    assert all(ends(pid) and not Path(pipes).parent.exists() for pid, _, pipes in daemons(tmp_path))
    assert (tmp_path / "quits").read_text().split() == ["quit"] * 2
    assert "run at the same time, through NVIDIA's MPS, which is started for this sweep" in caplog.text


def test_gpus_named_by_index_share_a_daemon_that_renumbers_none(tmp_path: Path):
    with share_gpus(slots("1", "2", "1", "2"), True) as shared:
        [(_, gpus, pipes)] = daemons(tmp_path)
        assert gpus == "unset"
        assert [slot.environment["CUDA_MPS_PIPE_DIRECTORY"] for slot in shared] == [pipes] * 4


def test_a_daemon_that_is_running_is_used_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with share_gpus(slots("0", "0"), True) as first:
        with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
            patch.setenv("CUDA_MPS_PIPE_DIRECTORY", first[0].environment["CUDA_MPS_PIPE_DIRECTORY"])
            with share_gpus(slots("0", "0"), True) as shared:
                assert [slot.environment for slot in shared] == [{}, {}]
        [(pid, _, _)] = daemons(tmp_path)
        assert is_running(pid)
    assert "through the NVIDIA MPS daemon that is running here" in caplog.text


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "nvidia-cuda-mps-control is not on the PATH"),
        ("refuses", "Insufficient permissions"),
        ("faulty", r"nvidia-cuda-mps-control starts no server \(none within"),
    ],
)
def test_without_mps_jobs_share_time_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str, reason: str
):
    (tmp_path / fault).touch()
    if fault == "faulty":
        monkeypatch.setattr(mps, "_START_SECONDS", 0.3)
    if fault == "missing":
        (tmp_path / "bin" / "nvidia-cuda-mps-control").unlink()
    with caplog.at_level("INFO"), share_gpus(slots("GPU-a", "GPU-a"), "auto") as shared:
        assert [slot.environment for slot in shared] == [{}, {}]
    [record] = caplog.records
    assert record.getMessage().startswith("The jobs of a GPU only share its time, without NVIDIA's MPS: ")
    with (
        pytest.raises(UserError, match=rf"hydra\.launcher\.mps=true: {reason}"),
        share_gpus(slots("0", "0"), True),
    ):
        pytest.fail("jobs may not start")
    assert not any(is_running(pid) for pid, _, _ in daemons(tmp_path))


@pytest.mark.parametrize("gpus", [["0", "1"], [None, None], ["", ""]])
def test_jobs_that_share_no_gpu_need_no_mps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, gpus: list[str | None]
):
    with caplog.at_level("INFO"), share_gpus(slots(*gpus), "auto") as shared:
        assert shared == slots(*gpus)
    with pytest.raises(UserError, match=r"mps=true: no GPU has several slots"), share_gpus(slots(*gpus), True):
        pytest.fail("jobs may not start")
    with share_gpus(slots("0", "0"), False) as shared:
        assert [slot.environment for slot in shared] == [{}, {}]
    assert daemons(tmp_path) == []
    assert caplog.records == []


def run(folder: Path, jobs: Iterable[Job]) -> None:
    """Jobs that write the environment of their process."""

    def task(config) -> None:
        folder = Path(config.path)
        (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
        write_json(RunDirectory(folder).config, {})
        write_json(RunDirectory(folder).result, {"status": "completed", "metrics": {}})

    def compose(job: Job) -> bytes:
        hydra = OmegaConf.structured(HydraConf)
        hydra.sweep.dir, hydra.sweep.subdir, hydra.output_subdir = str(folder), str(job.number), None
        hydra.job_logging = {"version": 1, "root": {"level": "INFO"}}
        job.directory = RunDirectory(folder / str(job.number))
        return pickled(task, OmegaConf.create({"path": str(job.directory.path), "hydra": hydra}))

    share = partial(share_gpus, mode=True)
    Pool(slots("GPU-a", "GPU-a"), compose, 5.0, PoolDisplay(2, 2), share).run(JobGroup([job]) for job in jobs)


def test_jobs_are_connected_to_the_daemon_which_ends_after_them(tmp_path: Path):
    jobs = [Job(0, []), Job(1, [])]
    run(tmp_path, jobs)
    assert [job.outcome for job in jobs] == [JobOutcome.DONE] * 2
    [(pid, _, pipes)] = daemons(tmp_path)
    for number in range(2):
        environment = json.loads((tmp_path / str(number) / "environment.json").read_text())
        assert environment["CUDA_MPS_PIPE_DIRECTORY"] == pipes
        assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert ends(pid)
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == str(tmp_path / "default")


@pytest.mark.usefixtures("restored_signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, ValueError()])
def test_the_daemon_ends_however_the_sweep_ends(tmp_path: Path, end: signal.Signals | ValueError):
    def jobs() -> Iterator[Job]:
        [(pid, _, _)] = daemons(tmp_path)
        assert is_running(pid)
        if isinstance(end, ValueError):
            raise end
        os.kill(os.getpid(), end)
        yield Job(0, [])

    with pytest.raises((SystemExit, ValueError)):
        run(tmp_path, jobs())
    [(pid, _, pipes)] = daemons(tmp_path)
    assert ends(pid)
    assert not Path(pipes).parent.exists()
