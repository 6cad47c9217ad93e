"""Where the time of training goes: the metrics `time/…`, and the fraction of the machine's peak, `train/mfu`.

    time/data                seconds per step: waiting for the batch. Online alignment generates its answers here
    time/forward_backward    seconds per step: loss, gradients, clipping
    time/optimizer           seconds per step: the update of the weights
    time/evaluation, time/sampling, time/saving, time/statistics      seconds since the row of metrics before

Steps are the mean of all since the row before. Nothing waits for a GPU here: its optimizer is timed by CUDA events,
which are read a step later, and forward and backward passes are the rest of the step.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch

PER_STEP = ("data", "forward_backward", "optimizer")


class StepTime:
    """`peak_flops`: called once, when it is first needed; `token_flops`: of a token in training."""

    def __init__(
        self, device: str = "cpu", token_flops: float = 0.0, peak_flops: Callable[[], float | None] = lambda: None
    ) -> None:
        self._device, self._token_flops, self._peak_flops = device, token_flops, peak_flops
        self._seconds: dict[str, float] = defaultdict(float)
        self._steps, self._step_seconds, self._tokens = 0, 0.0, 0
        self._update: tuple[torch.cuda.Event, torch.cuda.Event] | None = None  # begin and end of the last one
        self.total: dict[str, float] = defaultdict(float)  # seconds of a part since the beginning
        self._count: dict[str, int] = defaultdict(int)  # how often it was measured

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self._seconds[part] += seconds
            self.total[part] += seconds
            self._count[part] += 1

    @contextlib.contextmanager
    def measure_update(self) -> Iterator[None]:
        """Of the weights. Called when the GPU has nothing left to do, so that the update before is over."""
        if self._device != "cuda":
            with self.measure("optimizer"):
                yield
            return
        if self._update:
            begin, end = self._update
            self._seconds["optimizer"] += begin.elapsed_time(end) / 1000
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._update = begin, end

    def add_tokens(self, count: int) -> None:
        """That are computed, on all ranks: padding too, as it costs the same."""
        self._tokens += count

    def add_step(self, seconds: float) -> None:
        self._steps, self._step_seconds = self._steps + 1, self._step_seconds + seconds

    def mean(self, part: str) -> float:
        """Seconds that a part has taken, on average since the beginning; 0: it was never measured."""
        return self.total[part] / max(1, self._count[part])

    def metrics(self) -> dict[str, float]:
        """Since the last call."""
        spent = self._seconds
        found = {f"time/{part}": seconds for part, seconds in spent.items() if part not in PER_STEP}
        if self._steps:
            inside = spent["data"] + spent["optimizer"] + spent["statistics"]
            spent["forward_backward"] = max(0.0, self._step_seconds - inside)
            found |= {f"time/{part}": spent[part] / self._steps for part in PER_STEP}
            if (peak := self._peak()) and self._token_flops:
                found["train/mfu"] = self._token_flops * self._tokens / (peak * self._step_seconds)
        self._seconds = defaultdict(float)
        self._steps, self._step_seconds, self._tokens = 0, 0.0, 0
        return found

    def _peak(self) -> float | None:
        peak = self._peak_flops()
        self._peak_flops = lambda: peak
        return peak
