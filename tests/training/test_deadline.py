"""A process that was asked to stop ends, even while it computes something that no Python handler can interrupt."""

import signal
import subprocess
import sys

import pytest

# One call into C that takes minutes, and lets other threads run meanwhile: as a backward pass does.
PROGRAM = """
import hashlib, contextlib
from fledge.training import deadline
from fledge.training.divergence import StopSignals
deadline.PATIENCE = {patience}
with StopSignals() as signals, {around}:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {work})
signals.asked()
print("received", signals.received)
"""
ENDLESS, SHORT = 1 << 30, 1 << 21


def started(patience: float, work: int = ENDLESS, around: str = "contextlib.nullcontext()") -> "subprocess.Popen[str]":
    program = PROGRAM.format(patience=patience, work=work, around=around)
    process = subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_takes_too_long_is_given_up(number: signal.Signals) -> None:
    process = started(patience=0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "this step takes too long" in said


def test_the_second_signal_ends_it_at_once() -> None:
    process = started(patience=600)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # whichever the system delivers last


def test_what_is_done_in_time_is_not_disturbed() -> None:
    process = started(patience=600, work=SHORT)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, f"received {signal.SIGTERM:d}\n")


def test_what_has_begun_to_be_saved_may_take_its_time() -> None:
    process = started(patience=0, work=SHORT, around="signals.deadline.lifted()")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, f"received {signal.SIGTERM:d}\n")
