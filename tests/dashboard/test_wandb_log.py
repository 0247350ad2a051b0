"""Reading `.wandb` files, cut off, growing, damaged; W&B's own reader is the truth."""

import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from tests.dashboard.portions import everything
from vae_exp.dashboard.reader.leet import inspected
from vae_exp.dashboard.reader.log_reader import UnknownFormatError, WandbLogReader
from vae_exp.dashboard.reader.parse import event_of
from vae_exp.dashboard.reader.protobuf import plain_record
from vae_exp.dashboard.reader.source import NativeSource

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("*.wandb"))
HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
BLOCK = 32768


def written(records: list[bytes]) -> tuple[bytes, list[int]]:
    """A file with these records, and where in it each of them ends."""
    data, ends = bytearray(HEADER), []
    for record in records:
        rest, first = record, True
        while first or rest:
            room = BLOCK - len(data) % BLOCK
            if room < 7:
                data += bytes(room)
                continue
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not rest]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
        ends.append(len(data))
    return bytes(data), ends


def random_records(count: int, longest: int, seed: int = 0) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.choice([0, 1, 50, source.randrange(longest)])) for _ in range(count)]


def read(path: Path) -> list[bytes]:
    return everything(WandbLogReader(path))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_files_of_all_versions_say_what_w_and_b_reads_in_them(path: Path):
    source = NativeSource(path)
    events = everything(source)
    assert events == [event for record in inspected(path) if (event := event_of(record)) is not None]
    assert len(events) > 20
    assert source.lost == ""


def test_records_of_any_length_come_back(tmp_path: Path):
    records = random_records(60, 100_000)
    path = tmp_path / "run.wandb"
    path.write_bytes(written(records)[0])
    assert read(path) == records


@pytest.mark.parametrize("length", range(BLOCK - 30, BLOCK + 10))
def test_records_that_end_about_the_edge_of_a_block_come_back(tmp_path: Path, length: int):
    records = [bytes([1]) * length, b"next"]
    path = tmp_path / "run.wandb"
    path.write_bytes(written(records)[0])
    assert read(path) == records


def cuts(data: bytes) -> list[int]:
    if len(data) < BLOCK:
        return list(range(len(data) + 1))
    edges = range(BLOCK, len(data), BLOCK)
    return sorted({min(len(data), edge + shift) for edge in edges for shift in range(-9, 10)})


@pytest.mark.parametrize(("count", "longest"), [(12, 60), (40, 40_000)])
def test_a_file_cut_off_anywhere_has_its_whole_records_and_goes_on(tmp_path: Path, count: int, longest: int):
    records = random_records(count, longest)
    data, ends = written(records)
    path = tmp_path / "run.wandb"
    for cut in cuts(data):
        path.write_bytes(data[:cut])
        log = WandbLogReader(path)
        before = everything(log)
        assert before == records[: sum(end <= cut for end in ends)]
        with path.open("ab") as file:
            file.write(data[cut:])
        assert before + everything(log) == records
        assert (log.damages, log.unread, log.generation) == ([], 0, 0)


def test_a_file_that_grows_byte_by_byte_is_read_as_a_whole_one(tmp_path: Path):
    records = random_records(10, 40)
    data, _ = written(records)
    path = tmp_path / "run.wandb"
    log, found = WandbLogReader(path), []
    with path.open("wb", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            found += everything(log)
    assert found == records


@pytest.mark.parametrize("seed", range(200))
def test_damage_costs_no_more_than_the_records_it_touches(tmp_path: Path, seed: int):
    source = random.Random(seed)
    records = random_records(40, source.choice([200, 5_000, 70_000]), seed)
    data, ends = written(records)
    damaged = bytearray(data)
    places = []
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(HEADER), len(data))
        for place in range(at, min(len(data), at + source.choice([1, 1, 20, 3_000]))):
            value = source.randrange(256)
            if value != damaged[place]:
                damaged[place] = value
                places.append(place)
    path = tmp_path / "run.wandb"
    path.write_bytes(damaged)
    log = WandbLogReader(path)
    found = everything(log)
    begins = [len(HEADER), *ends[:-1]]
    untouched = [
        record
        for record, begin, end in zip(records, begins, ends, strict=True)
        if not any(begin <= place < end for place in places)
    ]
    remaining = iter(found)
    assert all(record in remaining for record in untouched), "an undamaged record was lost, or came out of order"
    if len(untouched) < len(records) and places:
        assert log.damages or log.unread


@pytest.mark.parametrize("seed", range(50))
def test_damaged_fixtures_never_raise(tmp_path: Path, seed: int):
    source = random.Random(seed)
    data = bytearray(FIXTURES[seed % len(FIXTURES)].read_bytes())
    for _ in range(source.randrange(1, 40)):
        data[source.randrange(len(HEADER), len(data))] = source.randrange(256)
    path = tmp_path / "run.wandb"
    path.write_bytes(data)
    reader = NativeSource(path)
    everything(reader)
    assert reader.lost or reader.unfinished


@pytest.mark.parametrize("seed", range(50))
def test_bytes_that_pass_their_checksum_but_are_no_records_never_raise(tmp_path: Path, seed: int):
    source = random.Random(seed)
    original = read(FIXTURES[seed % len(FIXTURES)])
    strange = []
    for record in original:
        changed = bytearray(record)
        for _ in range(source.randrange(1, 4)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        strange.append(bytes(changed))
    path = tmp_path / "run.wandb"
    path.write_bytes(written(strange)[0])
    reader = NativeSource(path)
    everything(reader)


def test_a_replaced_file_is_read_anew(tmp_path: Path):
    path, other = tmp_path / "run.wandb", tmp_path / "other"
    path.write_bytes(written([b"a" * 100, b"b"])[0])
    log = WandbLogReader(path)
    assert everything(log) == [b"a" * 100, b"b"]
    other.write_bytes(written([b"c"])[0])
    other.replace(path)
    assert everything(log) == [b"c"]
    assert log.generation == 1


def test_a_record_that_has_lost_its_middle_is_not_put_together_from_its_ends(tmp_path: Path):
    records = [b"a", b"b" * 100_000, b"c"]
    data = bytearray(written(records)[0])
    data[2 * BLOCK + 100] ^= 1
    path = tmp_path / "run.wandb"
    path.write_bytes(data)
    log = WandbLogReader(path)
    assert everything(log) == [b"a", b"c"]
    assert sum(each.length for each in log.damages) > 99_000


def test_holes_of_a_sparse_file_are_gone_over(tmp_path: Path):
    path = tmp_path / "run.wandb"
    path.write_bytes(written([b"a" * 50])[0])
    size = 2**40
    os.truncate(path, size)
    log = WandbLogReader(path)
    assert everything(log) == [b"a" * 50]
    assert log.size == size
    with path.open("r+b") as file:
        file.seek(size)
        file.write(written([b"b"])[0][7:])
    assert everything(log) == [b"b"]
    assert size - 2 * BLOCK < sum(each.length for each in log.damages) <= size


@pytest.mark.parametrize("data", [b"no such file at all", b":W&B\xe1\xbe\x01", b"\0" * 100])
def test_another_format_is_not_guessed_at(tmp_path: Path, data: bytes):
    path = tmp_path / "run.wandb"
    path.write_bytes(data)
    with pytest.raises(UnknownFormatError):
        WandbLogReader(path).read()


def test_kinds_that_nobody_looks_at_are_none():
    records = [plain_record(data) for data in read(FIXTURES[-1])]
    assert records[0] is None  # the header
    assert {record["type"] for record in records if record} >= {"run", "history", "summary", "exit", "alert"}
