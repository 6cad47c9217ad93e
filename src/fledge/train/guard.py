"""What may go wrong between steps: a request to stop, and numbers that are none."""

import math
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Self, TypeVar

from fledge.base.errors import UserError
from fledge.train.deadline import Deadline, end_now, tell
from fledge.train.step import StepResult

T = TypeVar("T")


class StopAsked(Exception):
    """Raised by long work between steps when a signal has come: what it was doing will be done again."""


class StopSignals:
    """While this is entered, the first SIGINT or SIGTERM is a request, with a deadline; the second ends the process."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.deadline = Deadline(self.HANDLED)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in self.HANDLED}
        self.deadline.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.deadline.__exit__()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attentive(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, for as long as nobody asks to stop."""
        for item in items:
            if self.received is not None:
                raise StopAsked
            yield item

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            end_now(number)
        self.received = number
        tell("\nstopping after this step, and saving; again to stop at once\n")


def refuse_nonfinite(result: StepResult) -> None:
    """A loss that is no number never comes back: stop, before it is saved as anything."""
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise UserError(
            f"the loss became {result.loss} at step {result.step} (gradient {result.grad_norm}, rate {result.lr:g})",
            f"the learning rate is probably too high: try --optim.lr {result.lr / 3:.2g}, or a longer warm-up",
        )
