"""Ctrl-C at the launcher of a pool."""

import signal
from collections.abc import Iterator

import pytest

from vae_exp.engine.shutdown import GracefulShutdown

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_requests_are_counted_and_the_first_is_remembered():
    with GracefulShutdown(second_signal_kills=False) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert (stop.count, stop.signal_number) == (2, signal.SIGTERM)


def test_a_request_after_the_last_job_does_not_cut_the_end_short():
    with GracefulShutdown(second_signal_kills=False):
        signal.raise_signal(signal.SIGINT)
    for number in NUMBERS:
        signal.raise_signal(number)


def test_without_a_request_signals_are_handled_as_before():
    with GracefulShutdown(second_signal_kills=False):
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
