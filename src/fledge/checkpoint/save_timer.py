"""When a checkpoint is due by time. It changes how much work a killed process loses, and no result of the training."""

import time
from collections.abc import Callable

SAVE_SHARE = 0.03  # the largest part of the time that may go to saves by time


class SaveTimer:
    """A save is due when `seconds` have passed since the last one; 0: never.

    The interval is longer where a save takes more than SAVE_SHARE of `seconds`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._begun = clock()
        self.last_seconds = 0.0  # that the last save took
        self._interval = seconds / 2  # the first one is early: starting the process took time as well

    def is_due(self, step_seconds: float) -> bool:
        """Whether the interval would end before another step of `step_seconds` does."""
        return bool(self.seconds) and self._clock() + step_seconds >= self._begun + self._interval

    def restart(self) -> None:
        """A save begins, of a checkpoint that training can continue from."""
        self._begun, self._interval = self._clock(), max(self.seconds, self._interval)

    def saved_in(self, seconds: float) -> None:
        """The last save is on disk, after `seconds`."""
        self.last_seconds = seconds
        self._interval = max(self.seconds, seconds / SAVE_SHARE)
