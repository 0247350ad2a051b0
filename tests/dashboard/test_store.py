"""Runs assembled from files that grow, vanish and are replaced."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from tests.dashboard.records import (
    append,
    environment_record,
    exit_record,
    history_record,
    make_run,
    picture,
    stats_record,
    summary_record,
)
from vae_exp.dashboard.runs import store as store_module
from vae_exp.dashboard.runs.history import History
from vae_exp.dashboard.runs.run import STALE_SECONDS, Run
from vae_exp.dashboard.runs.segment import RunSegment
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web.api import downsample, stretch_means
from vae_exp.tracking.offline_runs import TrackedRun


def refreshed(store: RunStore) -> RunStore:
    store._discovered = float("-inf")
    store.refresh()
    return store


def only_run(root: Path) -> Run:
    [run] = refreshed(RunStore([root])).runs.values()
    return run


def test_what_a_finished_run_has_logged(tmp_path: Path):
    rows = [{"val/elbo": -3.0}, {"val/elbo": float("nan"), "flag": True}, {"val/elbo": -1.0, "word": "text"}]
    config = {"model": {"latent_dim": 2, "hidden_dims": [5]}}
    stats = [stats_record(1_700_000_010, {"cpu": 50.0}), stats_record(1_700_000_020, {"cpu": 60.0})]
    make_run(tmp_path, "one", config, rows, display_name="a name", tags=["t"], more=stats)
    run = only_run(tmp_path)
    assert (run.info.name, run.info.tags, run.state, run.exit_code) == ("a name", ("t",), "finished", 0)
    assert run.config == {"model.latent_dim": 2, "model.hidden_dims": [5]}
    x, y = run.series("val/elbo", "epoch")
    np.testing.assert_array_equal(x, [1, 2, 3])
    np.testing.assert_array_equal(y, [-3.0, np.nan, -1.0])
    np.testing.assert_array_equal(run.series("flag")[0], [20])
    assert run.summary["word"] == "text"
    assert run.series("nothing")[0].size == 0
    x, y = run.segments[0].machine.series("cpu", "_timestamp")
    assert ((x - run.started).tolist(), y.tolist()) == ([10, 20], [50, 60])
    assert run.data_loss == ""


def test_a_run_grows_and_only_what_changed_has_a_new_version(tmp_path: Path):
    path = make_run(tmp_path, "one", rows=[{"a": 1.0}], exit_code=None)
    make_run(tmp_path, "two", rows=[{"a": 1.0}])
    store = refreshed(RunStore([tmp_path]))
    seen = store.version
    assert store.runs["one"].state == "running"
    append(path, history_record(20, {"a": 2.0}))
    refreshed(store)
    assert [key for key, run in store.runs.items() if run.version > seen] == ["one"]
    np.testing.assert_array_equal(store.runs["one"].series("a")[1], [1, 2])
    append(path, exit_record(3))
    assert refreshed(store).runs["one"].state == "failed"
    assert store.runs["one"].exit_code == 3
    seen = store.version
    assert refreshed(store).version == seen


def test_a_page_that_opens_before_the_first_search_waits_for_runs(tmp_path: Path):
    make_run(tmp_path, "one", rows=[{"a": 1.0}])
    store = RunStore([tmp_path])
    assert (store.pending, len(store.runs)) == (1, 0)
    store.read_all()
    assert (store.pending, len(store.runs)) == (0, 1)
    nothing = RunStore([tmp_path / "wandb" / "none"])
    nothing.read_all()
    assert nothing.pending == 0


def test_a_run_is_read_to_its_end_before_its_state_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is published on the way says `reading`, of a resumed run too; a portion is a third of a file."""
    monkeypatch.setattr(store_module, "_SECONDS_PER_FILE", 0.0)
    rows = [{"a": 1.0, "text": "x" * 80_000} for _ in range(40)]
    make_run(tmp_path, "one", rows=rows, exit_code=130, started=1_700_000_000)
    make_run(tmp_path, "one", rows=rows, exit_code=0, started=1_700_000_500)
    store = RunStore([tmp_path])
    published = []

    def touch(run: Run) -> None:
        RunStore._mark_changed(store, run)
        published.append(run.state)

    monkeypatch.setattr(store, "_mark_changed", touch)
    passes = 0
    while store.refresh():
        passes += 1
    assert passes > 2
    assert set(published) == {"reading", "finished"}
    assert published[-1] == store.runs["one"].state == "finished"


