"""How a task of a command ends."""

import os
import signal

import pytest

from vae_exp.cli.hydra_app import one_message_per_error
from vae_exp.errors import describe_error


def test_sigterm_leaves_the_block_as_an_error_does():
    cleanups = []
    with pytest.raises(SystemExit) as caught, one_message_per_error():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleanups.append("done")
    assert (caught.value.code, cleanups) == (143, ["done"])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_error_of_a_file_has_its_path_the_reason_and_a_remedy():
    full = OSError(28, "No space left on device", "codes.npz")
    assert describe_error(full) == "codes.npz: No space left on device; free some space there."
    assert describe_error(OSError(2, "No such file or directory", "a")) == "a: No such file or directory."
    assert describe_error(OSError("no answer")) == "no answer"
