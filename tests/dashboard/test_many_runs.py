"""Roots of 1,000 and 5,000 runs: memory, seconds until they are read, polls, the page."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import append, history_record, make_run, row_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

METRICS = [
    f"{split}/{name}" for split in ("train", "val") for name in ("loss", "elbo", "rate", "distortion", "nll")
]
BYTES = {1_000: 500_000_000, 5_000: 600_000_000}


def make_runs(root: Path, runs: int, epochs: int) -> None:
    """Runs with a config of a hundred keys and ten metrics; every fiftieth has the same curves."""
    source = np.random.default_rng(0)
    constant = {f"group{number}": {f"key{index}": index for index in range(10)} for number in range(10)}
    histories = []
    for _ in range(50):
        falling = 100 * np.exp(-np.arange(epochs) / 50)[:, None] + source.normal(size=(epochs, len(METRICS)))
        histories.append(row_records([dict(zip(METRICS, row.round(6).tolist(), strict=True)) for row in falling]))
    for number in range(runs):
        config = {
            **constant,
            "model": {"latent_dim": 2 ** (number % 6), "width": 100 * (number % 7)},
            "seed": number % 5,
        }
        path = make_run(
            root, f"run{number:04d}", config, more=histories[number % 50], started=1_700_000_000 + number,
            display_name=f"run {number}",
        )  # fmt: skip
        os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.fixture(scope="module", params=[1_000, 5_000])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, count: int) -> Path:
    root = tmp_path_factory.mktemp("many")
    make_runs(root, count, 200)
    return root


SCRIPT = """
import sys, time
import psutil
from pathlib import Path
start = time.perf_counter()
from vae_exp.dashboard.runs.cache import SegmentCache
from vae_exp.dashboard.runs.store import RunStore
from vae_exp.dashboard.web import api, app
store = RunStore([Path(sys.argv[1])], cache=SegmentCache(Path(sys.argv[2])))
while not store.runs:
    store.refresh()
first = time.perf_counter() - start
store.read_all()
seconds = time.perf_counter() - start
api.to_json(api.changes(store, 0, 500))
print(len(store.runs), first, seconds, time.process_time(), psutil.Process().memory_info().rss)
"""


def test_memory_and_a_second_start(root: Path, count: int, tmp_path: Path):
    command = [sys.executable, "-c", SCRIPT, str(root), str(tmp_path / "cache")]
    starts = []
    for name in ("first", "second"):
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs, *numbers = output.split()
        assert runs == str(count)
        starts.append([float(number) for number in numbers])
        shown, seconds, processor, memory = starts[-1]
        print(
            f"{name} start: {runs} runs, a run after {shown:.1f} s, all {seconds:.1f} s, {processor:.1f} s of "
            f"processor time, {memory / 2**20:.0f} MiB"
        )
        assert memory < BYTES[count]
    size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    print(f"the cache has {size / 2**20:.0f} MiB, the files {bytes_of(root) / 2**20:.0f} MiB")
    assert starts[1][2] < starts[0][2] / 4


def bytes_of(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*.wandb"))


def slowdown() -> float:
    """Wall time over CPU time of a short computation: what other processes take away from this one."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


FIRST_ROW = "() => document.querySelector('tr[data-run]') !== null"  # a locator waits up to half a second longer


def wait_until_all_is_read(page: Page, count: int) -> None:
    status = f"document.getElementById('status').innerText.startsWith('{count} runs')"
    page.wait_for_function(f"() => {status}", timeout=600_000)
    page.wait_for_function("() => !document.getElementById('status').innerText.includes('still')", timeout=600_000)


def measure_polls(root: Path, page: Page, address: str) -> list[float]:
    """The seconds of twenty polls while a further run grows, in their order."""
    growing = make_run(root, "growing", rows=[{"a": 1.0}], exit_code=None)
    wait_until_all_is_read(page, len(list(root.glob("wandb/*"))))
    with urlopen(f"{address}api/runs?since={10**12}") as answer:
        cursor = json.load(answer)["cursor"]
    polls = []
    for step in range(20, 40):
        append(growing, history_record(step, {"a": float(step)}))
        time.sleep(0.3)
        start = time.perf_counter()
        with urlopen(f"{address}api/runs?since={cursor}") as answer:
            cursor = json.load(answer)["cursor"]
        polls.append(time.perf_counter() - start)
    return sorted(polls)


def test_the_first_paint_and_the_polls_are_quick(root: Path, count: int, watched: Watched):
    page, busy = watched.page, [slowdown()]
    start = time.perf_counter()
    with dashboard([root]) as address:
        page.goto(address)
        page.wait_for_function(FIRST_ROW, polling="raf", timeout=20_000)
        painted = time.perf_counter() - start
        busy.append(slowdown())
        wait_until_all_is_read(page, count)
        read = time.perf_counter() - start
        busy.append(slowdown())
        polls = measure_polls(root, page, address)
        actions = {name: page.evaluate(ACTION, patch) for name, patch in ACTIONS.items()}
        scrolled = page.evaluate(SCROLL)
        page.goto(f"{address}#page=charts")
        start = time.perf_counter()
        page.wait_for_function(
            "() => document.querySelectorAll('.chart .scatterlayer .trace').length === 200", timeout=60_000
        )
        charts = time.perf_counter() - start
        frames = page.evaluate(PAN)
        fresh = page.context.new_page()
        start = time.perf_counter()
        fresh.goto(address)
        fresh.locator("tr[data-run]").nth(20).wait_for(timeout=20_000)
        second = time.perf_counter() - start
        wait_until_all_is_read(fresh, count + 1)
        complete = time.perf_counter() - start
        busy.append(slowdown())
    print(f"{count} runs: first rows {painted:.2f} s after the command, all read {read:.1f} s")
    print(f"a page when all is read: rows {second:.2f} s, all of them {complete:.2f} s")
    print(f"poll median {1000 * polls[10]:.0f} ms, worst {1000 * polls[-1]:.0f} ms")
    print(", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in actions.items()))
    print(f"a step of scrolling {scrolled:.0f} ms, charts {charts:.2f} s, panning {frames:.0f} ms a move")
    allowed = max(busy)  # 1 on an idle machine
    print(f"other processes slow this one down {allowed:.1f} times")
    assert painted < 2 * allowed  # with the start of Python
    assert read < 60 * allowed
    assert second < 2 * allowed
    assert polls[-1] < 0.1 * allowed
    assert max(actions.values()) < 200 * allowed
    assert scrolled < 100 * allowed
    assert frames < 100 * allowed


ACTIONS = {
    "sort by a metric": {"sort": "val/loss"},
    "sort by a key": {"sort": "model.width"},
    "filter": {"filter": "latent_dim>=8"},
    "no filter": {"filter": ""},
}

ACTION = """async (patch) => {
  const start = performance.now();
  setState(patch);
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""

SCROLL = """async () => {
  const scroll = document.querySelector('.scroll');
  const times = [];
  for (let step = 0; step < 40; step += 1) {
    const start = performance.now();
    scroll.scrollTop += 300;
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[20];
}"""

PAN = """async () => {
  const chart = document.querySelector('.chart');
  const times = [];
  for (let move = 1; move <= 10; move += 1) {
    const start = performance.now();
    await Plotly.relayout(chart, {'xaxis.range': [move, 100 + move]});
    await new Promise((done) => requestAnimationFrame(done));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[5];
}"""