def test_large_files_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "_SECONDS_PER_FILE", 0.0)
    monkeypatch.setattr(store_module, "_SECONDS_PER_REFRESH", 0.0)
    for number in range(3):
        rows = [{"a": 1.0, "text": "x" * 80_000} for _ in range(40)]
        make_run(tmp_path, f"run{number}", rows=rows, started=1_700_000_000 + number)
    store = RunStore([tmp_path])
    for _ in range(3):
        assert store.refresh()
    assert [run.state for run in store.runs.values()] == ["reading"] * 3
    store.read_all()
    assert [run.state for run in store.runs.values()] == ["finished"] * 3


def test_a_run_whose_file_becomes_unreadable_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "_SECONDS_PER_FILE", 0.0)
    path = make_run(tmp_path, "one", rows=[{"text": "x" * 80_000}] * 40, exit_code=None)
    store = refreshed(RunStore([tmp_path]))
    assert store.runs["one"].state == "reading"
    path.unlink()
    store._discovered = float("inf")  # its removal is not noticed yet
    store.refresh()
    assert (store.runs["one"].state, store.runs["one"].data_loss) == ("running", "No such file or directory")


def test_a_run_without_further_writes_is_stale(tmp_path: Path):
    path = make_run(tmp_path, "one", exit_code=None)
    store = refreshed(RunStore([tmp_path], clock=lambda: path.stat().st_mtime + STALE_SECONDS + 1))
    assert store.runs["one"].state == "stale"


@pytest.mark.parametrize(
    ("code", "status", "state"),
    [
        (0, "completed", "finished"),
        (0, "pruned", "pruned"),
        (1, "failed", "failed"),
        (1, "diverged", "diverged"),
        (1, "interrupted", "interrupted"),
        (130, "interrupted", "interrupted"),
        (143, "interrupted", "interrupted"),
        (255, None, "failed"),
    ],
)
def test_the_end_of_a_run(tmp_path: Path, code: int, status: str | None, state: str):
    make_run(tmp_path, "one", more=[summary_record({"status": status})], exit_code=code)
    assert refreshed(RunStore([tmp_path])).runs["one"].state == state


@pytest.mark.parametrize("later_first", [False, True])
def test_segments_of_one_id_are_one_run_and_the_later_one_wins(tmp_path: Path, later_first: bool):
    rows = [{"a": 1.0}, {"a": 2.0, "p": picture("media/a.png")}, {"a": 3.0, "p": picture("media/b.png")}]
    first = make_run(tmp_path, "one", {"x": 1, "y": 1}, rows, exit_code=None, started=1_700_000_000)
    second = make_run(tmp_path, "one", {"y": 2}, [], exit_code=None, started=1_700_000_500)
    values = [{"a": 30.0, "p": picture("media/c.png"), "epoch": 3}, {"a": 40.0}]
    append(second, history_record(30, values[0]), history_record(40, values[1]))
    append(second, summary_record({"a": 40.0}), exit_record())
    if later_first:
        hidden = first.rename(first.with_suffix(".hidden"))
        store = refreshed(RunStore([tmp_path]))
        hidden.rename(first)
        refreshed(store)
    else:
        store = refreshed(RunStore([tmp_path]))
    [run] = store.runs.values()
    assert len(run.segments) == 2
    np.testing.assert_array_equal(run.series("a")[0], [10, 20, 30, 40])
    np.testing.assert_array_equal(run.series("a")[1], [1, 2, 30, 40])
    assert [(x.path, x.epoch) for x in run.pictures] == [("media/a.png", 2), ("media/c.png", 3)]
    assert run.config == {"x": 1, "y": 2}
    assert (run.summary["a"], run.state) == (40.0, "finished")


