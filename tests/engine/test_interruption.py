import os
import signal
import subprocess
import sys
import threading

import pytest

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM]

TWO_SIGNALS = """
import os, signal, sys
from vae_exp.engine.shutdown import GracefulShutdown
first, second = int(sys.argv[1]), int(sys.argv[2])
with GracefulShutdown():
    os.kill(os.getpid(), first)
    print("survived the first", flush=True)
    os.kill(os.getpid(), second)
    print("survived the second", flush=True)
"""


@pytest.fixture(autouse=True)
def _own_handlers():
    """Whatever a test does to the handlers, the session gets its own back."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_raised_by_the_next_check(number: int, exit_code: int):
    with GracefulShutdown() as guard:
        guard.raise_if_requested()
        _send(number)
        with pytest.raises(Interrupted) as caught:
            guard.raise_if_requested()
    assert caught.value.signal_number == number
    assert caught.value.exit_code == exit_code


def test_check_raises_each_time_once_a_signal_has_come():
    with GracefulShutdown() as guard:
        _send(signal.SIGINT)
        for _ in range(2):
            with pytest.raises(Interrupted):
                guard.raise_if_requested()


def test_check_is_silent_without_a_signal():
    with GracefulShutdown() as guard:
        guard.raise_if_requested()


@pytest.mark.parametrize("send", [[], [signal.SIGINT]], ids=["without a signal", "after a signal"])
def test_the_handlers_are_restored_on_leaving(send: list[int]):
    mine = {number: (lambda *_: None) for number in SIGNALS}
    for number, handler in mine.items():
        signal.signal(number, handler)
    with GracefulShutdown():
        for number in send:
            _send(number)
    assert {number: signal.getsignal(number) for number in SIGNALS} == mine


def test_the_handlers_are_restored_when_the_block_raises():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    seen: dict[int, object] = {}

    def raise_inside() -> None:
        with GracefulShutdown():
            seen.update({number: signal.getsignal(number) for number in SIGNALS})
            raise KeyError

    with pytest.raises(KeyError):
        raise_inside()
    assert all(seen[number] != before[number] for number in SIGNALS)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_ends_the_process_the_systems_way(first: int, second: int):
    ended = subprocess.run(
        [sys.executable, "-c", TWO_SIGNALS, str(int(first)), str(int(second))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == -second, ended.stderr
    assert ended.stdout == "survived the first\n"


WITHOUT_STANDARD_ERROR = """
import os, signal, sys
from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.errors import Interrupted
os.close(2)
try:
    with GracefulShutdown() as guard:
        os.kill(os.getpid(), signal.SIGTERM)
        guard.raise_if_requested()
except BaseException as error:
    print(type(error).__name__)
"""


def test_a_signal_is_noted_even_when_the_terminal_is_gone():
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_STANDARD_ERROR], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    assert ended.stdout == "Interrupted\n"


def test_the_person_who_sent_a_signal_is_told_that_it_was_heard(capfd: pytest.CaptureFixture[str]):
    with GracefulShutdown():
        _send(signal.SIGINT)
    assert "press Ctrl-C again to stop at once" in capfd.readouterr().err


def test_outside_the_main_thread_nothing_is_changed():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    seen: list[object] = []

    def work() -> None:
        try:
            with GracefulShutdown() as guard:
                guard.raise_if_requested()
                seen.append({number: signal.getsignal(number) for number in SIGNALS})
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=30)
    assert seen == [before]
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
