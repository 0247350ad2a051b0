"""The native decoder against W&B's own reader, and segments made from their records."""

import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.proto.wandb_internal_pb2 import Record

from tests.dashboard.records import damage, read_to_end
from tests.wandb_records import FILE_HEADER, encode_log
from vae_exp.dashboard.reader.portions import decode_records
from vae_exp.dashboard.reader.records import _forget_package, decode_record, inspect_with_leet
from vae_exp.dashboard.runs import segment as segment_module
from vae_exp.dashboard.runs.segment import RunSegment
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.tracking.wandb_log import WandbLogReader

inspect = cache(inspect_with_leet)
FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("*.wandb"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.wandb"


def read_segment(path: Path) -> RunSegment:
    segment = RunSegment(path)
    segment.apply(segment.read())
    while segment.has_more:
        segment.apply(segment.read())
    return segment


def contents(segment: RunSegment) -> dict[str, Any]:
    """All that a segment has from its records."""
    names = ("info", "config", "summary", "environment", "exit_code", "data_loss")
    texts = [(x.key, x.step, x.epoch, x.caption, x.path) for x in segment.pictures]
    curves = {
        key: repr(history.series(key)) for history in (segment.history, segment.machine) for key in history.keys
    }
    return {
        **{name: getattr(segment, name) for name in names},
        "lists": [list(segment.console), list(segment.alerts), texts, curves, segment.history.non_numeric],
    }


@pytest.mark.quick(1)
@pytest.mark.parametrize("path", FIXTURES[::-1], ids=lambda path: path.stem)
def test_files_of_all_versions_are_read_as_by_wandb(path: Path):
    segment = read_segment(path)
    oracle = RunSegment(path)
    oracle.apply(inspect(path))
    assert contents(segment) == contents(oracle)
    assert (segment.exit_code, segment.data_loss, len(segment.history)) == (3, "", 5)
    assert segment.config.keys() >= {"model.latent_dim", "seed", "text", "late"}
    assert segment.summary["best.val/elbo"] == -20
    assert [(x.key, x.step, x.epoch, x.caption) for x in segment.pictures] == [
        ("figures/samples", 30, 3, "a caption"), ("several", 40, 4, "no 0"), ("several", 40, 4, "no 1"),
    ]  # fmt: skip
    assert segment.history.series("val/elbo")[0].tolist() == [10, 20, 30, 40, 50]
    assert "printed by the run\n" in "".join(x.text for x in segment.console)
    assert [x.title for x in segment.alerts] == ["an alert"]


ITEMS = [
    *(
        ("a", text)
        for text in ("1", "-0.5", "1e300", "1e999", "NaN", "-Infinity", "true", "null", '"text"', "[1]", "")
    ),
    *(("a", text) for text in (" 2 ", "1" * 130, "1" * 5000, '{"b": 1}', "{", "nan,", "é")),
    *(("val/codes_used", "3"), ("a.b", "4"), ("_wandb.x", "5"), ("_step", "6"), ("é", "7"), ("", "8")),
    *(("p._type", '"image-file"'), ("p.path", '"media/a.png"'), ("p", '{"_type": "image-file", "path": "b"}')),
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["history", "summary", "remove"]),
            st.lists(st.tuples(st.sampled_from(ITEMS), st.booleans()), max_size=4),
        ),
        max_size=6,
    )
)
def test_portions_are_decoded_as_their_records_are(portion: list[Any]):
    """Whether a key is nested or not, and whether a row has numbers alone or anything else."""
    data = []
    for kind, items in portion:
        record = Record()
        record.history.step.num = len(data)
        if kind != "history":
            record.summary.SetInParent()
        for (key, text), is_nested in items:
            item = record.history.item.add() if kind == "history" else record.summary.update.add()
            item.value_json = text
            item.nested_key.extend(key.split(".")) if is_nested else setattr(item, "key", key)
        if kind == "remove":
            record.summary.remove.add(key="a")
        data.append(record.SerializeToString())
    quick, oracle = RunSegment(Path("x")), RunSegment(Path("x"))
    records, invalid = decode_records(data)
    quick.apply(records)
    oracle.apply([record for x in data if (record := decode_record(x))])
    assert contents(quick) == contents(oracle)
    assert invalid == 0