def test_times_of_a_resumed_run_ascend(tmp_path: Path):
    make_run(tmp_path, "one", {}, [{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], exit_code=None, started=1_700_000_000)
    second = make_run(tmp_path, "one", {}, [], exit_code=None, started=1_700_000_500)
    append(second, *(history_record(10 * n, {"a": float(n), "_runtime": 0.25 * n - 0.5}) for n in (3, 4)))
    [run] = refreshed(RunStore([tmp_path])).runs.values()
    np.testing.assert_array_equal(run.series("a", "_runtime")[0], [0.5, 1, 1.25, 1.5])
    assert run.summary["_runtime"] == 2.0  # step 30 took time twice


def test_a_segment_counts_from_its_own_start_where_its_time_stamps_say_so(tmp_path: Path):
    """The first was killed after one row, at a time that the second passes in its first."""
    first = make_run(tmp_path, "one", {}, [], exit_code=None, started=1_700_000_000)
    append(first, history_record(10, {"a": 1.0, "_runtime": 12.0, "_timestamp": 1_700_000_012.0}))
    second = make_run(tmp_path, "one", {}, [], exit_code=None, started=1_700_000_500)
    for step, time in ((20, 13.0), (30, 23.0)):
        append(second, history_record(step, {"a": 2.0, "_runtime": time, "_timestamp": 1_700_000_500 + time}))
    run = only_run(tmp_path)
    np.testing.assert_array_equal(run.series("a", "_runtime")[0], [12, 25, 35])
    assert run.summary["_runtime"] == 35


def test_a_run_that_is_resumed_at_its_end_keeps_its_last_epoch(tmp_path: Path):
    """Its evaluators ran once more, at the same step."""
    first = make_run(tmp_path, "one", {}, [], started=1_700_000_000)
    append(first, history_record(10, {"a": 1.0, "p": picture("media/a.png")}))
    append(
        first, history_record(20, {"a": 2.0, "b": 5.0, "p": picture("media/b.png"), "q": picture("media/q.png")})
    )
    second = make_run(tmp_path, "one", {}, [], started=1_700_000_500)
    append(second, history_record(20, {"b": 6.0, "q": picture("media/r.png")}), exit_record())
    run = only_run(tmp_path)
    np.testing.assert_array_equal(run.series("a"), [[10, 20], [1, 2]])
    np.testing.assert_array_equal(run.series("b"), [[20], [6]])
    steps, columns = run.rows()
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal([columns["a"], columns["b"]], [[1, 2], [np.nan, 6]])
    assert [x.path for x in run.pictures] == ["media/a.png", "media/b.png", "media/r.png"]


@pytest.mark.parametrize(("epoch", "is_shown"), [(3, True), (4, True), (2, False)])
def test_scores_of_an_epoch_that_is_no_longer_the_best_or_the_last_are_left_out(
    tmp_path: Path, epoch: int, is_shown: bool
):
    scores = {"test/nll": 2.5, "test/epoch": epoch}
    make_run(tmp_path, "one", more=[summary_record({"epoch": 4, "best/epoch": 3, "val/nll": 3.0, **scores})])
    summary = only_run(tmp_path).summary
    assert summary["val/nll"] == 3.0
    assert {key: value for key, value in summary.items() if key.startswith("test/")} == (
        scores if is_shown else {}
    )


def test_attempts_at_one_run_directory_are_numbered_and_the_last_counts(tmp_path: Path):
    make_run(tmp_path, "first", {"run_directory": "/runs/a"}, exit_code=1)
    make_run(tmp_path, "other", {"run_directory": "/runs/b"}, started=1_700_000_100)
    make_run(tmp_path / "elsewhere", "foreign", {"run_directory": "/runs/a"}, started=1_700_000_200)
    store = refreshed(RunStore([tmp_path]))
    version = store.version
    make_run(tmp_path, "second", {"run_directory": "/runs/a"}, started=1_700_000_300)
    refreshed(store)
    attempts = {key: (run.attempt, run.is_replaced) for key, run in store.runs.items()}
    assert attempts == {"first": (1, True), "second": (2, False), "other": (1, False), "foreign": (1, False)}
    assert {key for key, run in store.runs.items() if run.version > version} == {"first", "second"}


def test_scores_added_afterwards_change_nothing_else(tmp_path: Path):
    """A segment with nothing but a summary, as wandb writes it: it does not even name the run directory."""
    directory = tmp_path / "runs" / "a"
    rows = [{"a": 1.0, "_runtime": 40.0}, {"a": 2.0, "_runtime": 80.0}]
    more = [summary_record({"status": "diverged"}), environment_record(program="train")]
    make_run(tmp_path, "one", {"run_directory": str(directory)}, rows, 1, more=more, display_name="a name")
    scores = [summary_record({"test/nll": 2.5, "_runtime": 0.0}), environment_record(program="scores")]
    make_run(tmp_path, "one", {}, [], 0, started=1_700_000_500, more=scores)
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text(f"tracker: {{root: {tmp_path}}}")
    for root in (tmp_path, directory):
        run = only_run(root)
        assert len(run.segments) == 2
        assert (run.state, run.exit_code, run.info.name, run.directory) == (
            "diverged",
            1,
            "a name",
            str(directory),
        )
        assert (run.summary["test/nll"], run.summary["_runtime"], run.summary["a"]) == (2.5, 80.0, 2.0)
        assert run.environment == {"program": "train"}
        assert run.series("a")[1].tolist() == [1.0, 2.0]


def test_scores_that_repeat_the_summary_leave_the_label_of_a_job(tmp_path: Path):
    """As `evaluate` adds them offline: the run directory is all of the config, the summary is that of the run."""
    directory = str(tmp_path / "sweep" / "a")
    job = {"run_directory": directory, "overrides": {"seed": "1"}, "swept": {"seed": "1"}}
    config = {**job, "sweep": {"name": "sweep"}}
    done = {"status": "completed", "a": 1.0}
    make_run(tmp_path, "one", config, [{"a": 1.0}], more=[summary_record(done)])
    scores = [summary_record({**done, "test/nll": 2.5})]
    make_run(tmp_path, "one", {"run_directory": directory}, started=1_700_000_500, more=scores)
    run = only_run(tmp_path)
    assert len(run.segments) == 2
    assert run.trained is run.segments[0]
    assert run.trained.job.swept == {"seed": "1"}
    assert run.summary["test/nll"] == 2.5


def test_a_resumed_run_that_fails_at_once_has_failed(tmp_path: Path):
    make_run(tmp_path, "one", {}, [{"a": 1.0}], 130)
    make_run(tmp_path, "one", {}, [], 1, started=1_700_000_500, more=[summary_record({"status": "failed"})])
    assert only_run(tmp_path).state == "failed"


def test_runs_of_one_id_in_two_roots_are_two(tmp_path: Path):
    make_run(tmp_path / "a", "one", {"x": 1})
    make_run(tmp_path / "b", "one", {"x": 2})
    store = refreshed(RunStore([tmp_path]))
    assert set(store.runs) == {"one", "one~2"}


def test_tests_hidden_folders_and_packages_hold_no_runs_of_the_users(tmp_path: Path):
    """As in a clone with trained runs, whose tests hold other `.wandb` files."""
    for folder in [
        "tests/dashboard/fixtures",
        "node_modules/x",
        ".venv/lib",
        ".tox",
        "lib/site-packages",
        ".cache",
    ]:
        make_run(tmp_path / folder, f"foreign-{folder.replace('/', '-')}")
    for folder in ("outputs/a", "multirun/b", ".", "elsewhere"):
        make_run(tmp_path / folder, f"own-{Path(folder).name}")
    (tmp_path / "elsewhere" / "wandb").rename(tmp_path / "elsewhere" / ".wandb")  # W&B's other name for it
    assert set(refreshed(RunStore([tmp_path])).runs) == {"own-a", "own-b", "own-", "own-elsewhere"}
    named = tmp_path / "tests" / "dashboard" / "fixtures"
    assert set(refreshed(RunStore([named])).runs) == {"foreign-tests-dashboard-fixtures"}


def test_links_are_left_alone_and_a_removed_run_goes(tmp_path: Path):
    path = make_run(tmp_path / "real", "one")
    (tmp_path / "real" / "wandb" / "latest-run").symlink_to(path.parent)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (path.parent / "other.wandb").symlink_to(path)
    store = refreshed(RunStore([tmp_path]))
    assert len(store.runs["one"].segments) == 1
    version = store.version
    path.unlink()
    refreshed(store)
    assert not store.runs
    assert store.removed_since(version) == ["one"]


def test_an_unknown_format_is_reported_and_other_runs_are_read(tmp_path: Path):
    path = make_run(tmp_path, "strange")
    path.write_bytes(b"not a log")
    make_run(tmp_path, "one")
    store = RunStore([tmp_path])
    store.read_all()
    assert set(store.runs) == {"one"}
    [note] = store.notes
    assert note.startswith("1 file could not be read, such as run-strange.wandb: unknown format")


def test_what_is_no_file_is_left_out(tmp_path: Path):
    path = make_run(tmp_path, "one")
    path.unlink()
    os.mkfifo(path)
    make_run(tmp_path, "two")
    assert set(refreshed(RunStore([tmp_path])).runs) == {"two"}


def test_a_row_without_the_abscissa_is_left_out():
    history = History()
    for step, values in enumerate([{"a": 1.0, "x": 10.0}, {"a": 2.0}, {"x": 30.0}, {"a": 4.0, "x": 40.0}], 1):
        history.append(step, values)
    x, y = history.series("a", "x")
    np.testing.assert_array_equal(x, [10, 40])
    np.testing.assert_array_equal(y, [1, 4])
    np.testing.assert_array_equal(history.series("a", before=4)[0], [1, 2])


def test_all_series_are_in_the_order_of_their_rows():
    """Rows with other keys are stored apart."""
    history = History()
    for step in range(1, 7):
        history.append(step, {"x": 10.0 * step, "a": float(step)} | ({"b": 1.0} if step % 2 else {}))
    curves = history.all_series("x")
    np.testing.assert_array_equal(curves["a"], [[10, 20, 30, 40, 50, 60], [1, 2, 3, 4, 5, 6]])
    np.testing.assert_array_equal(curves["b"], [[10, 30, 50], [1, 1, 1]])


def test_the_means_of_a_long_curve_are_those_of_all_its_points():
    """The extremes of skewed values are far above them on average."""
    y = np.random.default_rng(0).lognormal(size=20_000)
    y[:500] = np.nan
    means, (_, drawn) = stretch_means(y), downsample(y, y)
    assert len(means) == len(drawn)
    assert np.nanmean(means) == pytest.approx(np.nanmean(y), rel=0.01)
    assert np.nanmean(drawn) > 1.5 * np.nanmean(y)
    assert np.isnan(means).sum() == np.isnan(drawn).sum()


@pytest.mark.parametrize("count", [10, 2_000, 2_001, 10_007, 100_000])
@pytest.mark.parametrize("broken", [0.0, 0.3, 1.0])
def test_a_long_curve_keeps_its_ends_its_extremes_and_its_gaps(count: int, broken: float):
    source = np.random.default_rng(count)
    x, y = np.arange(count, dtype=float), source.normal(size=count)
    y[source.random(count) < broken] = np.nan
    short_x, short_y = downsample(x, y)
    assert len(short_x) <= 2_000
    assert (np.diff(short_x) > 0).all()
    assert (short_x[0], short_x[-1]) == (0, count - 1)
    np.testing.assert_array_equal(y[short_x.astype(int)], short_y)
    assert np.isnan(short_y).any() == np.isnan(y).any()
    if broken < 1:
        assert np.nanmin(short_y) == np.nanmin(y)
        assert np.nanmax(short_y) == np.nanmax(y)


def test_metrics_of_earlier_versions_have_their_current_names(tmp_path: Path):
    make_run(tmp_path, "one", rows=[{"val/codes_used": 3.0}])
    run = only_run(tmp_path)
    assert (run.series("val/codebook_used")[1].tolist(), run.summary["val/codebook_used"]) == ([3.0], 3.0)


def test_numbers_beyond_a_float_and_a_start_that_no_calendar_has_cost_nothing_else(tmp_path: Path):
    huge = 10**400
    rows = [{"m": huge, "epoch": -huge, "v": [huge]}, {"m": 1.0}]
    make_run(tmp_path, "one", {"a": huge, "b": [huge]}, rows, started=10**13)
    run = only_run(tmp_path)
    assert run.series("m")[1].tolist() == [float("inf"), 1.0]
    assert run.config == {"a": "Infinity", "b": ["Infinity"]}
    assert (run.started, run.data_loss) == (0.0, "")


@pytest.mark.parametrize("text", ["[" * 2000 + "]" * 2000, "1" * 5000, "{", '{"a":' * 300 + "1" + "}" * 300])
def test_a_value_that_cannot_be_read_costs_no_other(tmp_path: Path, text: str):
    record = Record()
    record.config.update.add(key="bad", value_json=text)
    make_run(tmp_path, "one", {"good": 1}, more=[record.SerializeToString()])
    assert only_run(tmp_path).config == {"good": 1, "bad": "(not readable)"}


def test_an_error_in_one_file_affects_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path, "bad")
    good = make_run(tmp_path, "good", rows=[{"m": 1.0}], exit_code=None, started=1_700_000_500)
    usual = RunSegment.read

    def read(segment: RunSegment) -> list[dict[str, Any]]:
        if "bad" in segment.path.name:
            raise RuntimeError("unexpected")
        return usual(segment)

    monkeypatch.setattr(RunSegment, "read", read)
    store = refreshed(RunStore([tmp_path]))
    assert list(store.runs) == ["good"]
    assert store.notes == ["1 file could not be read, such as run-bad.wandb: RuntimeError: unexpected"]
    append(good, history_record(20, {"m": 2.0}))
    refreshed(store)
    assert store.runs["good"].series("m")[1].tolist() == [1.0, 2.0]


