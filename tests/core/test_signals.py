"""Stop requests and their deadline, and the handlers that hold for a block, each in a process of its own."""

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.signals import (
    Sigterm,
    StopRequested,
    StopSignals,
    default_signals,
    exit_with_parent,
    handlers_restored,
    sigint_blocked,
    signal_number,
    sigterm_as_ctrl_c,
)

# One call into C that takes minutes and releases the GIL, as a backward pass does.
PROGRAM = """
import hashlib, contextlib
from fledge.core import signals as module
from fledge.core.distributed import SINGLE_PROCESS
module.STOP_SECONDS = {seconds}
with module.StopSignals(SINGLE_PROCESS) as signals, {around}:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", {work})
signals.requested()
print("received", signals.received)
"""
ENDLESS, SHORT = 1 << 30, 1 << 21


def started(seconds: float, work: int = ENDLESS, around: str = "contextlib.nullcontext()") -> "subprocess.Popen[str]":
    program = PROGRAM.format(seconds=seconds, work=work, around=around)
    process = subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_step_is_abandoned_after_the_deadline(number: signal.Signals) -> None:
    process = started(seconds=0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "this step takes too long" in stderr


def test_second_signal_ends_a_long_step_at_once() -> None:
    process = started(seconds=600)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)  # whichever the system delivers last


def test_step_that_ends_in_time_is_not_disturbed() -> None:
    process = started(seconds=600, work=SHORT)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, f"received {signal.SIGTERM:d}\n")


class Ranks(World):
    """What other ranks send is the larger."""

    def __init__(self, rank: int, others: int) -> None:
        super().__init__(rank, size=2)
        object.__setattr__(self, "others", others)

    def all_reduce_max(self, number: int) -> int:
        return max(number, self.others)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rank", "flag", "others", "expected"),
    [
        (0, False, 0, (None, False)),
        (0, True, 0, (None, True)),  # the main process says so
        (1, False, 1, (None, True)),  # and the others hear it
        (1, True, 0, (None, False)),  # nobody else is asked
        (0, True, 2 * signal.SIGTERM, (signal.SIGTERM, False)),  # a stop saves, too
        (1, False, 2 * signal.SIGINT + 1, (signal.SIGINT, True)),
    ],
)
def test_flag_of_the_main_process_reaches_all_ranks(
    rank: int, flag: bool, others: int, expected: tuple[int | None, bool]
) -> None:
    signals = StopSignals(Ranks(rank, others), lambda: flag)
    assert signals.requested() == (expected[0] is not None)
    assert (signals.received, signals.flag) == expected


def test_no_deadline_while_suspended() -> None:
    process = started(seconds=0, work=SHORT, around="signals.deadline.suspended()")
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (0, f"received {signal.SIGTERM:d}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_process(number: int) -> None:
    code = f"""
import os
from fledge.core.distributed import SINGLE_PROCESS
from fledge.core.signals import StopSignals
with StopSignals(SINGLE_PROCESS):
    os.kill(os.getpid(), {number})
    print("after the first", flush=True)
    os.kill(os.getpid(), {number})
    print("after the second", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 128 + number
    assert ended.stdout == "after the first\n"


def test_stop_request_interrupts_an_iteration() -> None:
    with StopSignals(SINGLE_PROCESS) as signals:
        items = signals.interruptible(range(9))
        assert next(items) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            next(items)


@pytest.mark.parametrize(
    "block", [lambda: StopSignals(SINGLE_PROCESS), sigterm_as_ctrl_c, default_signals, handlers_restored]
)
def test_handlers_are_restored_after_the_block(block: object) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with block():  # type: ignore[operator]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_sigterm_is_raised_as_ctrl_c() -> None:
    with sigterm_as_ctrl_c(), pytest.raises(KeyboardInterrupt) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal_number(stop.value) == signal.SIGTERM
    assert signal_number(KeyboardInterrupt()) == signal.SIGINT
    assert isinstance(stop.value, Sigterm)


def test_default_signals_run_no_handler() -> None:
    with default_signals():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_blocks_do_nothing_outside_the_main_thread() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with sigterm_as_ctrl_c(), default_signals():
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures


def test_child_started_with_sigint_blocked_survives_it() -> None:
    with sigint_blocked():
        child = subprocess.Popen(["sleep", "60"])
    child.send_signal(signal.SIGINT)
    child.terminate()
    assert child.wait(60) == -signal.SIGTERM


DEFERRED = """
import os, signal, sys, threading, time
from fledge.core.signals import sigint_blocked, sigterm_as_ctrl_c

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # which receives what the main thread blocks
try:
    with sigterm_as_ctrl_c(), sigint_blocked():
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.2)
        print("block ended", flush=True)
except KeyboardInterrupt as stop:
    print(type(stop).__name__)
"""


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Sigterm")])
def test_signal_to_another_thread_waits_for_the_end_of_the_block(number: int, raised: str) -> None:
    """Else a process whose start it interrupts prints a traceback."""
    words = [sys.executable, "-c", DEFERRED, str(int(number))]
    assert subprocess.run(words, capture_output=True, text=True).stdout.splitlines() == ["block ended", raised]


def sleep_until_parent_exits(pipe: "multiprocessing.connection.Connection") -> None:
    exit_with_parent(pipe)
    time.sleep(60)


def test_child_exits_with_its_parent() -> None:
    context = multiprocessing.get_context("spawn")
    read_end, write_end = context.Pipe(duplex=False)
    child = context.Process(target=sleep_until_parent_exits, args=(read_end,))
    child.start()
    write_end.close()  # as the system does when the parent dies
    child.join(60)
    assert child.exitcode == 1
