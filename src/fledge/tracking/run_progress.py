"""The state of a run, built from its events, for a view. They come from training, or from the run's folder."""

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field, replace

from fledge.core.formatting import counted, format_duration
from fledge.tracking.chart import Curve
from fledge.tracking.events import (
    Activity,
    Anomaly,
    Ended,
    Event,
    Metrics,
    Notice,
    RolledBack,
    Sample,
    Started,
    StepsPlanned,
    StoppedEarly,
)

TRAIN_LOSS, VAL_LOSS = "train/loss", "val/loss"
ROLLOUT_REWARD, VAL_REWARD = "rollout/reward", "val/reward"
RECENT_STEPS = 15  # logged ones, whose median time is that of the steps to come
MIN_STEPS_TIMED = 2
MOST_SAMPLES = 64  # that are kept: beyond, every second one is dropped
MESSAGES = 3  # the newest ones
TOLD_CHANGE = 0.1  # of the number of steps: smaller ones only move the end of the bar


@dataclass(frozen=True)
class Best:
    """The best evaluation so far."""

    step: int
    value: float


@dataclass
class RunProgress:
    """The position in the run, what it is doing, the latest metrics, curves and samples."""

    start: Started = field(default_factory=lambda: Started("", 0, 0, 0, "", "", False))
    step: int = 0
    activity: str = "starting"  # "": training
    metrics: dict[str, float] = field(default_factory=dict)
    train: Curve = field(default_factory=Curve)  # rewards, where answers are rewarded; else losses
    val: Curve = field(default_factory=Curve)
    best: Best | None = None
    samples: list[Sample] = field(default_factory=list)  # oldest first
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=MESSAGES))
    rollbacks: int = 0
    stopped_early: StoppedEarly | None = None
    ended: Ended | None = None
    now: float = 0.0  # when the last event happened, in seconds
    _step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _sample_seconds: float = 0.0
    _activity_began: float = 0.0
    _logged_step: int = 0
    _logged_at: float = 0.0
    _aside_seconds: float = 0.0  # in activities since then

    @property
    def steps(self) -> int:
        return self.start.steps

    @property
    def title(self) -> str:
        start = self.start
        if not start.device:  # only metrics.csv is left
            return start.run
        device = f"{start.device}, {start.dtype}{', compiled' if start.compiled else ''}"
        return f"{start.run}: {start.parameters:,} parameters on {device}"

    @property
    def is_rewarded(self) -> bool:
        """Whether the curves are rewards: the higher, the better."""
        return VAL_REWARD in self.metrics or ROLLOUT_REWARD in self.metrics

    def update(self, event: Event, at: float | None = None) -> None:
        """at: when it happened, in seconds; None: now."""
        self.now = time.monotonic() if at is None else at
        match event:
            case Started():
                self.start, self.step, self.activity, self.ended = event, event.step, "starting", None
                self.stopped_early = None
                self._step_seconds.clear()
                self._logged_step, self._logged_at, self._aside_seconds = event.step, self.now, 0.0
            case Activity():
                self.activity, self._activity_began = event.name, self.now
            case Metrics():
                self._update_metrics(event)
            case Sample():
                self.activity = ""
                self.samples = [*(self.samples[::2] if len(self.samples) >= MOST_SAMPLES else self.samples), event]
                self._sample_seconds = self.now - self._activity_began
                self._aside_seconds += self._sample_seconds
            case Notice() | Anomaly() | RolledBack() | StoppedEarly() | StepsPlanned():
                if text := describe_event(event):
                    self.messages.append(text)
                if isinstance(event, RolledBack):
                    self._rewind(event.step)
                elif isinstance(event, StepsPlanned):
                    self.start = replace(self.start, steps=event.steps)
                elif isinstance(event, StoppedEarly):
                    self.stopped_early = event
            case Ended():
                self.ended, self.step, self.activity = event, event.step, ""

    def _rewind(self, step: int) -> None:
        """After a rollback: the evaluations of the undone steps are no best."""
        self.rollbacks += 1
        for curve in (self.train, self.val):
            curve.rewind(step)
        if self.best and self.best.step > step:
            choose = max if self.is_rewarded else min
            at, value = choose(self.val.all, key=lambda point: point[1], default=(0, math.nan))
            self.best = Best(int(at), value) if math.isfinite(value) else None

    def _update_metrics(self, event: Metrics) -> None:
        self.activity = ""
        self.metrics |= event.values
        reward, loss = event.values.get(VAL_REWARD), event.values.get(VAL_LOSS)
        if (value := loss if reward is None else reward) is not None and math.isfinite(value):
            self.val.add(event.step, value)
            if self.best is None or (value > self.best.value if reward is not None else value < self.best.value):
                self.best = Best(event.step, value)
            self.metrics["val/best"] = self.best.value
        if TRAIN_LOSS not in event.values:
            self._aside_seconds += self.now - self._activity_began
            return
        self.step = event.step
        self.train.add(event.step, event.values.get(ROLLOUT_REWARD, event.values[TRAIN_LOSS]))
        if event.step > self.start.step + 1:  # the first one compiles and allocates
            self._step_seconds.append(self._seconds_of(event))
        self._logged_step, self._logged_at, self._aside_seconds = event.step, self.now, 0.0

    def _seconds_of(self, event: Metrics) -> float:
        """Of a step like this one. Where some steps generate answers and others do not, the mean since the last."""
        if ROLLOUT_REWARD not in event.values:
            return event.values.get("train/step_seconds", math.nan)
        elapsed = self.now - self._logged_at - self._aside_seconds
        return elapsed / max(1, event.step - self._logged_step)

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


def describe_event(event: Notice | Anomaly | RolledBack | StoppedEarly | StepsPlanned) -> str:
    """What is told of an event; "": not worth a message."""
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
        case StepsPlanned():
            return _describe_steps(event)
        case StoppedEarly():
            waited = f"no better {event.measure} in {counted(event.evaluations, 'evaluation')}"
            best = f"the best is {event.best:.4f} at step {event.best_step:,}"
            return f"stopped early at step {event.step:,}: {waited}; {best}"


def _describe_steps(event: StepsPlanned) -> str:
    if event.steps == event.before or not math.isfinite(event.seconds_left):  # of a damaged file
        return ""
    if event.seconds_left <= 0:
        return f"the time is up: step {event.steps:,} is the last one, not {event.before:,}"
    if abs(event.steps - event.before) < TOLD_CHANGE * event.before:
        return ""
    measured = f"a step takes {event.step_seconds:.2g} s, and {format_duration(event.seconds_left)} are left"
    memorized = "; more passes over the text would mostly memorize it" if event.limited else ""
    return f"{counted(event.steps, 'step')} in all instead of {event.before:,}: {measured}{memorized}"