def test_a_replaced_file_is_read_from_its_beginning(tmp_path: Path):
    """A copy of the same run, then another run, then an empty file."""
    path = make_run(tmp_path, "old", {"x": 1}, [{"a": 1.0}, {"a": 2.0}])
    store = refreshed(RunStore([tmp_path]))
    version = store.version
    make_run(tmp_path / "copy", "old", {"x": 2}, [{"a": 5.0}]).replace(path)
    [run] = refreshed(store).runs.values()
    assert (run.config, run.series("a")[1].tolist(), store.removed_since(version)) == ({"x": 2}, [5.0], [])
    make_run(tmp_path / "elsewhere", "new", {"y": 2}).replace(path)
    refreshed(store)
    assert [(key, run.config) for key, run in store.runs.items()] == [("new", {"y": 2})]
    assert store.removed_since(version) == ["old"]
    path.write_bytes(b"")
    assert refreshed(store).runs == {}


def test_runs_in_a_folder_that_cannot_be_listed_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path, "one")
    store = refreshed(RunStore([tmp_path]))

    def scandir(folder: str) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files", folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(refreshed(store).runs) == ["one"]
    assert store._discovery.is_unreadable(tmp_path / "wandb")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "wandb")
    assert refreshed(store).runs == {}


@pytest.mark.parametrize("is_sweep", [False, True])
def test_every_run_directory_says_where_its_files_are_and_a_sweep_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sweep: bool
):
    """Runs of one day have folders of their own; the jobs of a sweep share one."""
    parent, read = tmp_path / "outputs" / "2026-01-01", []
    for number, name in enumerate(("a", "b")):
        directory, files = parent / name, tmp_path / ("shared" if is_sweep else f"of {name}")
        (directory / ".hydra").mkdir(parents=True)
        (directory / ".hydra" / "config.yaml").write_text(f"tracker: {{root: {files}}}")
        make_run(files, name, {"run_directory": str(directory)}, started=1_700_000_000 + number)
    if is_sweep:
        (parent / "sweep.json").write_text("{}")
    usual = TrackedRun.read
    monkeypatch.setattr(TrackedRun, "read", lambda directory: read.append(directory.path.name) or usual(directory))
    store = refreshed(refreshed(RunStore([tmp_path / "outputs"])))
    assert set(store.runs) == {"a", "b"}
    assert read == (["a"] if is_sweep else ["a", "b"])


