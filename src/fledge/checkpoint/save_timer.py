"""When a checkpoint is due by time. Nothing that the clock decides here enters the numbers of a run."""

import time
from collections.abc import Callable

SAVE_SHARE = 0.03  # of the time, at most, for saves that the clock asks for


class SaveTimer:
    """Due so that at most `seconds` of work lie between two saves; 0: never.

    A save that took longer than SAVE_SHARE of that makes the interval longer.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._begun = clock()
        self._interval = seconds / 2  # the first comes early: starting the process has taken time, too

    def is_due(self, step_seconds: float) -> bool:
        """Whether the interval would be over before the next step is, if that takes `step_seconds`."""
        return bool(self.seconds) and self._clock() + step_seconds >= self._begun + self._interval

    def restart(self) -> None:
        """A checkpoint that training can continue from is being saved."""
        self._begun, self._interval = self._clock(), max(self.seconds, self._interval)

    def took(self, seconds: float) -> None:
        """The last save is on disk."""
        self._interval = max(self.seconds, seconds / SAVE_SHARE)
