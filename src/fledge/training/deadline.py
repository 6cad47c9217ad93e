"""Asked to stop, a process ends in time, whatever it is doing.

Python's own handlers wait until the current instruction is over, and a backward pass is one instruction that may take
minutes. So the system tells a thread here, too. What it cuts off is as good as killed, which every checkpoint survives:
the run goes on from the one before.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import Self

STOP_SECONDS = 8.0  # seconds from the first signal until the step at work is given up
POLL_SECONDS = 0.2  # seconds
SHOW_CURSOR = "\x1b[?25h"
TOO_LONG = "this step takes too long: it is given up, and the checkpoint before it is there to go on from\n"


class Deadline:
    """While this is entered: the first of `signals` starts the clock, and the second ends the process at once."""

    def __init__(self, signals: tuple[signal.Signals, ...]) -> None:
        self._signals = signals
        self._saving = False

    def __enter__(self) -> Self:
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        self._before = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._mouth)
        self._thread.join()
        os.close(self._ear)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """What has begun to be saved may be saved, however long that takes."""
        before, self._saving = self._saving, True
        try:
            yield
        finally:
            self._saving = before

    def _watch(self) -> None:
        with contextlib.suppress(EOFError):  # nobody has asked to stop, or it was done in time
            number = self._heard()
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end or self._saving:
                if select.select([self._ear], [], [], POLL_SECONDS)[0]:
                    end_now(self._heard())
            end_now(number, TOO_LONG)

    def _heard(self) -> int:
        """The next of the signals; of others, and of none, it waits on."""
        while heard := os.read(self._ear, 1):
            if heard[0] in self._signals:
                return heard[0]
        raise EOFError


def end_now(number: int, words: str = "") -> None:
    tell(SHOW_CURSOR + words)
    os._exit(128 + number)


def tell(text: str) -> None:
    """Straight to the terminal: a handler may run in the middle of anything, a print included."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
