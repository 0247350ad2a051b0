import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as torch_dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import CHECKOUT
from tests.engine.distributed_member import TRAINING, train
from vae_exp.engine import torchrun
from vae_exp.engine.distributed import DistributedContext, init_distributed, local_rank_device
from vae_exp.errors import UserError

CPU = torch.device("cpu")
reproducibly = settings(max_examples=100)
team_sizes = st.integers(min_value=1, max_value=9)


@pytest.fixture(autouse=True)
def _not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


# Parts


@reproducibly
@given(team_sizes, st.integers(min_value=0, max_value=60))
def test_the_parts_of_a_team_tile_a_batch_in_order_of_rank(size: int, total: int):
    bounds = [DistributedContext(rank, size).local_slice(total) for rank in range(size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == total
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    parts = [DistributedContext(rank, size).local_batch_size(total) for rank in range(size)]
    assert parts == [last - first for first, last in bounds]
    assert max(parts) - min(parts) <= 1
    assert max(parts) <= -(-total // size)


@reproducibly
@given(team_sizes, st.integers(min_value=1, max_value=40), st.integers(min_value=1, max_value=50))
def test_together_the_processes_take_every_image_of_every_batch(size: int, count: int, batch_size: int):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    teams = [DistributedContext(rank, size) for rank in range(size)]
    own = [
        dist.local_indices(order, sizes).split([dist.local_batch_size(each) for each in sizes]) for dist in teams
    ]
    together = [torch.cat([parts[batch] for parts in own]) for batch in range(len(sizes))]
    assert torch.equal(torch.cat(together), order)
    assert [len(batch) for batch in together] == sizes


def test_a_shard_is_the_place_of_a_part_in_its_batch():
    assert [DistributedContext(rank, 3).noise_shard(7) for rank in range(3)] == [(0, 2, 7), (2, 4, 7), (4, 7, 7)]
    assert DistributedContext().noise_shard(7) is None


def test_one_process_is_a_team_of_its_own():
    dist, order, sums, module = DistributedContext(), torch.arange(5), torch.ones(3), nn.Linear(2, 2)
    dist.all_reduce_sum(sums)
    dist.shutdown()
    assert dist.is_main
    assert torch.equal(dist.local_indices(order, [3, 2]), order)
    assert sums.tolist() == [1.0, 1.0, 1.0]
    assert (dist.any_rank_flag(0), dist.any_rank_flag(15)) == (0, 15)
    assert dist.run_on_main_and_broadcast(lambda: "made") == "made"
    assert dist.wrap_ddp(module, CPU) is module


def test_the_first_process_leads():
    assert [DistributedContext(rank, 3).is_main for rank in range(3)] == [True, False, False]


# How a dist comes together


def test_what_torchrun_has_started_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    def values() -> tuple[bool, int, int, bool]:
        return torchrun.is_launched(), torchrun.world_size(), torchrun.rank(), torchrun.is_main_process()

    assert values() == (False, 1, 0, True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert values() == (True, 4, 3, False)


@pytest.mark.parametrize(
    ("name", "size", "cuda", "device"),
    [
        ("auto", "2", True, "cuda:1"),
        ("cuda", "2", True, "cuda:1"),
        ("cuda:0", "2", True, "cuda:0"),
        ("cpu", "2", True, "cpu"),
        ("auto", "2", False, "auto"),
        ("cuda", "1", True, "cuda:1"),
    ],
)
def test_every_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, name, size, cuda, device):
    _launched(monkeypatch, size)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_rank_device(name) == device


def _launched(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_a_process_that_sees_its_own_gpu_alone_takes_that(monkeypatch: pytest.MonkeyPatch):
    """Slurm's --gpus-per-task=1 shows each process one device."""
    _launched(monkeypatch, "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert local_rank_device("auto") == "cuda:0"


def test_nccl_is_told_the_device(monkeypatch: pytest.MonkeyPatch):
    """A device with its index, in a dist of one too."""
    told: dict[str, Any] = {}
    for name, value in _environment(0, 1, _free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        torch_dist, "init_process_group", lambda backend, **options: told.update(options, of=backend)
    )
    monkeypatch.setattr(
        torch_dist, "new_group", lambda **options: torch_dist.ProcessGroup.__new__(torch_dist.ProcessGroup)
    )
    monkeypatch.setattr(torch_dist, "get_rank", lambda: 0)
    monkeypatch.setattr(torch_dist, "get_world_size", lambda: 1)
    init_distributed("ddp", torch.device("cuda:0"))
    assert told == {"of": "nccl", "device_id": torch.device("cuda:0")}


def test_without_torchrun_a_run_is_of_one_process():
    assert init_distributed("none", CPU).world_size == 1


def test_several_processes_that_would_train_the_same_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"^4 processes were started, .*use trainer=ddp\.$"):
        init_distributed("none", CPU)


def test_ddp_without_torchrun_is_refused_with_the_command():
    with pytest.raises(UserError, match=r"torchrun --nproc-per-node=N -m vae_exp\.train trainer=ddp"):
        init_distributed("ddp", CPU)


def test_a_team_of_one_that_torchrun_has_started_disbands_too(monkeypatch: pytest.MonkeyPatch):
    for name, value in _environment(0, 1, _free_port()).items():
        monkeypatch.setenv(name, value)
    dist = init_distributed("ddp", CPU)
    try:
        assert (dist.rank, dist.world_size) == (0, 1)
        dist.shutdown()
        assert not torch_dist.is_initialized()
    finally:
        if torch_dist.is_initialized():
            torch_dist.destroy_process_group()


# Two processes


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def _two_processes(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    port = _free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.engine.distributed_member", str(folder)],
            cwd=CHECKOUT,
            env={**os.environ, **_environment(rank, 2, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [each.communicate(timeout=90)[0] for each in started]
    finally:
        for each in started:
            each.kill()
    assert [each.returncode for each in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("dist")
    return folder, _two_processes(folder)


@pytest.mark.parametrize("name", TRAINING)
def test_two_processes_train_as_one(pair, name: str, tmp_path: Path):
    """Two epochs, the last batch uneven."""
    alone = train(name, tmp_path, DistributedContext())
    assert alone["step"] == 6
    for found in pair[1]:
        torch.testing.assert_close(found[name]["weights"], alone["weights"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[name]["average"], alone["average"], rtol=1e-5, atol=1e-5)
        assert found[name]["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)
        assert found[name]["step"] == 6


@pytest.mark.parametrize("name", TRAINING)
def test_the_processes_have_the_same_weights_to_the_bit(pair, name: str):
    first, second = pair[1]
    assert torch.equal(first[name]["weights"], second[name]["weights"])


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_gradients_are_clipped_in_these_runs(name: str, tmp_path: Path):
    """Or else the comparison would say nothing of it."""
    clipped = train(name, tmp_path / "clipped", DistributedContext())["weights"]
    free = train(name, tmp_path / "free", DistributedContext(), max_grad_norm=None)["weights"]
    assert (clipped - free).abs().max() > 1e-4


def test_the_leading_process_alone_writes(pair):
    assert (pair[0] / "0" / "sum" / "checkpoints" / "last.pt").exists()
    assert not (pair[0] / "1").exists()


def test_processes_add_up_agree_and_share(pair):
    for found in pair[1]:
        assert found["sum of ranks"] == [3.0, 3.0, 3.0]
        assert found["agreed"] == [0, 0, 15, 0, 2]
        assert found["shared"] == {"made by": 0}


def test_a_signal_to_one_process_ends_them_all(pair):
    assert [found["interrupted"].split(":")[0] for found in pair[1]] == ["Interrupted"] * 2
    assert (pair[0] / "0" / "interrupted" / "checkpoints" / "last.pt").exists()


def test_a_loss_that_is_not_finite_in_one_process_ends_them_all(pair):
    first, second = pair[1]
    assert first["diverged"] == second["diverged"]
    assert (
        "is nan in epoch 1 (step 3)" in first["diverged"]
    )  # the fourth call, counting the one that tries the loss


def test_a_last_batch_that_is_smaller_than_the_team_is_refused(pair):
    for found in pair[1]:
        assert "trainer.batch_size=4 leaves a last batch of 1 images for 2 processes" in found["single"]
