"""Reading `.wandb` files: cut off, growing, damaged; writing them."""

import os
import random
from itertools import pairwise
from pathlib import Path

import pytest

from tests.dashboard.records import damage, read_to_end
from tests.wandb_records import BLOCK, FILE_HEADER, encode_log
from vae_exp.tracking import wandb_log
from vae_exp.tracking.wandb_log import UnknownFormatError, WandbLogReader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.wandb"


def random_records(count: int, longest: int, seed: int = 0) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.choice([0, 1, 50, source.randrange(longest)])) for _ in range(count)]


def read(path: Path) -> list[bytes]:
    return read_to_end(WandbLogReader(path))


def test_records_of_any_length_come_back(path: Path):
    near_the_edge = [[bytes([1]) * length, b"next"] for length in range(BLOCK - 30, BLOCK + 10)]
    for records in (random_records(60, 100_000), *near_the_edge):
        path.write_bytes(encode_log(records)[0])
        assert read(path) == records
        assert wandb_log.encode_log(records) == path.read_bytes()


def cuts(data: bytes) -> list[int]:
    if len(data) < BLOCK:
        return list(range(len(data) + 1))
    edges = range(BLOCK, len(data), BLOCK)
    return sorted({min(len(data), edge + shift) for edge in edges for shift in range(-9, 10)})


@pytest.mark.parametrize(("count", "longest"), [(12, 60), (40, 40_000)])
def test_a_file_cut_off_anywhere_has_its_whole_records_and_can_grow(path: Path, count: int, longest: int):
    records = random_records(count, longest)
    data, ends = encode_log(records)
    for cut in cuts(data):
        path.write_bytes(data[:cut])
        log = WandbLogReader(path)
        before = read_to_end(log)
        assert before == records[: sum(end <= cut for end in ends)]
        with path.open("ab") as file:
            file.write(data[cut:])
        assert before + read_to_end(log) == records
        assert (log.corrupt_bytes, log.unread) == (0, 0)


def test_a_file_that_grows_byte_by_byte_is_read_as_a_whole_one(path: Path):
    records = random_records(10, 40)
    log, result = WandbLogReader(path), []
    with path.open("wb", buffering=0) as file:
        for byte in encode_log(records)[0]:
            file.write(bytes([byte]))
            result += read_to_end(log)
    assert result == records


@pytest.mark.parametrize("longest", [200, 5_000, 70_000])
def test_damage_loses_no_record_of_undamaged_blocks(path: Path, longest: int):
    """From a damaged chunk on the rest of its block is lost, and records that reach into it."""
    for seed in range(40):
        records = random_records(40, longest, seed)
        data, ends = encode_log(records)
        damaged = damage(data, seed, first=len(FILE_HEADER), longest=3_000)
        blocks = {at // BLOCK for at in range(len(data)) if damaged[at] != data[at]}
        path.write_bytes(damaged)
        log = WandbLogReader(path)
        result = read_to_end(log)
        remaining = iter(result)
        for record, (begin, end) in zip(records, pairwise([len(FILE_HEADER), *ends]), strict=True):
            if blocks.isdisjoint(range(begin // BLOCK, (end - 1) // BLOCK + 1)):
                assert record in remaining, "an undamaged record was lost, or came out of order"
        assert log.corrupt_bytes + log.unread or result == records


def test_a_record_that_has_lost_its_middle_is_not_joined_from_its_ends(path: Path):
    records = [b"a", b"b" * 100_000, b"c"]
    data = bytearray(encode_log(records)[0])
    data[2 * BLOCK + 100] ^= 1
    path.write_bytes(data)
    log = WandbLogReader(path)
    assert read_to_end(log) == [b"a", b"c"]
    assert log.corrupt_bytes > 99_000


def test_time_and_memory_are_bounded_for_every_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sparse file can have any size: a portion is 1 MiB, a file is read up to a limit."""
    monkeypatch.setattr(wandb_log, "_MAX_FILE_BYTES", 8 * 2**20)
    path.write_bytes(encode_log([b"a" * 50])[0])
    os.truncate(path, 2**40)
    log = WandbLogReader(path)
    assert log.read() == [b"a" * 50]
    assert log.unread == 2**40 - 2**20
    portions = 1
    while log.has_more:
        assert log.read() == []
        portions += 1
    assert (portions, log.unread) == (8, 2**40 - 8 * 2**20)
    assert log.corrupt_bytes > 7 * 2**20
    monkeypatch.setattr(wandb_log, "_MAX_RECORD_BYTES", 1_000)
    path.write_bytes(encode_log([b"a" * 1_000, b"b" * 40_000, b"c"])[0])
    assert read(path) == [b"a" * 1_000, b"c"]


@pytest.mark.parametrize("data", [b"no such file at all", b":W&B\xe1\xbe\x01", b"\0" * 100])
def test_another_format_is_not_guessed_at(path: Path, data: bytes):
    path.write_bytes(data)
    with pytest.raises(UnknownFormatError):
        WandbLogReader(path).read()
