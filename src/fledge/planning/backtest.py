"""A finished run beside what a plan says of it: how far is the forecast off?"""

import json
import math
import statistics

from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.core.formatting import format_duration
from fledge.planning.forecast import Forecast
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Ended
from fledge.tracking.sinks import EVENTS, read_metrics

Row = dict[str, float | None]


def measured_values(run: RunFolder) -> dict[str, float | None]:
    """What the run's own files tell; None where they do not."""
    columns, (begun, ends) = read_metrics(run.folder), sessions(run)
    losses = [loss for loss in columns["val_loss"] if math.isfinite(loss)]
    times = [seconds for seconds in columns["step_seconds"] if math.isfinite(seconds)]
    speeds = [speed for speed in columns["tokens_per_second"] if math.isfinite(speed)]
    finished = bool(ends) and ends[-1].reason == "finished"
    whole = finished and len(ends) == begun  # a process that was killed took its time with it
    memory = max((end.memory or 0 for end in ends), default=0)
    return {
        "seconds": sum(end.seconds for end in ends) if whole else None,
        "step_seconds": statistics.median(times) if times else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory": memory or None,
        "loss": losses[-1] if losses and finished else None,  # a plan speaks of the end
    }


def sessions(run: RunFolder) -> tuple[int, list[Ended]]:
    """How often a process began to work on this run, and each time that one came to an end of its own."""
    try:
        lines = (run.folder / EVENTS).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        told = [(event.pop("event"), event) for event in map(json.loads, lines)]
        ends = [Ended(e["step"], e["reason"], e["seconds"], e.get("memory")) for name, e in told if name == "Ended"]
        return sum(name == "Started" for name, _ in told), ends
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"'{run.folder / EVENTS}' is missing or damaged", "restore it, or train the run anew") from None


def compare(forecast: Forecast, run: RunFolder) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name, real in measured_values(run).items():
        said = getattr(forecast, name)
        off = 100 * (said / real - 1) if real else None
        rows[name] = {"predicted": said, "measured": real, "difference_percent": off}
    return rows


SAID = {
    "seconds": ("time", format_duration),
    "step_seconds": ("a step", lambda seconds: f"{1000 * seconds:,.1f} ms"),
    "tokens_per_second": ("tokens/s", lambda speed: f"{speed:,.0f}"),
    "memory": ("memory", lambda size: human_bytes(int(size))),
    "loss": ("loss", lambda loss: f"{loss:.4f}"),
}


def comparison_in_words(rows: dict[str, Row]) -> str:
    lines = [f"{'':<10}{'predicted':>14}{'measured':>14}{'difference':>12}"]
    for name, (title, show) in SAID.items():
        row = rows[name]
        cells = ["-" if row[key] is None else show(row[key]) for key in ("predicted", "measured")]
        off = row["difference_percent"]
        lines.append(f"{title:<10}{cells[0]:>14}{cells[1]:>14}{'-' if off is None else f'{off:+.1f} %':>12}")
    return "\n".join(lines)
