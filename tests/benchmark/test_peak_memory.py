import mmap
import sys

import psutil
import pytest
import torch

from vae_exp.benchmark.peak_memory import CudaPeak, host_peak, measure_host_peak, with_cuda_peak

MEBIBYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells")
def test_the_peak_of_the_process_grows_by_what_it_holds_for_a_moment():
    before = host_peak()
    below = before - psutil.Process().memory_info().rss
    with mmap.mmap(-1, below + 128 * MEBIBYTE) as held:  # pages of its own, whatever is free in the heap
        for position in range(0, len(held), mmap.PAGESIZE):
            held[position] = 1
        peak = host_peak()
    assert before + 100 * MEBIBYTE < peak < before + 160 * MEBIBYTE
    assert host_peak() == pytest.approx(peak, abs=4 * MEBIBYTE)  # the system counts in bundles of pages


@pytest.mark.slow
def test_a_fresh_process_reports_its_own_peak(case):
    ballast = torch.ones(2**28)  # 1 GiB in this process, which must not be seen from there
    peaks = measure_host_peak(case.config, "engine/eager/fp32", case.batch_size, "cpu")
    assert ballast[-1] == 1
    assert 50 * MEBIBYTE < peaks["imported"] < peaks["peak"] < 1024 * MEBIBYTE


def test_without_cuda_there_is_no_peak_of_its_memory():
    assert with_cuda_peak(lambda: 3, torch.device("cpu")) == (3, None)


def test_the_peaks_of_the_gpu_are_those_above_the_start_with_nothing_cached(monkeypatch):
    allocated, reserved, peaks = 5, 50, {}

    def empty_cache() -> None:
        nonlocal reserved
        reserved = 20

    def reset(device: torch.device) -> None:
        peaks.update(allocated=allocated, reserved=reserved)

    def make() -> str:
        peaks["allocated"] += 7
        peaks["reserved"] += 20
        return "made"

    for name, function in {
        "synchronize": lambda device: None,
        "empty_cache": empty_cache,
        "reset_peak_memory_stats": reset,
        "memory_allocated": lambda device: allocated,
        "memory_reserved": lambda device: reserved,
        "max_memory_allocated": lambda device: peaks["allocated"],
        "max_memory_reserved": lambda device: peaks["reserved"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    assert with_cuda_peak(make, torch.device("cuda", 0)) == ("made", CudaPeak(allocated=7, reserved=20))


@pytest.mark.cuda
def test_the_peak_of_the_gpu_leaves_out_what_was_there_before():
    device = torch.device("cuda")
    before = torch.ones(2**24, device=device)
    _, peak = with_cuda_peak(lambda: [torch.ones(2**20, device=device) for _ in range(2)], device)
    assert 8 * MEBIBYTE <= peak.allocated < 16 * MEBIBYTE
    assert 0 <= peak.reserved <= 32 * MEBIBYTE
    assert before.numel() == 2**24
