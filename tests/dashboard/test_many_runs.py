"""A thousand runs: memory, polls, first paint."""

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from tests.dashboard.browsers import Watched, dashboard
from tests.dashboard.records import append, history_record, make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METRICS = [
    f"{split}/{name}" for split in ("train", "val") for name in ("loss", "elbo", "rate", "distortion", "nll")
]


def make_runs(root: Path, runs: int, epochs: int) -> None:
    """Runs with a config of a hundred keys and ten metrics."""
    source = np.random.default_rng(0)
    constant = {f"group{number}": {f"key{index}": index for index in range(10)} for number in range(10)}
    for number in range(runs):
        falling = 100 * np.exp(-np.arange(epochs) / 50)[:, None] + source.normal(size=(epochs, len(METRICS)))
        rows = [dict(zip(METRICS, row.round(6).tolist(), strict=True)) for row in falling]
        config = {
            **constant,
            "model": {"latent_dim": 2 ** (number % 6), "width": 100 * (number % 7)},
            "seed": number % 5,
        }
        make_run(
            root, f"run{number:04d}", config, rows, started=1_700_000_000 + number, display_name=f"run {number}"
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("thousand")
    make_runs(root, 1_000, 200)
    return root


def test_a_thousand_runs_take_less_than_500_megabytes(root: Path):
    script = (
        "import sys, time, psutil; from pathlib import Path; from vae_exp.dashboard.runs.store import RunStore\n"
        "import vae_exp.dashboard.web.server\n"
        "start = time.perf_counter(); store = RunStore([Path(sys.argv[1])]); store.read_all()\n"
        "print(len(store.runs), time.perf_counter() - start, psutil.Process().memory_info().rss)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(root)], check=True, capture_output=True, text=True
    ).stdout
    count, seconds, memory = output.split()
    print(f"{count} runs, {float(seconds):.1f} s, {int(memory) / 2**20:.0f} MiB")
    assert count == "1000"
    assert int(memory) < 500_000_000


def slowdown() -> float:
    """Wall time over CPU time of a short computation: what other processes take away from this one."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.2:
        pass
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


def test_the_first_paint_and_the_polls_are_quick(root: Path, watched: Watched):
    busy = [slowdown()]
    with dashboard([root]) as address:
        start = time.perf_counter()
        watched.page.goto(address)
        watched.page.locator("tr[data-run]").first.wait_for(timeout=20_000)
        painted = time.perf_counter() - start
        busy.append(slowdown())
        watched.page.wait_for_function(
            "() => document.getElementById('status').innerText.startsWith('1000 runs')", timeout=300_000
        )
        watched.page.wait_for_function(
            "() => !document.getElementById('status').innerText.includes('still')", timeout=300_000
        )
        read = time.perf_counter() - start
        growing = make_run(root, "growing", rows=[{"a": 1.0}], exit_code=None)
        watched.page.wait_for_timeout(3_000)
        with urlopen(f"{address}api/runs") as answer:
            cursor = json.load(answer)["cursor"]
        polls = []
        for step in range(20, 40):
            append(growing, history_record(step, {"a": float(step)}))
            time.sleep(0.3)
            start = time.perf_counter()
            with urlopen(f"{address}api/runs?since={cursor}") as answer:
                cursor = json.load(answer)["cursor"]
            polls.append(time.perf_counter() - start)
        start = time.perf_counter()
        watched.page.goto(f"{address}#page=charts")
        watched.page.wait_for_function(
            "() => document.querySelectorAll('.chart .scatterlayer .trace').length === 200", timeout=20_000
        )
        charts = time.perf_counter() - start
        fresh = watched.page.context.new_page()
        start = time.perf_counter()
        fresh.goto(address)
        fresh.locator("tr[data-run]").nth(199).wait_for(timeout=20_000)
        second = time.perf_counter() - start
        frames = watched.page.evaluate(PAN)
        busy.append(slowdown())
    polls.sort()
    print(f"first rows {painted:.2f} s, all read {read:.1f} s, a page when all is read {second:.2f} s")
    print(f"poll median {1000 * polls[10]:.0f} ms, worst {1000 * polls[-1]:.0f} ms")
    print(f"charts of 50 runs {charts:.2f} s, panning {frames:.0f} ms a move")
    allowed = max(busy)  # 1 on an idle machine
    print(f"other processes slow this one down {allowed:.1f} times")
    assert painted < 2 * allowed
    assert second < 2 * allowed
    assert polls[-1] < 0.1 * allowed
    assert frames < 100 * allowed


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
