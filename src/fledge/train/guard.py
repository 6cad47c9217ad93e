"""What may go wrong between steps: a request to stop, and numbers that are none."""

import contextlib
import math
import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Self, TypeVar

from fledge.base.company import ALONE, Company
from fledge.base.errors import UserError
from fledge.train.step import StepResult

T = TypeVar("T")
SHOW_CURSOR = "\x1b[?25h"


class StopAsked(Exception):
    """Raised by long work between steps when a signal has come: what it was doing will be done again."""


class StopSignals:
    """While this is entered, the first SIGINT or SIGTERM is a request, and the second ends the process at once.

    A request to one rank is one to all, and all hear of it at the same moment: nobody leaves while others wait for it.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, company: Company = ALONE) -> None:
        self.received: int | None = None  # by anybody, as far as has been asked
        self._own: int | None = None
        self._company = company

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in self.HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether there is a request. Ranks must ask together."""
        self.received = self._company.most(self._own or 0) or None
        return self.received is not None

    def attentive(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, for as long as nobody asks to stop."""
        for item in items:
            if self.asked():
                raise StopAsked
            yield item

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._own is not None:
            _write(SHOW_CURSOR)
            os._exit(128 + number)
        self._own = number
        if self._company.first:
            _write("\nstopping after this step, and saving; again to stop at once\n")


def _write(text: str) -> None:
    """Straight to the terminal: a handler may run in the middle of anything, a print included."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def refuse_nonfinite(result: StepResult) -> None:
    """A loss that is no number never comes back: stop, before it is saved as anything."""
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise UserError(
            f"the loss became {result.loss} at step {result.step} (gradient {result.grad_norm}, rate {result.lr:g})",
            f"the learning rate is probably too high: try --optim.lr {result.lr / 3:.2g}, or a longer warm-up",
        )
