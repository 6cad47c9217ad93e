"""Cut the record files of a run at a step, so that a run that continues from there writes the same files again."""

from pathlib import Path

from fledge.tracking.events import Event
from fledge.tracking.sinks.csv import METRICS, rewind_metrics
from fledge.tracking.sinks.jsonl import EVENTS, rewind_events
from fledge.tracking.sinks.samples import SAMPLES, rewrite_samples

RECORDS = (METRICS, EVENTS, SAMPLES)


def rewind(folder: Path, step: int, keep: tuple[type[Event], ...] = ()) -> None:
    """Remove what was recorded after `step`.

    Events of the kinds in `keep` stay: those that will not happen again, such as a rollback itself.
    """
    rewind_metrics(folder, step)
    rewind_events(folder, step, keep)
    rewrite_samples(folder)
