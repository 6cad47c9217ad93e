"""Signals: stop requests during training, their deadline, and what child processes do about them.

    StopSignals        first SIGINT or SIGTERM: stop after this step; second: exit at once
    Deadline           a stop request that is not met within STOP_SECONDS ends the process
    on_stop_signal     a server: the first stop signal ends it in order, the second at once
    sigterm_as_ctrl_c, default_signals, handlers_restored, sigint_blocked, signals_deferred: within a block
    exit_with_parent   a child process does not outlive its parent
    in_thread          one call into a library that takes minutes: whoever waits for it hears Ctrl-C

This module does not import torch.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from fledge.core.distributed import World

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_SECONDS = 8.0  # from the first signal until the current step is abandoned
POLL_SECONDS = 0.2
SHOW_CURSOR = "\x1b[?25h"
ABANDONED = "this step takes too long and is abandoned: the run can be resumed from its last checkpoint\n"


class Sigterm(KeyboardInterrupt):
    """SIGTERM outside training: handled like Ctrl-C, with temporary files removed on the way out."""


def signal_number(stop: KeyboardInterrupt) -> int:
    """The signal that raised it."""
    return signal.SIGTERM if isinstance(stop, Sigterm) else signal.SIGINT


class StopRequested(Exception):
    """Raised out of an evaluation or a sample when a stop signal has come: it is repeated after resuming."""


class StopSignals:
    """While entered, the first SIGINT or SIGTERM is a stop request with a deadline; the second ends the process.

    A request to one rank becomes one to all ranks, in the same step, so that none waits in a collective for another.
    `flag`: asked on the main process, and known to all ranks without a collective of its own.
    """

    def __init__(self, world: "World", flag: Callable[[], bool] = lambda: False) -> None:
        self.received: int | None = None  # by any rank, as of the last `requested()`
        self.flag = False  # as of the last `requested()`
        self._ask_flag = flag
        self.deadline = Deadline()
        self._own: int | None = None
        self._world = world

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        self.deadline.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.deadline.__exit__()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether any rank has received a stop signal. A collective: all ranks must call it together."""
        flag = self._world.is_main and self._ask_flag()
        found = self._world.all_reduce_max(2 * (self._own or 0) + flag)  # a signal counts for more than the flag
        self.received, self.flag = found // 2 or None, bool(found % 2)
        return self.received is not None

    def interruptible(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; raises `StopRequested` between two of them."""
        for item in items:
            if self.requested():
                raise StopRequested
            yield item

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._own is not None:
            _exit_now(number)
        self._own = number
        if self._world.is_main:
            _write_stderr("\nstopping after this step, and saving; press Ctrl-C again to stop immediately\n")


class Deadline:
    """While entered: STOP_SECONDS after the first stop signal, or at the second, the process exits.

    Python runs its own handlers only between bytecode instructions, and a backward pass is one instruction that may
    take minutes. So the kernel also writes each signal to a pipe that a thread reads. An abandoned step equals a
    SIGKILL: the last checkpoint stays intact.
    """

    _suspended = False

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """No deadline for the block: a save that has begun may take as long as it needs."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def _watch(self) -> None:
        with contextlib.suppress(EOFError):  # the pipe was closed: training ended in time
            number = self._next_signal()
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end or self._suspended:
                if select.select([self._reader], [], [], POLL_SECONDS)[0]:
                    _exit_now(self._next_signal())
            _exit_now(number, ABANDONED)

    def _next_signal(self) -> int:
        """Wait for the next stop signal; other signals are ignored."""
        while received := os.read(self._reader, 1):
            if received[0] in STOP_SIGNALS:
                return received[0]
        raise EOFError


def _exit_now(number: int, message: str = "") -> None:
    _write_stderr(SHOW_CURSOR + message)
    os._exit(128 + number)


def _write_stderr(text: str) -> None:
    """Unbuffered, because a handler may interrupt a print."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises `Sigterm` in the block, so that `finally` clauses run. No effect outside the main thread."""

    def stop(*_: object) -> None:
        raise Sigterm

    with _handled_by(stop, signal.SIGTERM):
        yield


@contextlib.contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM calls `stop` and is raised after the block; the second exits at once."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if received:
            _exit_now(number)
        received.append(number)
        stop()

    with _handled_by(receive, *STOP_SIGNALS):
        yield
    if received:
        raise Sigterm if received[0] == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the process at once: torch's rendezvous may wait for an hour and run no handler."""
    with _handled_by(signal.SIG_DFL, *STOP_SIGNALS):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """These signals, in the block. No effect outside the main thread."""
    with handlers_restored():
        if _in_main_thread():
            for number in numbers:
                signal.signal(number, handler)
        yield


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    """Whatever a library (Ray, for one) does to the handlers of SIGINT and SIGTERM in the block is undone."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: installed by C code
                    signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def sigint_blocked() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which a terminal sends to all of them: the parent handles it, when
    they have started."""
    from multiprocessing import resource_tracker  # here, as it takes a tenth of the time of `fledge --help`

    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and ends our block by that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with signals_deferred():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Stop signals are handled after the block. The mask of the main thread alone does not do that: any other thread
    receives them, and Python runs the handler in the main thread."""
    received: list[int] = []
    try:
        with _handled_by(lambda number, _: received.append(number), *STOP_SIGNALS):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def exit_with_parent(pipe: "Connection") -> None:
    """In a child: exit when the parent's end of `pipe` closes, however the parent ended."""

    def watch() -> None:
        pipe.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Begin work() in a thread that ends with the process. Python runs no handler of a signal during one long call into
    a library, but it does while it waits for `.result()`."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by `.result()`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
