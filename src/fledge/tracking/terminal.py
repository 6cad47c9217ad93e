"""The run in the terminal, on stderr: a live view where the terminal can redraw, plain lines anywhere else."""

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from fledge.core.formatting import counted, format_duration, printable
from fledge.core.progress import terminal_console
from fledge.tracking.events import Activity, Anomaly, Ended, Event, Metrics, Notice, RolledBack, Sample, Started

if TYPE_CHECKING:
    from fledge.tracking.live_view import LiveView

BARS = "▁▂▃▄▅▆▇█"
TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"
HIDDEN = {"tokens", "step_seconds", "perplexity", "seconds", "loss_margin", "fraction"}
GROUPS = {"val_whole": "val, whole split", "val_best": "val, whole split, best"}
FORMATS = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "grad_norm": "grad norm {:.2f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "best": "best {:.4f}",
    "bits_per_byte": "bits per byte {:.4f}",
    "accuracy": "accuracy {:.1%}",
    "step": "step {:,.0f}",
}
SAMPLE_LINES = 9
RECENT_STEPS = 15  # logged ones, whose median time is that of the steps to come
MIN_STEPS_TIMED = 2


def format_metrics(values: Mapping[str, float]) -> dict[str, str]:
    """A line for each group of names: `train` → `loss 2.3456  lr 1.00e-03`. Unknown names are shown as they are.

    The loss of a sample has its 95 % interval: `loss 2.3456 ± 0.0123`.
    """
    groups: dict[str, str] = {}
    for name, value in values.items():
        group, _, metric = name.rpartition("/")
        if metric in HIDDEN or (group == "val_best" and values.get("val_whole/loss") == values["val_best/loss"]):
            continue
        shown = FORMATS[metric].format(value) if metric in FORMATS else f"{metric} {value:.4g}"
        if metric == "loss" and (margin := values.get(f"{group}/loss_margin")):
            shown += f" ± {margin:.4f}"
        group = GROUPS.get(group, group)
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
    """What a view shows: the position in the run, what it is doing, the latest metrics, the loss curve and a sample."""

    def __init__(self) -> None:
        self.title = ""
        self.start = Started("", 0, 0, 0, "", "", False)
        self.step = 0
        self.activity = "starting"  # "": training
        self.metrics: dict[str, float] = {}
        self.losses: list[float] = []
        self.sample: Sample | None = None
        self._step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self._sample_seconds = 0.0
        self._activity_began = 0.0

    @property
    def steps(self) -> int:
        return self.start.steps

    def update(self, event: Event) -> None:
        match event:
            case Started():
                self.start, self.step, self.activity = event, event.step, "starting"
                device = f"{event.device}, {event.dtype}{', compiled' if event.compiled else ''}"
                self.title = f"{event.run}: {event.parameters:,} parameters on {device}"
                self._step_seconds.clear()
            case Activity():
                self.activity, self._activity_began = event.name, time.monotonic()
            case Metrics():
                self.activity = ""
                self.metrics |= event.values
                if VAL_LOSS in event.values:
                    self.metrics["val/best"] = min(event.values[VAL_LOSS], self.metrics.get("val/best", math.inf))
                if TRAIN_LOSS in event.values:
                    self.step = event.step
                    self.losses.append(event.values[TRAIN_LOSS])
                    if event.step > self.start.step + 1:  # the first one compiles and allocates
                        self._step_seconds.append(event.values.get("train/step_seconds", math.nan))
            case Sample():
                self.activity, self.sample = "", event
                self._sample_seconds = time.monotonic() - self._activity_began

    def seconds_left(self) -> float | None:
        """From the median of recent steps and what evaluations and samples took; None before a few steps are known."""
        if len(self._step_seconds) < MIN_STEPS_TIMED:
            return None
        evaluations = self._times_left(self.start.eval_every) + self.start.whole_split_passes
        return (
            (self.steps - self.step) * statistics.median(self._step_seconds)
            + evaluations * self.metrics.get("val/seconds", 0.0)
            + self._times_left(self.start.sample_every) * self._sample_seconds
        )

    def _times_left(self, every: int) -> int:
        """How often something that is due every so many steps, and at the last, is still to come."""
        return -(-self.steps // every) - self.step // every if every else 0


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
    """The lines of a sample, safe to print."""
    return printable(sample.prompt + sample.text).splitlines()


class LineView:
    """Plain lines for logs and pipes. Training metrics appear at most once every `interval` seconds."""

    def __init__(self, stream: TextIO, interval: float = 5.0) -> None:
        self._stream = stream
        self._progress = RunProgress()
        self._interval = interval
        self._last_training_line = time.monotonic()

    def record(self, event: Event) -> None:
        self._progress.update(event)
        match event:
            case Started():
                self._print(self._progress.title)
            case Metrics():
                self._print_metrics(event)
            case Sample():
                self._print(
                    f"sample after step {event.step:,}:\n    " + "\n    ".join(sample_lines(event)[:SAMPLE_LINES])
                )
            case Notice() | Anomaly() | RolledBack():
                self._print(describe_event(event))
            case Ended():
                self._print(f"{event.reason} at step {event.step:,} after {format_duration(event.seconds)}")

    def _print_metrics(self, event: Metrics) -> None:
        steps, due = self._progress.steps, time.monotonic() - self._last_training_line > self._interval
        for group, text in format_metrics(event.values).items():
            if group != "train":
                self._print(f"step {event.step:,}  {group}  {text}")
            elif due or event.step == steps:
                left = self._progress.seconds_left()
                rest = f"  {format_duration(left)} left" if left and event.step < steps else ""
                self._print(f"step {event.step:,}/{steps:,}  {text}{rest}")
                self._last_training_line = time.monotonic()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None: ...


def terminal_view(stream: TextIO) -> "LiveView | LineView":
    """The live view where rich is installed and the terminal can move its cursor and is large enough."""
    console = terminal_console(stream)
    if console is None or console.is_dumb_terminal or console.width < 40 or console.height < 16:
        return LineView(stream)
    from fledge.tracking.live_view import LiveView

    return LiveView(console)
