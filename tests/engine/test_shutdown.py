import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Restore the handlers of the session; one in the background may ignore SIGINT."""
    before = handlers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def run(script: str, *arguments: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, map(int, arguments))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_raised_by_every_later_check(number: int, exit_code: int, capfd):
    with GracefulShutdown() as shutdown:
        shutdown.raise_if_requested()
        signal.raise_signal(number)
        for _ in range(2):
            with pytest.raises(Interrupted) as caught:
                shutdown.raise_if_requested()
    assert (caught.value.signal_number, caught.value.exit_code) == (number, exit_code)
    assert "a second signal stops at once" in capfd.readouterr().err


@pytest.mark.parametrize("second_signal_kills", [True, False])
@pytest.mark.parametrize("send", [[], [signal.SIGINT]], ids=["without a signal", "after a signal"])
def test_the_handlers_are_restored_on_leaving(send: list[int], second_signal_kills: bool):
    """But a launcher of jobs ignores signals after its block once it has had one."""
    mine = {number: (lambda *_: None) for number in SIGNALS}
    for number, handler in mine.items():
        signal.signal(number, handler)
    with suppress(KeyError), GracefulShutdown(second_signal_kills=second_signal_kills):
        assert handlers() != mine
        for number in send:
            signal.raise_signal(number)
        raise KeyError
    assert (handlers() == mine) is (second_signal_kills or not send)


TWO_SIGNALS = """
import os, sys
from vae_exp.engine.shutdown import GracefulShutdown
with GracefulShutdown():
    os.kill(os.getpid(), int(sys.argv[1]))
    print("survived the first", flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
    print("survived the second", flush=True)
"""


@pytest.mark.parametrize(("first", "second"), [SIGNALS, SIGNALS[::-1]])
def test_a_second_signal_kills_a_run(first: int, second: int):
    ended = run(TWO_SIGNALS, first, second)
    assert ended.returncode == -second, ended.stderr
    assert ended.stdout == "survived the first\n"


WITHOUT_STANDARD_ERROR = """
import os, signal
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted
os.close(2)
try:
    with GracefulShutdown() as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
        shutdown.raise_if_requested()
except BaseException as error:
    print(type(error).__name__)
"""


def test_a_signal_is_noted_without_a_terminal():
    assert run(WITHOUT_STANDARD_ERROR).stdout == "Interrupted\n"


def test_outside_the_main_thread_nothing_is_changed():
    before, seen = handlers(), []

    def work() -> None:
        with GracefulShutdown() as shutdown:
            shutdown.raise_if_requested()
            seen.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=30)
    assert seen == [before]
    assert handlers() == before


def test_a_launcher_counts_signals_and_ignores_those_after_its_block():
    with GracefulShutdown(second_signal_kills=False) as shutdown:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert (shutdown.count, shutdown.signal_number) == (2, signal.SIGTERM)
    for number in SIGNALS:
        signal.raise_signal(number)


@pytest.mark.parametrize("swallow", [False, True])
def test_work_without_steps_ends_where_the_signal_arrives(swallow: bool):
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except Interrupted as error:
            if swallow:  # as a library does that takes every exception for a damaged file
                raise ValueError("damaged") from error
            raise

    with GracefulShutdown() as shutdown:
        with shutdown.at_once():
            pass
        with pytest.raises(Interrupted), shutdown.at_once():
            work()
    with GracefulShutdown() as shutdown:
        with shutdown.at_once():
            pass
        signal.raise_signal(signal.SIGINT)  # noted, as before
