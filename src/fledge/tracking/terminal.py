"""The run in the terminal, on stderr: a live view where the terminal can redraw, plain lines anywhere else."""

import itertools
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from fledge.core.formatting import counted, format_duration, printable
from fledge.core.progress import terminal_console
from fledge.tracking.events import Anomaly, Ended, Event, Metrics, Notice, RolledBack, Sample, Started

if TYPE_CHECKING:
    from fledge.tracking.live_view import LiveView

BARS = "▁▂▃▄▅▆▇█"
TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"
HIDDEN = {"train/tokens", "train/step_seconds", "val/perplexity", "val/seconds"}
FORMATS = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "grad_norm": "grad norm {:.2f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "best": "best {:.4f}",
    "bits_per_byte": "bits per byte {:.4f}",
    "accuracy": "accuracy {:.1%}",
}
SAMPLE_LINES = 9


def format_metrics(values: Mapping[str, float]) -> dict[str, str]:
    """A line for each group of names: `train` → `loss 2.3456  lr 1.00e-03`. Unknown names are shown as they are."""
    groups: dict[str, str] = {}
    for name, value in values.items():
        group, _, metric = name.rpartition("/")
        if name not in HIDDEN:
            shown = FORMATS[metric].format(value) if metric in FORMATS else f"{metric} {value:.4g}"
            groups[group] = f"{groups[group]}  {shown}" if group in groups else shown
    return groups


def sparkline(values: list[float], width: int) -> str:
    """The curve of `values` in one line of at most `width` characters."""
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return ""
    if len(values) > width:  # the mean of each of `width` pieces
        cuts = [len(values) * i // width for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((v - low) * scale)] for v in values)


class RunProgress:
    """What a view shows: the position in the run, the latest metrics, the loss curve and the latest sample."""

    def __init__(self) -> None:
        self.title = ""
        self.first = self.step = self.steps = 0
        self.metrics: dict[str, float] = {}
        self.losses: list[float] = []
        self.sample: Sample | None = None
        self.started = time.monotonic()

    def update(self, event: Event) -> None:
        match event:
            case Started():
                self.first, self.step, self.steps = event.step, event.step, event.steps
                device = f"{event.device}, {event.dtype}{', compiled' if event.compiled else ''}"
                self.title = f"{event.run}: {event.parameters:,} parameters on {device}"
                self.started = time.monotonic()
            case Metrics():
                self.metrics |= event.values
                if VAL_LOSS in event.values:
                    self.metrics["val/best"] = min(event.values[VAL_LOSS], self.metrics.get("val/best", math.inf))
                if TRAIN_LOSS in event.values:
                    self.step = event.step
                    self.losses.append(event.values[TRAIN_LOSS])
            case Sample():
                self.sample = event

    def seconds_left(self) -> float | None:
        """At the average speed so far, including evaluation and saving."""
        done = self.step - self.first
        return (time.monotonic() - self.started) / done * (self.steps - self.step) if done > 0 else None


def describe_event(event: Notice | Anomaly | RolledBack) -> str:
    match event:
        case Notice():
            return event.text
        case Anomaly():
            origin = f"; first in {event.origin}" if event.origin else ""
            numbers = f"loss {event.loss:.4g}, gradient norm {event.grad_norm:.4g}"
            return f"warning: step {event.step}: {event.reason} ({numbers}){origin}"
        case RolledBack():
            first, last = event.skipped_batches
            skipped = counted(last - first + 1, "batch", "batches")
            return f"warning: {event.reason}: rolled back to step {event.step}, skipping {skipped}"


def sample_lines(sample: Sample) -> list[str]:
    """The first lines of a sample, safe to print."""
    return printable(sample.prompt + sample.text).splitlines()[:SAMPLE_LINES]


class LineView:
    """Plain lines for logs and pipes. Training metrics appear at most once every `interval` seconds."""

    def __init__(self, stream: TextIO, interval: float = 5.0) -> None:
        self._stream = stream
        self._progress = RunProgress()
        self._interval = interval
        self._last_line = -math.inf

    def record(self, event: Event) -> None:
        self._progress.update(event)
        match event:
            case Started():
                self._print(self._progress.title)
            case Metrics():
                self._print_metrics(event)
            case Sample():
                self._print(f"sample after step {event.step:,}:\n    " + "\n    ".join(sample_lines(event)))
            case Notice() | Anomaly() | RolledBack():
                self._print(describe_event(event))
            case Ended():
                self._print(f"{event.reason} at step {event.step:,} after {format_duration(event.seconds)}")

    def _print_metrics(self, event: Metrics) -> None:
        steps, due = self._progress.steps, time.monotonic() - self._last_line > self._interval
        for group, text in format_metrics(event.values).items():
            if group != "train":
                self._print(f"step {event.step:,}  {group}  {text}")
            elif due or event.step == steps:
                left = self._progress.seconds_left()
                rest = f"  {format_duration(left)} left" if left else ""
                self._print(f"step {event.step:,}/{steps:,}  {text}{rest}")

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
        self._last_line = time.monotonic()

    def close(self) -> None: ...


def terminal_view(stream: TextIO) -> "LiveView | LineView":
    """The live view where rich is installed and the terminal can move its cursor and is large enough."""
    console = terminal_console(stream)
    if console is None or console.is_dumb_terminal or console.width < 40 or console.height < 16:
        return LineView(stream)
    from fledge.tracking.live_view import LiveView

    return LiveView(console)
