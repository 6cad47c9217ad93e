"""metrics.csv as NumPy arrays: read fast, put on an axis, smoothed, and reduced to the points that can be seen."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fledge.tracking.events import Metrics, Started
from fledge.tracking.metrics_table import Array, parse_rows
from fledge.tracking.sinks.csv import METRICS, STEP, read_metrics
from fledge.tracking.sinks.jsonl import read_events

Columns = Mapping[str, Array]
XAxis = Literal["step", "tokens", "time"]
TOKENS = "train/tokens"
POINTS = 3200  # of a curve


def read_columns(folder: Path) -> dict[str, Array]:
    """The columns of metrics.csv, as `read_metrics` has them, with rising steps: a million rows take a second.

    Where the steps go back, as after a rollback, the later rows replace the earlier ones.
    """
    columns = _read_rows(folder / METRICS)
    if columns is None:
        columns = {name: np.array(values, dtype=np.float64) for name, values in read_metrics(folder).items()}
    steps = columns[STEP]
    later = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.inf)
    kept = steps < later
    return columns if kept.all() else {name: values[kept] for name, values in columns.items()}


def _read_rows(path: Path) -> dict[str, Array] | None:
    """None where there is no file, or no header."""
    content = path.read_bytes() if path.exists() else b""
    start, end = content.find(b"\n") + 1, content.rfind(b"\n") + 1  # the last line may be growing
    names = content[: max(start - 1, 0)].decode("utf-8", "replace").split(",")
    return parse_rows(names, memoryview(content)[start:end]).columns if names[0] == STEP else None


def x_values(folder: Path, columns: Columns, axis: XAxis) -> Array:
    """Where each row stands on this axis: its step, the tokens trained on, or the seconds of training until then.

    Tokens and time are interpolated where a row has none. The pauses between the processes of a run are left out.
    """
    steps = columns[STEP]
    if axis == "step":
        return steps
    if axis == "time":
        known, values = training_seconds(folder)
    else:
        tokens = columns.get(TOKENS, np.full(len(steps), np.nan))
        measured = np.isfinite(tokens)
        known, values = steps[measured], tokens[measured]
    if not len(known):
        return np.full(len(steps), np.nan)
    return np.interp(steps, np.append(0.0, known), np.append(0.0, values))


def training_seconds(folder: Path) -> tuple[Array, Array]:
    """Steps, rising, and the seconds of training until each was logged; from events.jsonl."""
    steps: list[float] = []
    seconds: list[float] = []
    begun = before = 0.0
    for kind, step, time in _timed_events(folder):
        while steps and kind == Started.__name__ and steps[-1] > step:  # their work was lost: it is done again
            steps.pop()
            seconds.pop()
        if kind == Started.__name__:
            begun, before = time, seconds[-1] if seconds else 0.0
        elif not steps or step > steps[-1]:
            steps.append(step)
            seconds.append(max(before + time - begun, before, *seconds[-1:]))  # a clock may be set back
    return np.array(steps), np.array(seconds)


def _timed_events(folder: Path) -> Iterator[tuple[str, int, float]]:
    for event in read_events(folder, Started, Metrics):
        if isinstance(event.get("time"), int | float):
            yield event["event"], event["step"], event["time"]


def smooth(values: Array, weight: float) -> Array:
    """Exponential moving average, as TensorBoard smooths: `weight` is the share of what came before, 0 to 1.

    It is unbiased: the first values do not lean towards zero.
    """
    average, norm, result = 0.0, 0.0, np.empty_like(values)
    for place, value in enumerate(values):
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result[place] = average / norm
    return result


def visible_points(x: Array, y: Array, points: int = POINTS) -> NDArray[np.intp]:
    """The indices of about `points` points that a line can show: first, lowest, highest and last of each bin of x.

    x: rising, and on a logarithmic axis its logarithm. So a single spike among a million points is kept, and where
    values are not finite, one of them, for the gap.
    """
    if len(x) <= points:
        return np.arange(len(x))
    starts = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], max(points // 4, 1), endpoint=False)))
    kept = {0, len(x) - 1}
    for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        part = y[first:end]
        gap = ~np.isfinite(part)
        if gap.any():
            kept.add(first + int(gap.argmax()))
            if gap.all():
                continue
        lowest, highest = np.where(gap, np.inf, part).argmin(), np.where(gap, -np.inf, part).argmax()
        kept |= {first, first + int(lowest), first + int(highest), end - 1}
    return np.array(sorted(kept), dtype=np.intp)
