"""A finished run beside what a plan says of it: how far is the forecast off?"""

import json
import math
import statistics
from typing import Any

from fledge.base.errors import UserError
from fledge.base.files import human_bytes
from fledge.checkpoint.run import Run
from fledge.recipes.forecast import Forecast
from fledge.track.sinks import EVENTS, read_metrics
from fledge.track.terminal import span

Row = dict[str, float | None]


def happened(run: Run) -> dict[str, float | None]:
    """What the run's own files tell; None where they do not."""
    columns, ends = read_metrics(run.folder), endings(run)
    losses = [loss for loss in columns["val_loss"] if math.isfinite(loss)]
    times = [seconds for seconds in columns["step_seconds"] if math.isfinite(seconds)]
    speeds = [speed for speed in columns["tokens_per_second"] if math.isfinite(speed)]
    whole = bool(ends) and ends[-1]["reason"] == "finished"
    memory = max((end.get("memory") or 0 for end in ends), default=0)
    return {
        "seconds": sum(end["seconds"] for end in ends) if whole else None,
        "step_seconds": statistics.median(times) if times else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory": memory or None,
        "loss": losses[-1] if losses else None,
    }


def endings(run: Run) -> list[dict[str, Any]]:
    """Each time that a process worked on this run and came to an end of its own."""
    try:
        lines = (run.folder / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == "Ended"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"'{run.folder / EVENTS}' is missing or damaged", "restore it, or train the run anew") from None


def compare(forecast: Forecast, run: Run) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name, real in happened(run).items():
        said = getattr(forecast, name)
        off = 100 * (said / real - 1) if real else None
        rows[name] = {"predicted": said, "measured": real, "difference_percent": off}
    return rows


SAID = {
    "seconds": ("time", span),
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
