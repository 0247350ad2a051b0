import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import CHECKOUT
from tests.engine.distributed_member import TRAINING, free_port, launch_environment, run_member, train
from vae_exp.engine import torchrun
from vae_exp.engine.distributed import DistributedContext, init_distributed, local_rank_device
from vae_exp.errors import UserError

CPU = torch.device("cpu")
reproducibly = settings(max_examples=100)
world_sizes = st.integers(min_value=1, max_value=9)


@pytest.fixture(autouse=True)
def _not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


# Slices


@reproducibly
@given(world_sizes, st.integers(min_value=0, max_value=60))
def test_the_slices_of_the_processes_tile_a_batch_in_order_of_rank(world_size: int, total: int):
    processes = [DistributedContext(rank, world_size) for rank in range(world_size)]
    slices = [process.local_slice(total) for process in processes]
    assert (slices[0][0], slices[-1][1]) == (0, total)
    assert all(one[1] == other[0] for one, other in pairwise(slices))
    sizes = [process.local_batch_size(total) for process in processes]
    assert sizes == [last - first for first, last in slices]
    assert max(sizes) - min(sizes) <= 1
    shards = [None] if world_size == 1 else [(*bounds, total) for bounds in slices]
    assert [process.noise_shard(total) for process in processes] == shards
    assert [process.is_main for process in processes] == [True] + [False] * (world_size - 1)


@reproducibly
@given(world_sizes, st.integers(min_value=1, max_value=40), st.integers(min_value=1, max_value=50))
def test_together_the_processes_take_every_image_of_every_batch(size: int, count: int, batch_size: int):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    processes = [DistributedContext(rank, size) for rank in range(size)]
    own = [
        dist.local_indices(order, sizes).split([dist.local_batch_size(batch) for batch in sizes])
        for dist in processes
    ]
    together = [torch.cat([parts[batch] for parts in own]) for batch in range(len(sizes))]
    assert torch.equal(torch.cat(together), order)
    assert [len(batch) for batch in together] == sizes


def test_a_single_process_exchanges_nothing():
    dist, order, sums, module = init_distributed("none", CPU), torch.arange(5), torch.ones(3), nn.Linear(2, 2)
    dist.all_reduce_sum(sums)
    dist.shutdown()
    assert dist.world_size == 1
    assert torch.equal(dist.local_indices(order, [3, 2]), order)
    assert sums.tolist() == [1.0, 1.0, 1.0]
    assert (dist.any_rank_flag(0), dist.any_rank_flag(15)) == (0, 15)
    assert dist.run_on_main_and_broadcast(lambda: "made") == "made"
    assert dist.wrap_ddp(module, CPU) is module


# Start


def test_what_torchrun_has_started_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    def values() -> tuple[bool, int, int, bool]:
        return torchrun.is_launched(), torchrun.world_size(), torchrun.rank(), torchrun.is_main_process()

    assert values() == (False, 1, 0, True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert values() == (True, 4, 3, False)


@pytest.mark.parametrize(
    ("name", "gpus", "device"),
    [
        ("auto", 2, "cuda:1"),
        ("cuda", 2, "cuda:1"),
        ("cuda:0", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "auto"),
        ("auto", 1, "cuda:0"),  # Slurm's --gpus-per-task=1 shows each process one device
    ],
)
def test_every_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, device: str):
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert local_rank_device(name) == device


def test_torchrun_without_ddp_and_ddp_without_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"torchrun --nproc-per-node=N -m vae_exp\.train trainer=ddp"):
        init_distributed("ddp", CPU)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"^4 processes were started, .*use trainer=ddp\.$"):
        init_distributed("none", CPU)


# Two processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The results of two processes, of which this is the first."""
    folder, port = tmp_path_factory.mktemp("dist"), free_port()
    command = [sys.executable, "-m", "tests.engine.distributed_member", str(folder)]
    second = subprocess.Popen(command, cwd=CHECKOUT, env={**os.environ, **launch_environment(1, 2, port)})
    try:
        with pytest.MonkeyPatch.context() as patched:
            for name, value in launch_environment(0, 2, port).items():
                patched.setenv(name, value)
            run_member(folder)
        assert second.wait(timeout=60) == 0
    finally:
        second.kill()
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", TRAINING)
def test_two_processes_train_as_one_and_have_the_same_weights_to_the_bit(pair, name: str, tmp_path: Path):
    """Two epochs, the last batch uneven."""
    single = train(name, tmp_path, DistributedContext())
    assert single["step"] == 6
    for process in pair[1]:
        torch.testing.assert_close(process[name]["weights"], single["weights"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(process[name]["average"], single["average"], rtol=1e-5, atol=1e-5)
        assert process[name]["metrics"] == pytest.approx(single["metrics"], rel=1e-5)
        assert process[name]["step"] == 6
    assert torch.equal(pair[1][0][name]["weights"], pair[1][1][name]["weights"])
    assert (pair[0] / "0" / name / "checkpoints" / "last.pt").exists()
    assert not (pair[0] / "1").exists()


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_gradients_are_clipped_in_these_runs(name: str, tmp_path: Path):
    """Or else the comparison would say nothing of it."""
    clipped = train(name, tmp_path / "clipped", DistributedContext())["weights"]
    free = train(name, tmp_path / "free", DistributedContext(), max_grad_norm=None)["weights"]
    assert (clipped - free).abs().max() > 1e-4


def test_processes_sum_agree_and_broadcast_and_refuse_too_small_a_batch(pair):
    for process in pair[1]:
        assert process["sum of ranks"] == [3.0, 3.0, 3.0]
        assert process["agreed"] == [0, 0, 15, 0, 2]
        assert process["shared"] == {"made by": 0}
        assert "trainer.batch_size=4 leaves a last batch of 1 images for 2 processes" in process["single"]


def test_a_signal_or_a_non_finite_loss_in_one_process_ends_them_all(pair):
    assert [process["interrupted"].split(":")[0] for process in pair[1]] == ["Interrupted"] * 2
    assert (pair[0] / "0" / "interrupted" / "checkpoints" / "last.pt").exists()
    first, second = (process["diverged"] for process in pair[1])
    assert first == second
    assert "is nan in epoch 1 (step 3)" in first  # the fourth call, counting the dry run
