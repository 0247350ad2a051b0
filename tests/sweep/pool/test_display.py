import io

from rich.console import Console

from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import Job, JobOutcome
from vae_exp.sweep.pool.slots import Slot


def test_elsewhere_than_on_a_terminal_every_job_is_a_line_and_the_time_left_follows():
    out = io.StringIO()
    with PoolDisplay(4, 2, Console(file=out, width=200)) as display:
        assert not display.is_live
        display.started([Job(0, [])], Slot(0, None, 1))
        metrics = {"val/elbo": -95.5, "best/val/elbo": -95.25}
        display.ended(Job(0, [], outcome=JobOutcome.DONE, status="completed", seconds=60.0, metrics=metrics))
        display.ended(Job(1, [], outcome=JobOutcome.FAILED, status="diverged", reason="it diverged\nmore"))
    lines = out.getvalue().splitlines()
    assert lines[0] == "[1/4]  completed  job 0  60.0 s  val/elbo -95.250  (90 s left)"
    assert lines[1] == "[2/4]  diverged  job 1  it diverged  (60 s left)"


def test_jobs_of_an_earlier_command_count():
    out = io.StringIO()
    with PoolDisplay(10, 2, Console(file=out, width=200), done=6) as display:
        display.ended(Job(6, [], outcome=JobOutcome.DONE, status="completed", seconds=60.0))
    assert out.getvalue() == "[ 7/10]  completed  job 6  60.0 s  (90 s left)\n"


def test_a_terminal_has_a_live_table_of_what_runs():
    out = io.StringIO()
    with PoolDisplay(3, 2, Console(file=out, force_terminal=True, width=120)) as display:
        assert display.is_live
        running = Job(7, [], epochs=20, seconds=65.0, metrics={"epoch": 5, "val/elbo": -100.5})
        display.started([running], Slot(1, "GPU-1", 1))
        display.refresh()
    text = out.getvalue()
    for text_part in ("job 7", "on GPU GPU-1", "65 s", "5/20", "val/elbo -100.500", "1 running, 2 waiting"):
        assert text_part in text