def test_a_run_stays_itself_when_another_with_its_id_has_gone(tmp_path: Path):
    make_run(tmp_path / "a", "one", {"x": 1})
    make_run(tmp_path / "b", "one", {"x": 2}, exit_code=130)
    store = refreshed(RunStore([tmp_path]))
    gone, kept = (store.runs[key].segments[0].folder for key in ("one", "one~2"))
    shutil.rmtree(gone)
    assert list(refreshed(store).runs) == ["one~2"]
    make_run(kept.parent, "one", {"x": 2}, started=1_700_000_500)
    assert {key: len(run.segments) for key, run in refreshed(store).runs.items()} == {"one~2": 2}
    shutil.rmtree(kept)
    make_run(tmp_path / "b", "one", {"x": 2})
    assert list(refreshed(store).runs) == ["one"]


def make_job(root: Path, number: int, job: dict[str, str], *, kind: str = "overrides", **config: Any) -> None:
    stored = {"run_directory": f"/multirun/mine/{number}", kind: job, "swept": config.pop("swept", job), **config}
    make_run(
        root, f"r{number}", stored, started=1_700_000_000 + number, job_type="sweep", display_name=f"d{number}"
    )


def labels(store: RunStore) -> dict[str, str]:
    return {key: run.label for key, run in refreshed(store).runs.items()}