def test_kinds_that_the_dashboard_does_not_use_are_none():
    records = [decode_record(data) for data in read_to_end(WandbLogReader(FIXTURES[-1]))]
    assert records[0] is None  # the header
    assert {record["type"] for record in records if record} >= {"run", "history", "summary", "exit", "alert"}


def test_damaged_files_never_raise(path: Path):
    """Bytes that fail their checksum, then records that pass it and are none."""
    for seed in range(50):
        fixture = FIXTURES[seed % len(FIXTURES)]
        path.write_bytes(damage(fixture.read_bytes(), seed, first=len(FILE_HEADER)))
        segment = read_segment(path)
        assert segment.data_loss or segment.unread
        records = [damage(record, seed) for record in read_to_end(WandbLogReader(fixture))]
        path.write_bytes(encode_log(records)[0])
        read_segment(path)


def test_a_file_of_another_format_is_read_by_wandb_whenever_it_has_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    records = inspect(FIXTURES[-1])
    calls = []

    def growing(path: Path) -> list[dict[str, Any]]:
        calls.append(path)
        return records[: 5 + 5 * len(calls)]

    monkeypatch.setattr(segment_module, "inspect_with_leet", growing)
    path.write_bytes(b"a format to come")
    store = RunStore([path])
    store.refresh()
    steps = [list(store.runs["fix0310"].segments[0].history.steps)]
    path.write_bytes(b"a format to come, longer")
    store.refresh()
    store._discovered = float("-inf")
    store.refresh()
    steps.append(list(store.runs["fix0310"].segments[0].history.steps))
    assert len(calls) == 2
    assert steps[0] == steps[1][: len(steps[0])]
    assert len(steps[0]) < len(steps[1]) == len(set(steps[1]))


def test_records_that_cannot_be_understood_are_counted(path: Path, monkeypatch: pytest.MonkeyPatch):
    records = [
        {"type": "history", "history": {"item": {"_step": "many"}}},
        {"type": "run", "run": {}},
        {"no": "type"},
        {"type": "header", "header": {}},
        {"type": "run", "run": {"run_id": "one"}},
    ]
    monkeypatch.setattr(segment_module, "inspect_with_leet", lambda path: records)
    path.write_bytes(b"x")
    segment = read_segment(path)
    assert (segment.info.run_id, segment.data_loss) == ("one", "3 records could not be understood")


@pytest.mark.slow
def test_records_are_decoded_without_importing_wandb_which_can_be_imported_afterwards(path: Path):
    path.write_bytes(FIXTURES[0].read_bytes())
    script = f"""
import sys
from pathlib import Path
from vae_exp.dashboard.runs.segment import RunSegment
segment = RunSegment(Path({str(path)!r}))
records = segment.read()
assert records and not segment.data_loss
assert "wandb" not in sys.modules
import wandb
from wandb.proto import wandb_internal_pb2
assert callable(wandb.init) and wandb.proto.wandb_internal_pb2.Record is wandb_internal_pb2.Record
print(len(records))
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(output) > 0


def test_a_package_is_forgotten_while_another_thread_imports():
    is_done = threading.Event()
    added = [f"added_{number}" for number in range(1000)]

    def add_modules() -> None:
        while not is_done.is_set():
            sys.modules.update(dict.fromkeys(added, sys))
            for name in added:
                del sys.modules[name]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=add_modules)
    thread.start()
    try:
        for _ in range(300):
            _forget_package("no_such_package")
    finally:
        is_done.set()
        thread.join()
        sys.setswitchinterval(interval)
