import logging
import re
import sys
from io import StringIO

import pytest
from rich.console import Console

from vae_exp.engine import progress
from vae_exp.engine.progress import (
    LogProgress,
    RichProgress,
    StandardOutputHandler,
    epoch_line,
    evaluator_progress,
    progress_display,
)

METRICS = {"train/loss": 156.7310, "train/rate": 3.0, "val/loss": 155.25, "val/rate": 4.0}
BLOG_POST_LINE = "Epoch [3 / 10] average reconstruction error: 15673.100459"
LINE = "Epoch 3/10: train/loss 156.73, val/loss 155.25 nats per image"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 120 columns, whose screen is `terminal.file.getvalue()`."""
    monkeypatch.setenv("TERM", "xterm-256color")
    return Console(file=StringIO(), force_terminal=True, color_system=None, width=120)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of a clock that stands unless a test moves it."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def _screen(terminal: Console) -> str:
    assert isinstance(terminal.file, StringIO)
    return terminal.file.getvalue()


def test_the_line_of_an_epoch_is_in_nats_per_image(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    LogProgress(10).epoch(3, 15673.100459, METRICS)
    LogProgress(10, with_batch_sum=True).epoch(3, 15673.100459, METRICS)
    assert caplog.messages == [LINE, f"{BLOG_POST_LINE} (train/loss 156.73, val/loss 155.25 nats per image)"]
    assert epoch_line(3, 10, None, {"train/loss": 156.731}) == "Epoch 3/10: train/loss 156.73 nats per image"


def test_the_line_of_an_epoch_says_how_long_it_takes_where_that_is_minutes(
    caplog: pytest.LogCaptureFixture, clock: list[float]
):
    caplog.set_level(logging.INFO)
    log = LogProgress(500)
    for epoch in (101, 102, 499):  # resumed after 100 epochs
        clock[0] += 10
        log.epoch(epoch, 0.0, {"train/loss": 1.0})
    ends = [message.partition("nats per image")[2] for message in caplog.messages]
    assert ends == [", 66 min left", ", 66 min left", ""]


def test_plain_progress_shows_no_steps(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]):
    caplog.set_level(logging.INFO)
    plain = LogProgress(10)
    assert not plain.needs_metrics()
    plain.step(None)
    plain.close()
    assert caplog.messages == []
    assert capsys.readouterr().out == ""


def test_the_bar_counts_all_steps_of_the_run_and_is_drawn_with_metrics_a_few_times_a_second(
    terminal: Console, clock: list[float]
):
    bar = RichProgress(epochs=10, steps_per_epoch=4, done=13, console=terminal)
    before = _screen(terminal)
    assert bar.needs_metrics()
    bar.step(None)
    bar.step(None)
    assert _screen(terminal) == before
    bar.step({"loss": 101.5, "rate": 3.25, "distortion": 98.25})
    assert "16/40" in _screen(terminal)
    assert "loss 101.50  rate 3.25  distortion 98.25" in _screen(terminal)
    assert not bar.needs_metrics()
    clock[0] += 1.0
    assert bar.needs_metrics()
    for _ in range(24):
        bar.step(None)
    bar.close()
    assert "40/40" in _screen(terminal)


@pytest.fixture
def logs_to_standard_output():
    logger, handler = logging.getLogger("vae_exp.engine.progress"), StandardOutputHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.usefixtures("logs_to_standard_output")
def test_log_lines_are_shown_above_the_bar_and_follow_standard_output(
    terminal: Console, monkeypatch: pytest.MonkeyPatch
):
    bar = RichProgress(epochs=10, steps_per_epoch=4, console=terminal)
    bar.epoch(3, 15673.100459, METRICS)
    bar.step({"loss": 1.0})
    bar.close()
    assert f"{LINE}\n" in _screen(terminal)
    assert _screen(terminal).rindex(LINE) < _screen(terminal).rindex("loss 1.00")
    stdout = StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    LogProgress(10).epoch(3, 15673.100459, METRICS)
    assert stdout.getvalue() == f"{LINE}\n"


@pytest.mark.parametrize(("is_terminal", "kind"), [(False, LogProgress), (True, RichProgress)])
def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, kind: type):
    screen = StringIO()
    screen.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", screen)
    display = progress_display(1, 1)
    display.close()
    assert type(display) is kind


def _evaluate(name: str, seconds: float, clock: list[float], console: Console | None = None) -> None:
    """Two passes in a hundred parts each; the first takes no time."""
    with evaluator_progress(name, console) as evaluation:
        for part in range(1, 101):
            evaluation(part / 100)
        for part in range(1, 101):
            clock[0] += seconds / 100
            evaluation(part / 100)


def test_a_long_evaluator_says_once_how_long_and_what_is_quick_and_has_a_bar_on_a_terminal(
    clock: list[float], terminal: Console, caplog
):
    caplog.set_level(logging.INFO)
    _evaluate("nll", 135, clock)
    first, *lines = caplog.messages
    assert first == "evaluator.nll takes about 2 min more; evaluator=[elbo] alone takes seconds."
    assert len(lines) == 4  # one every 30 s
    for line in lines:
        [(done, left)] = re.findall(r"^evaluator\.nll: (\d+) % done, about (\d+) s left\.$", line)
        assert int(left) == pytest.approx(1.35 * (100 - int(done)), abs=0.51)
    caplog.clear()
    _evaluate("nll", 135, clock, terminal)
    assert caplog.messages == [first]
    assert "nll" in _screen(terminal)
    assert " 50%" in _screen(terminal)


@pytest.mark.parametrize(("name", "seconds", "lines"), [("nll", 15, 0), ("elbo", 30, 1)])
def test_a_quick_evaluator_says_little(name: str, seconds: float, lines: int, clock: list[float], caplog):
    caplog.set_level(logging.INFO)
    _evaluate(name, seconds, clock)
    assert len(caplog.messages) == lines
    assert "evaluator=[elbo]" not in caplog.text


def test_a_slow_first_part_gives_no_time_left(clock: list[float], caplog):
    """A pace is known from the second report on."""
    caplog.set_level(logging.INFO)
    with evaluator_progress("nll") as evaluation:
        for share in (0.25, 0.5, 0.75, 1.0):
            clock[0] += 40
            evaluation(share)
    assert caplog.messages == [
        "evaluator.nll takes about 80 s more; evaluator=[elbo] alone takes seconds.",
        "evaluator.nll: 75 % done, about 40 s left.",
        "evaluator.nll: 100 % done, about 0 s left.",
    ]