def test_a_job_has_the_label_of_what_differs_between_the_jobs_that_there_are_now(tmp_path: Path):
    make_job(tmp_path, 1, {"data": "digits", "model.latent_dim": "2"}, swept={"model.latent_dim": "2"})
    store = RunStore([tmp_path])
    assert labels(store) == {"r1": "latent_dim=2"}
    make_job(tmp_path, 2, {"data": "digits", "model.latent_dim": "4"}, swept={"model.latent_dim": "4"})
    assert labels(store) == {"r1": "latent_dim=2", "r2": "latent_dim=4"}
    cursor = store.version
    refreshed(store)
    assert store.version == cursor
    make_job(
        tmp_path, 3, {"data": "mnist", "model.latent_dim": "2"}, swept={"data": "mnist", "model.latent_dim": "2"}
    )
    assert labels(store) == {
        "r1": "data=digits latent_dim=2",
        "r2": "data=digits latent_dim=4",
        "r3": "data=mnist latent_dim=2",
    }
    assert all(run.version > cursor for run in store.runs.values())
    assert store.runs["r1"].overrides == {"data": ("data", "digits"), "model.latent_dim": ("latent_dim", "2")}


def test_jobs_of_an_older_version_are_labelled_by_the_same_rule(tmp_path: Path):
    """They have stored those of their overrides that were swept then, in a search all."""
    for number in (1, 2):
        own = {"data": "digits", "model.decoder.hidden_dims": f"[{number}]"}
        make_job(tmp_path, number, own, kind="swept")
    assert labels(RunStore([tmp_path])) == {f"r{n}": f"decoder.hidden_dims=[{n}]" for n in (1, 2)}


def test_a_run_that_is_no_job_or_that_the_user_has_named_has_its_own_name(tmp_path: Path):
    make_job(tmp_path, 1, {"seed": "0"}, tracker={"name": "mine"})
    make_job(tmp_path, 2, {"seed": "1"}, tracker={"name": None})
    make_run(tmp_path, "single", {"run_directory": "/outputs/a"}, display_name="digits-mlp_a")
    assert labels(RunStore([tmp_path])) == {"r1": "", "r2": "seed=1", "single": ""}
