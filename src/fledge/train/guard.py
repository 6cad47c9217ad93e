"""What may go wrong between steps: a request to stop, and numbers that are none."""

import contextlib
import math
import os
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Self, TypeVar

import torch
from torch import nn

from fledge.base.errors import UserError
from fledge.train.step import StepResult

T = TypeVar("T")
SHOW_CURSOR = "\x1b[?25h"


class StopAsked(Exception):
    """Raised by long work between steps when a signal has come: what it was doing will be done again."""


class StopSignals:
    """While this is entered, the first SIGINT or SIGTERM is a request, and the second ends the process at once."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in self.HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
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
            _write(SHOW_CURSOR)
            os._exit(128 + number)
        self.received = number
        _write("\nstopping after this step, and saving; again to stop at once\n")


def _write(text: str) -> None:
    """Straight to the terminal: a handler may run in the middle of anything, a print included."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def refuse_nonfinite(result: StepResult) -> None:
    """A number that is none never becomes one again: stop, before it is saved as anything."""
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        name, value = ("gradient", result.grad_norm) if math.isfinite(result.loss) else ("loss", result.loss)
        raise diverged(f"the {name} became {value}", result.step, f"--optim.lr {result.lr / 3:.2g}")


def refuse_ruined(model: nn.Module, step: int) -> None:
    """Loss and gradient are those before the update: whether it broke the weights shows in the weights alone."""
    if not torch.stack([p.isfinite().all() for p in model.parameters()]).all():
        raise diverged("the weights became too large for numbers", step, "a smaller --optim.lr")


def diverged(what: str, step: int, rate: str) -> UserError:
    advice = f"the learning rate is probably too high: train anew with {rate}, beside Muon a smaller --optim.muon_lr"
    return UserError(f"{what} at step {step}", f"{advice}, or a longer warm-up")
