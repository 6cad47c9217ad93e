"""Compare a forecast with what a finished run has measured."""

import statistics
from collections.abc import Mapping
from typing import Any

from fledge.core.errors import UserError
from fledge.planning.loss_forecast import final_bits_per_byte
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Ended, Started
from fledge.tracking.sinks.csv import MetricsTable, read_metrics
from fledge.tracking.sinks.jsonl import EVENTS, read_events

Row = dict[str, float | None]


def compare(forecast: Mapping[str, Any], run: RunFolder, metrics: MetricsTable | None = None) -> dict[str, Row]:
    """{quantity: {predicted, measured, difference_percent}}; None where it was not recorded or not forecast.

    forecast: a `Forecast` as a dictionary, as run.json holds it. metrics: of the run, where they are known already.
    The row of bits_per_byte also has `low` and `high`, the ends of the interval.
    """
    parts, seconds = forecast.get("parts"), forecast.get("seconds")
    if seconds and isinstance(parts, Mapping):
        fit = parts.get("ngrams") or 0.0  # it is made before the run counts its time
        forecast = {**forecast, "seconds": seconds - fit}
    rows: dict[str, Row] = {}
    for name, measured in measured_values(run, read_metrics(run.folder) if metrics is None else metrics).items():
        value = forecast.get(name)
        interval = value if isinstance(value, Mapping) else None
        predicted = interval["expected"] if interval else value
        difference = 100 * (predicted / measured - 1) if measured and predicted is not None else None
        rows[name] = {"predicted": predicted, "measured": measured, "difference_percent": difference}
        if interval:
            rows[name] |= {"low": interval["low"], "high": interval["high"]}
    return rows


def measured_values(run: RunFolder, metrics: MetricsTable) -> dict[str, float | None]:
    """The quantities of a Forecast that the files of a run record; None where they do not."""
    starts, ends = read_sessions(run)
    times, speeds = metrics.measured("train/step_seconds"), metrics.measured("train/tokens_per_second")
    finished = bool(ends) and ends[-1].reason == "finished"
    all_timed = finished and len(ends) == starts  # a process that was killed left no time
    memory = max((end.peak_memory or 0 for end in ends), default=0)
    return {
        "seconds": sum(end.seconds for end in ends) if all_timed else None,
        "step_seconds": statistics.median(times) if times else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory": memory or None,
        "bits_per_byte": final_bits_per_byte(run, metrics) if finished else None,
    }


def read_sessions(run: RunFolder) -> tuple[int, list[Ended]]:
    """How many processes have started to train this run, and the Ended events of those that were not killed."""
    events = list(read_events(run.folder, Started, Ended))
    starts = sum(event["event"] == "Started" for event in events)
    if not starts:
        raise UserError(f"'{run.folder / EVENTS}' is missing or damaged", "restore it, or train the run again")
    ended = [event for event in events if event["event"] == "Ended"]
    return starts, [Ended(end["step"], end["reason"], end["seconds"], end.get("peak_memory")) for end in ended]
