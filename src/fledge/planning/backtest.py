"""Compare a forecast with what a finished run has measured."""

import statistics

from fledge.core.errors import UserError
from fledge.planning.forecast import Forecast
from fledge.planning.loss_forecast import Interval, final_bits_per_byte
from fledge.runs.run_folder import RunFolder
from fledge.tracking.events import Ended
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import EVENTS, read_events

Row = dict[str, float | None]


def compare(forecast: Forecast, run: RunFolder) -> dict[str, Row]:
    """{quantity: {predicted, measured, difference_percent}}; None where it was not recorded or not forecast.

    The row of bits_per_byte also has `low` and `high`, the ends of the interval.
    """
    rows: dict[str, Row] = {}
    for name, measured in measured_values(run).items():
        value = getattr(forecast, name)
        interval = value if isinstance(value, Interval) else None
        predicted = interval.expected if interval else value
        difference = 100 * (predicted / measured - 1) if measured and predicted is not None else None
        rows[name] = {"predicted": predicted, "measured": measured, "difference_percent": difference}
        if interval:
            rows[name] |= {"low": interval.low, "high": interval.high}
    return rows


def measured_values(run: RunFolder) -> dict[str, float | None]:
    """The quantities of a Forecast that the files of a run record; None where they do not."""
    metrics, (starts, ends) = read_metrics(run.folder), read_sessions(run)
    times, speeds = metrics.measured("train/step_seconds"), metrics.measured("train/tokens_per_second")
    finished = bool(ends) and ends[-1].reason == "finished"
    all_timed = finished and len(ends) == starts  # a process that was killed left no time
    memory = max((end.peak_memory or 0 for end in ends), default=0)
    return {
        "seconds": sum(end.seconds for end in ends) if all_timed else None,
        "step_seconds": statistics.median(times) if times else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory": memory or None,
        "bits_per_byte": final_bits_per_byte(run) if finished else None,
    }


def read_sessions(run: RunFolder) -> tuple[int, list[Ended]]:
    """How many processes have started to train this run, and the Ended events of those that were not killed."""
    events = list(read_events(run.folder))
    starts = sum(event["event"] == "Started" for event in events)
    if not starts:
        raise UserError(f"'{run.folder / EVENTS}' is missing or damaged", "restore it, or train the run again")
    ended = [event for event in events if event["event"] == "Ended"]
    return starts, [Ended(end["step"], end["reason"], end["seconds"], end.get("peak_memory")) for end in ended]
