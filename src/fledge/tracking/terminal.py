"""A run as a person watches it: where it stands, how the loss falls, what the model writes by now.

On a terminal the view is redrawn in place; anywhere else it is plain lines. Writes to stderr only, so that
what a verb reports on stdout stays clean.
"""

import itertools
import math
import time
from typing import TYPE_CHECKING, TextIO

from fledge.core.formatting import format_duration, printable
from fledge.tracking.events import (
    Anomaly,
    Ended,
    Evaluated,
    Event,
    Notice,
    RolledBack,
    Sampled,
    Saved,
    Started,
    Stepped,
)

if TYPE_CHECKING:
    from fledge.tracking.live_view import LiveView

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int) -> str:
    """A curve in one line of text, the whole run squeezed into `width` signs."""
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return ""
    if len(values) > width:  # the mean of each stretch, so that no stretch is lost
        cuts = [len(values) * i // width for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((v - low) * scale)] for v in values)


class RunProgress:
    """What has happened so far, as far as a screen needs it."""

    def __init__(self) -> None:
        self.run = self.title = ""
        self.first = self.step = self.steps = 0
        self.last: Stepped | None = None
        self.judged: Evaluated | None = None
        self.best = math.inf
        self.losses: list[float] = []
        self.sample: Sampled | None = None
        self.saved: int | None = None
        self.began = time.monotonic()

    def hear(self, event: Event) -> None:
        match event:
            case Started():
                self.run, self.first, self.step, self.steps = event.run, event.step, event.step, event.steps
                how = f"{event.device}, {event.dtype}{', compiled' if event.compiled else ''}"
                self.title = f"{event.run}: {event.parameters:,} parameters on {how}"
                self.began = time.monotonic()
            case Stepped():
                self.last, self.step = event, event.step
                self.losses.append(event.loss)
            case Evaluated():
                self.judged, self.best = event, min(self.best, event.loss)
            case Sampled():
                self.sample = event
            case Saved():
                self.saved = event.step

    def remaining(self) -> float | None:
        """Seconds to go at the pace so far, evaluation and saving counted in."""
        done = self.step - self.first
        return (time.monotonic() - self.began) / done * (self.steps - self.step) if done > 0 else None


def news(event: Notice | Anomaly | RolledBack) -> str:
    """What a person should know, in a line or two."""
    match event:
        case Notice():
            return event.text
        case Anomaly():
            return (
                f"warning: step {event.step}: loss {event.loss:.4g}, gradient {event.grad_norm:.4g}, {event.what}"
                + (f"; it began in {event.where}" if event.where else "")
            )
        case RolledBack():
            first, last = event.batches
            return f"warning: {event.what}: back to step {event.step}, and past the text of {last - first + 1} steps"


class LineView:
    """For logs and pipes: a line when there is something to say, at most one every few seconds."""

    def __init__(self, stream: TextIO, pause: float = 5.0) -> None:
        self._stream = stream
        self._story = RunProgress()
        self._pause = pause
        self._spoke = -math.inf

    def record(self, event: Event) -> None:
        self._story.hear(event)
        match event:
            case Started():
                self._say(self._story.title)
            case Stepped() if time.monotonic() - self._spoke > self._pause or event.step == self._story.steps:
                left = self._story.remaining()
                self._say(
                    f"step {event.step:,}/{self._story.steps:,}  loss {event.loss:.4f}  rate {event.lr:.2e}"
                    f"  {event.tokens_per_second:,.0f} tokens/s" + (f"  {format_duration(left)} left" if left else "")
                )
            case Evaluated():
                self._say(f"step {event.step:,}  {event.split} loss {event.loss:.4f}  ({event.tokens:,} tokens)")
            case Sampled():
                text = printable(event.prompt + event.text)
                self._say(f"sample after step {event.step}:\n    " + "\n    ".join(text.splitlines()[:9]))
            case Notice() | Anomaly() | RolledBack():
                self._say(news(event))
            case Ended():
                self._say(f"{event.reason} at step {event.step:,} after {format_duration(event.seconds)}")

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
        self._spoke = time.monotonic()

    def close(self) -> None: ...


def view(stream: TextIO) -> "LiveView | LineView":
    """Redrawing takes rich, a terminal that can, and room."""
    try:
        from rich.console import Console

        from fledge.tracking.live_view import LiveView
    except ImportError:
        return LineView(stream)
    console = Console(file=stream)
    can = console.is_terminal and not console.is_dumb_terminal and console.width >= 40 and console.height >= 16
    return LiveView(console) if can else LineView(stream)
